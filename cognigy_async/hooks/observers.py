"""Observers are notified of every update and each of its requests, for example for tracing.

Callbacks run in the background after an outcome. The client calls an `Observer` synchronously in
the event loop. An observer may add headers to a request, and must be fast. The client logs the
exceptions of an observer, and they have no other effect.
"""

from __future__ import annotations

from collections.abc import Iterable
from logging import ERROR
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from .._utils.logging import log

if TYPE_CHECKING:
    from ..models.http import Request, Response

Operation: TypeAlias = Literal[
    "update", "modify", "read", "reset", "inject", "notify", "create_profile", "update_profile"
]
"""Kind of an observed operation; ``"read"`` is `get_state`."""


class Observation(Protocol):
    """Observes one operation from its acceptance to its outcome. Its requests never overlap."""

    def request_starts(self, request: Request, attempt: int) -> None:
        """Handle a request that the client is about to send. You may add headers to the request.

        Args:
            request: The request. At the first attempt, the request has no credentials yet; at later
                attempts, the request has the credentials of the attempt before. The URL of a
                request to an `Endpoint` ends in ``REDACTED``.
            attempt: Number of the attempt, from 1.
        """
        ...

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        """Handle the response of a request, or the error that occurred instead."""
        ...

    def settled(self, error: BaseException | None, attempts: int) -> None:
        """Handle the outcome of the operation; `error` is None after a success."""
        ...


class Observer(Protocol):
    """Observes all operations of each client to which `add_observer` has added the observer."""

    def accepted(self, operation: Operation, dialog_id: str, update_id: str) -> Observation | None:
        """Return an `Observation` for a new operation, or None to ignore the operation.

        The client calls this in the context of the caller, before the first request.
        """
        ...


class Observations:
    """The observations of one operation. Their exceptions are logged and have no other effect."""

    __slots__ = ("_observations",)

    def __init__(
        self, observers: tuple[Observer, ...], operation: Operation, dialog_id: str, update_id: str
    ) -> None:
        self._observations: tuple[Observation, ...] = ()
        for observer in observers:
            try:
                observation = observer.accepted(operation, dialog_id, update_id)
            except Exception as error:
                _log_failure(observer, error)
            else:
                if observation is not None:
                    self._observations += (observation,)

    @classmethod
    def joined(cls, several: Iterable[Observations]) -> Observations:
        """Combine the observations of several updates that share a request."""
        combined = cls((), "update", "", "")
        combined._observations = tuple(one for each in several for one in each._observations)
        return combined

    def __bool__(self) -> bool:
        return bool(self._observations)

    def request_starts(self, request: Request, attempt: int) -> None:
        """Notify all observations; see `Observation`."""
        self._notify("request_starts", request, attempt)

    def request_ends(
        self, request: Request, response: Response | None, error: BaseException | None
    ) -> None:
        """Notify all observations; see `Observation`."""
        self._notify("request_ends", request, response, error)

    def settled(self, error: BaseException | None, attempts: int) -> None:
        """Notify all observations; see `Observation`."""
        self._notify("settled", error, attempts)

    def _notify(self, method: str, *arguments: object) -> None:
        for observation in self._observations:
            try:
                getattr(observation, method)(*arguments)
            except Exception as error:
                _log_failure(observation, error, method)


def _log_failure(observer: object, error: Exception, method: str = "accepted") -> None:
    # The text of the exception may contain values, so the line names its class only.
    name = f"{type(observer).__qualname__}.{method}"
    log(ERROR, "observer %s raised %s", name, type(error).__name__)
