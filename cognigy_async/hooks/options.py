"""The options of a callback, and their defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from ..errors import ConfigurationError
from ..models.events import DeadLetterHandler


class HookOptions(TypedDict, total=False):
    """Options of a callback.

    Keys:
        timeout: Seconds for one call; 10.
        retries: Further calls after a failed one; 3.
        concurrency: Maximum number of concurrent calls, for different dialogs; 16.
        max_queue: Maximum number of events with a slot; 10,000.
        overflow: Effect of a full queue. ``"wait"``, the default, delays the sending of updates;
            ``"dead_letter"`` passes the events to the dead-letter handler.
        on_dead_letter: Called with a `DeadLetter` for each event that could not be delivered.
    """

    timeout: float
    retries: int
    concurrency: int
    max_queue: int
    overflow: Literal["wait", "dead_letter"]
    on_dead_letter: DeadLetterHandler | None


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
        if self.on_dead_letter is not None and not callable(self.on_dead_letter):
            raise TypeError("on_dead_letter must be callable")
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
