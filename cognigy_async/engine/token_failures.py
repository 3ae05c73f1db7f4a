"""Fail the updates that waited for a token when the provider has none."""

from __future__ import annotations

from logging import WARNING
from typing import TYPE_CHECKING

from .._utils.logging import log
from ..errors import AuthenticationError
from .protocol import Settled

if TYPE_CHECKING:
    from .completion import Completion
    from .context import Context
    from .scheduler import Scheduler

SHARED_BY_BULK = 1.0
"""Seconds after a final failure in which newly accepted bulk work fails too."""


class TokenFailures:
    """The last final failure to get a token; every update that waited for that token fails with it.

    Attributes:
        last: the failure; None after a token was received.
        logged: the failure that was logged last: "transient", or the text of a final failure;
            empty after a token was received.
    """

    def __init__(self, context: Context, scheduler: Scheduler, completion: Completion) -> None:
        self._scheduler = scheduler
        self._completion = completion
        self._protocol = context.protocol
        self._clock = context.clock
        self.last: AuthenticationError | None = None
        self.logged = ""
        self._began = 0.0
        self._serial = 0
        self._failed_at = 0.0

    def record(self, error: BaseException) -> AuthenticationError:
        """Log a failure of the token provider, remember it if it is final, and return it.

        An outage of the token endpoint is logged once until there is a token, not for each request
        or update. A final failure is logged when its text changes.
        """
        failure = error if isinstance(error, AuthenticationError) else None
        if failure is None:
            failure = AuthenticationError(f"The token provider failed with {type(error).__name__}")
            failure.__cause__ = error
        kind = "transient" if failure.transient else str(failure)
        if kind != self.logged:
            if not self.logged:
                self._began = self._clock()
            self.logged = kind
            log(WARNING, "no token: %s", failure, transient=failure.transient)
        if not failure.transient:
            self.last = failure
            self._serial = self._scheduler.serial
            self._failed_at = self._clock()
        return failure

    def clear(self) -> None:
        """Forget the last failure, because the provider has returned a token; log the end."""
        seconds = self._clock() - self._began
        log(WARNING, "a token was received after %.1f s without one", seconds, seconds=seconds)
        self.last = None
        self.logged = ""

    def fail_next(self) -> bool:
        """Fail one update that waited for the token. Return False if there is none."""
        queue = self._scheduler.queues.take() if self.last is not None else None
        if self.last is None or queue is None:
            return False
        item = queue.first
        # Bulk updates arrive one by one; without this, each would request a new token.
        recent = not item.live and self._clock() < self._failed_at + SHARED_BY_BULK
        if item.serial > self._serial and not recent:
            self._scheduler.queues.ready(queue, first=True)
            return False
        error = self._protocol.final(item, copy_for_one_update(self.last))
        self._completion.complete(queue, Settled(error=error))
        return True


def copy_for_one_update(failure: AuthenticationError) -> AuthenticationError:
    """Return a copy that can carry the dialog and the attempts of one update."""
    own = AuthenticationError(
        failure.message,
        transient=failure.transient,
        status=failure.status,
        detail=failure.detail,
        retry_after=failure.retry_after,
    )
    own.remedy = failure.remedy
    own.__cause__ = failure
    return own
