"""Looking on: what sees every update and each of its requests, for tracing.

Callbacks are for acting on an outcome, after it and in the background. An `Observer` is called
while things happen, in the event loop, and may add headers to a request. It must be quick; what it
raises is logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from logging import ERROR
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from .._utils.logging import log

if TYPE_CHECKING:
    from ..models.http import Request, Response

Operation: TypeAlias = Literal["update", "modify", "read", "reset"]
"""What is observed; ``"read"`` is `get_state`."""


class Observation(Protocol):
    """The way of one update, from its acceptance to its outcome; one request at a time."""

    def request_starts(self, request: Request, attempt: int) -> None:
        """A request is about to be sent; `attempt` counts from 1. Its headers may be added to.

        The headers hold no credentials at the first attempt, and those of the last one later.
        """
        ...

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        """It was answered, or it was not, and why."""
        ...

    def settled(self, error: BaseException | None, attempts: int) -> None:
        """The update has its outcome: None for success."""
        ...


class Observer(Protocol):
    """Sees all updates of a client that it was given to by `add_observer`."""

    def accepted(self, operation: Operation, dialog_id: str, update_id: str) -> Observation | None:
        """An update was accepted; called in the context of the caller. None to leave it alone."""
        ...


class Observations:
    """What observers made of one update; none of them can harm it."""

    __slots__ = ("_all",)

    def __init__(
        self, observers: tuple[Observer, ...], operation: Operation, dialog_id: str, update_id: str
    ) -> None:
        self._all: tuple[Observation, ...] = ()
        for observer in observers:
            try:
                observation = observer.accepted(operation, dialog_id, update_id)
            except Exception as error:
                _complain(observer.accepted, error)
            else:
                if observation is not None:
                    self._all += (observation,)

    @classmethod
    def joined(cls, several: Iterable[Observations]) -> Observations:
        """What looks on at several updates that go into one request."""
        all_of_them = cls((), "update", "", "")
        all_of_them._all = tuple(one for each in several for one in each._all)
        return all_of_them

    def __bool__(self) -> bool:
        return bool(self._all)

    def request_starts(self, request: Request, attempt: int) -> None:
        """See `Observation`."""
        for one in self._all:
            try:
                one.request_starts(request, attempt)
            except Exception as error:
                _complain(one.request_starts, error)

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        """See `Observation`."""
        for one in self._all:
            try:
                one.request_ends(request, response, error)
            except Exception as problem:
                _complain(one.request_ends, problem)

    def settled(self, error: BaseException | None, attempts: int) -> None:
        """See `Observation`."""
        for one in self._all:
            try:
                one.settled(error, attempts)
            except Exception as problem:
                _complain(one.settled, problem)


def _complain(method: Callable[..., object], error: Exception) -> None:
    # The text of the exception is the observer's own and may hold values.
    name = getattr(method, "__qualname__", repr(method))
    log(ERROR, "the observer's %s failed with %s", name, type(error).__name__)
