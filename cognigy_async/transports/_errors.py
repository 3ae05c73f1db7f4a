"""Translation of an HTTP library's errors to `NotSentError` and `NoResponseError`."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

from ..errors import NoResponseError, NotSentError, UpdateError

MAX_REASON = 160  # characters shown of the library's error
MAX_CAUSES = 12  # causes that are searched for an error of the operating system
INVALID = "the URL or a header is not valid in HTTP"


def translate(
    url: str, reason: str, *, timeout: float | None, refused: bool, begun: bool
) -> UpdateError:
    """Return an error to raise instead of the library's error, which refers to the request.

    Args:
        reason: description without any part of the request.
        timeout: the exceeded timeout in seconds, or None.
        refused: no connection was opened.
        begun: something that the server could act on may have been sent.
    """
    detail = host_of(url) + (f": {reason}" if timeout is None else f" within {timeout:g} s")
    error: UpdateError = NotSentError(f"The request could not be sent to {detail}")
    if refused:
        error = NotSentError(f"No connection to {detail}")
    elif begun:
        timed_out = timeout is not None
        error = NoResponseError(f"No complete response from {detail}", timed_out=timed_out)
    error.__cause__ = ConnectionError(reason) if timeout is None else TimeoutError(reason)
    return error


def host_of(url: str) -> str:
    """Return host and port without credentials."""
    try:
        parts = urlsplit(url)
        # Raises if the port is not a number: in `user:pass/word@host` it is part of a password.
        parts.port  # noqa: B018
        return parts.netloc.rpartition("@")[2] or "the server"
    except ValueError:
        return "the server"


def reason_of(error: BaseException, reason: str) -> str:
    """Return a description of an error without any part of the request.

    It is the text of the operating system if there is one, else `reason`, else the error's class.
    """
    found: object = error
    for _ in range(MAX_CAUSES):
        if isinstance(found, OSError) and found.errno is not None:
            named = isinstance(found, ssl.SSLError | socket.gaierror)
            reason = str(found.strerror) if named else os.strerror(found.errno)
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        elif isinstance(found, BaseException):
            # httpcore drops the cause, but keeps the original error in `args`.
            found = found.__cause__ or next(iter(found.args), None)
    return (reason or type(error).__name__)[:MAX_REASON]
