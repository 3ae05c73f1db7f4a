"""The options of a callback, and their defaults."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from ..errors import ConfigurationError
from ..models.events import DeadLetterHandler


class HookOptions(TypedDict, total=False):
    """Options of a callback.

    Keys:
        timeout: Seconds for one call; 10 by default.
        retries: Maximum number of further calls after a failed call; 3 by default.
        concurrency: Maximum number of concurrent calls, for different dialogs; 16 by default.
        max_queue: Maximum number of queued events and updates being sent; 10,000 by default.
        overflow: Effect of a full queue. ``"wait"``, the default, delays the sending of updates.
            ``"dead_letter"`` passes the events to the dead-letter handler.
        on_dead_letter: Function that the client calls with a `DeadLetter` for each event that the
            callback did not handle.
    """

    timeout: float
    retries: int
    concurrency: int
    max_queue: int
    overflow: Literal["wait", "dead_letter"]
    on_dead_letter: DeadLetterHandler | None


def validate_callback(role: str, function: object, argument: str) -> str:
    """Return the name of a function that will be called in the background with one argument.

    Args:
        role: Role of the function in messages.
        argument: Name of its argument in messages.

    Raises:
        TypeError: It is not callable, cannot be called with one positional argument, or is a
            generator function, whose body would never run.
    """
    if not callable(function):
        raise TypeError(f"{role} must be callable, not {type(function).__name__}")
    name: str = getattr(function, "__qualname__", type(function).__name__)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{role} cannot be used: {name} is a generator function, whose body would never "
            "run; use a function without yield"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some functions that are not written in Python have none.
        return name
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{role} is called with one argument, {argument}; {name} does not take that ({error}). "
            "Bind other arguments with functools.partial."
        ) from None
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackOptions:
    """`HookOptions` with their defaults, validated; raises `ConfigurationError` or TypeError."""

    timeout: float = 10.0
    retries: int = 3
    concurrency: int = 16
    max_queue: int = 10_000
    overflow: Literal["wait", "dead_letter"] = "wait"
    on_dead_letter: DeadLetterHandler | None = None

    def __post_init__(self) -> None:
        if self.on_dead_letter is not None:
            validate_callback("on_dead_letter", self.on_dead_letter, "the dead letter")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise ConfigurationError(
                f"timeout={self.timeout!r}: must be a positive number of seconds"
            )
        if self.retries < 0 or self.concurrency < 1 or self.max_queue < 1:
            raise ConfigurationError(
                "retries must be at least 0, concurrency and max_queue at least 1"
            )
        if self.overflow not in ("wait", "dead_letter"):
            raise ConfigurationError(f'overflow={self.overflow!r}: must be "wait" or "dead_letter"')
