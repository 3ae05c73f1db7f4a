"""From the errors of an HTTP library to `NotSentError` and `NoResponseError`."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

from ..errors import NoResponseError, NotSentError, UpdateError

LONGEST_REASON = 160
DEEPEST_CAUSE = 12
INVALID = "the URL or a header is not valid in HTTP"


class NotBegun(Exception):  # noqa: N818
    """Nothing of the request was given to the library."""


def failure(
    *,
    host: str,
    reason: str,
    timeout: float | None,
    refused: bool,
    begun: bool,
) -> UpdateError:
    """What is raised instead of the library's error.

    Args:
        host: to whom it was to be sent.
        reason: what happened, in words that hold no part of the request.
        timeout: the seconds that were over; None if it was not that.
        refused: there was no connection at all.
        begun: something that the server could carry out may have left.
    """
    told = f"{host}: {reason}" if timeout is None else f"{host} within {timeout:g} s"
    if refused:
        return NotSentError(f"No connection to {told}")
    if not begun:
        return NotSentError(f"The request could not be sent to {told}")
    return NoResponseError(f"No whole answer came from {told}", timed_out=timeout is not None)


def host_of(url: str) -> str:
    """Host and port, without what else an URL may hold."""
    try:
        parts = urlsplit(url)
        # What is no number may be a part of a password: ``user:pass/word@host``.
        parts.port  # noqa: B018
        return parts.netloc.rpartition("@")[2] or "the server"
    except ValueError:
        return "the server"


def reason_of(error: Exception, told: str) -> str:
    """What happened, in words that hold no part of the request.

    Those of the operating system where there are any, as they say most; else `told`, which is what
    is known of such an error, or empty.
    """
    found: object = error
    for _ in range(DEEPEST_CAUSE):
        if isinstance(found, OSError) and found.errno is not None:
            named = isinstance(found, ssl.SSLError | socket.gaierror)
            told = str(found.strerror) if named else os.strerror(found.errno)
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        elif isinstance(found, BaseException):
            # The connection pool cuts off causes, but an error that it translated is an argument.
            found = found.__cause__ or next(iter(found.args), None)
    return (told or type(error).__name__)[:LONGEST_REASON]
