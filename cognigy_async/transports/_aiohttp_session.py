"""The long way through aiohttp: a session that sends each request once, with all that it has.

For a user's session that has traces or a proxy; others take the short way.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import aiohttp

from ..models.http import Response
from ._aiohttp_parts import (
    LONGEST_FIELD,
    SHORTEST,
    Lost,
    Sending,
    Unusable,
    parsed_url,
    validate_names,
    validate_values,
    whole_content,
)
from ._response_body import ACCEPTED_ENCODINGS, headers_of

if TYPE_CHECKING:
    import ssl

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from ..models.http import Request

KEEPALIVE = 30.0
"""Seconds for which a connection of the transport's own is kept idle."""

REPEATED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that aiohttp sends again by itself if nothing prevents it."""

CONNECT_MARGIN = 0.05
"""Seconds at most by which connecting ends before the whole, so that it is known what was late."""


class Content(aiohttp.Payload):
    """The content of a request, which tells when it is begun to be sent.

    aiohttp writes the head together with the beginning of the content.
    """

    _value: bytes

    def __init__(self, content: bytes, sending: Sending) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self._sending = sending

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        transport = getattr(writer, "transport", None)
        # On one that is closed already, aiohttp raises and writes nothing.
        self._sending.begun = transport is None or not transport.is_closing()
        await writer.write(self._value)


class OnceRequest(aiohttp.ClientRequest):
    """A request that is not sent on a connection on which something has come unasked.

    A server that gives up an idle connection may say so first, with an answer to no request.
    aiohttp takes that for the answer to the next one.
    """

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        if protocol is None or protocol.should_close:
            raise Unusable
        return await super().send(conn)


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """For reads, which aiohttp would repeat by itself when a connection is lost.

    It repeats them on errors of its own, and this turns them into another one.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise Lost from error


class ViaSession:
    """Sends through a session.

    Args:
        limit: bytes of an answer at most.
    """

    def __init__(self, session: aiohttp.ClientSession, limit: int) -> None:
        self._session = session
        self._limit = limit

    async def send(self, request: Request, timeout: float, sending: Sending) -> Response:
        """Have the session send a request and read the answer.

        Raises:
            Exception: of aiohttp and of this package; `sending` says how far it got.
        """
        headers = request.headers
        validate_names(headers)
        validate_values(headers.values())
        # A request without content has nothing to tell by whether it was begun.
        sending.begun = False if request.content else None
        answer = await self._session.request(
            request.method,
            parsed_url(request.url),
            headers=headers,
            data=Content(request.content, sending) if request.content else None,
            allow_redirects=False,
            timeout=within(timeout),
            middlewares=(once,) if request.method in REPEATED else None,
        )
        try:
            told = headers_of(answer.raw_headers)
            content = await whole_content(told, answer.content, answer.read, self._limit)
            await answer.wait_for_close()
        except BaseException:
            answer.close()
            raise
        return Response(answer.status, told, content)


def validate_session(session: aiohttp.ClientSession | None) -> None:
    """Look at the argument of the transport.

    Raises:
        TypeError: it is no session.
    """
    if session is not None and not isinstance(session, aiohttp.ClientSession):
        raise TypeError(
            f"AiohttpTransport(session={type(session).__name__}): "
            "pass an aiohttp.ClientSession or nothing"
        )


def needs_session(session: aiohttp.ClientSession) -> bool:
    """Whether it has what only a session can do."""
    # aiohttp shows everything of a session, but not its proxy.
    return bool(session.trace_configs or session.trust_env or session._default_proxy)


def open_session(
    theirs: aiohttp.ClientSession | None, tls: ssl.SSLContext
) -> aiohttp.ClientSession:
    """A session for the running event loop, on connections of its own or on those of the user's.

    Also for a user's session it is another one: cookies, credentials and middlewares belong to a
    session, and cannot be left out of a single request.

    Raises:
        ValueError: a default header of theirs is not valid.
    """
    own = {"Accept-Encoding": ACCEPTED_ENCODINGS, "User-Agent": "cognigy-async"}
    if theirs is None:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=own,
        )
    headers = theirs.headers.copy()
    validate_names(headers)
    validate_values(headers.values())
    headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
    return aiohttp.ClientSession(
        connector=theirs.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        skip_auto_headers=theirs.skip_auto_headers,
        proxy=theirs._default_proxy,
        proxy_auth=theirs._default_proxy_auth,
        trust_env=theirs.trust_env,
        trace_configs=theirs.trace_configs,
        request_class=OnceRequest,
        auto_decompress=False,
        max_line_size=LONGEST_FIELD,
        max_field_size=LONGEST_FIELD,
    )


@functools.lru_cache(maxsize=64)
def within(seconds: float) -> aiohttp.ClientTimeout:
    """The whole, body included, ends after so many seconds; none is rounded up."""
    whole = max(seconds, SHORTEST)
    connect = whole - min(CONNECT_MARGIN, whole / 20)
    return aiohttp.ClientTimeout(total=whole, connect=connect, ceil_threshold=math.inf)
