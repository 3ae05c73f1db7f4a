"""The short way through aiohttp: its connections and its parser, without its requests.

aiohttp's session, request and response take more than half of the CPU time of a small request, for
redirects, cookies, traces, proxies and retries, none of which apply here. So the head of a request
is written here, onto a connection of aiohttp's connector, and the answer is read with its parser.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from ..models.http import Response
from ._aiohttp_parts import (
    LONGEST_FIELD,
    SHORTEST,
    TOKEN,
    Sending,
    Unusable,
    parsed_url,
    validate_names,
    validate_values,
    whole_content,
)
from ._response_body import UnusableAnswer, headers_of

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    from ..models.http import Request

PLAIN_URL = re.compile(r"(https?://[a-zA-Z0-9.:\[\]-]+)(/[!\"$-~]*)")
WITHOUT_CONTENT = frozenset({"GET", "HEAD"})
LARGE = 64 * 1024
"""Bytes that a transport of asyncio or uvloop may have to keep until it asks for a pause."""
REMEMBERED = 256
"""Origins, and sets of names of headers, that need no second look."""


@functools.lru_cache(maxsize=64)
def connecting_within(seconds: float) -> aiohttp.ClientTimeout:
    """Only waiting for a connection, and opening it, ends after so many seconds."""
    return aiohttp.ClientTimeout(connect=max(seconds, SHORTEST), ceil_threshold=math.inf)


class Origin(NamedTuple):
    """A server that connections are opened to."""

    wanted: aiohttp.ClientRequest
    """By which the connector knows what is wanted."""
    host: str


class Wire:
    """Sends on the connections of a session.

    Args:
        session: whose connector and default headers are used. It has neither traces nor a proxy.
        limit: bytes of an answer at most.
    """

    def __init__(self, session: aiohttp.ClientSession, limit: int) -> None:
        connector = session.connector
        assert connector is not None
        self._session = session
        self._connector = connector
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._origins: dict[str, Origin] = {}
        self._beginnings: dict[tuple[str, ...], str] = {}

    async def send(self, request: Request, timeout: float, sending: Sending) -> Response:
        """Write the request on a connection of its own and read the answer.

        Raises:
            Exception: of aiohttp and of this package; `sending` says how far it got.
        """
        origin, target = self._resolved(request.url)
        data = self._written(request, origin, target)
        until = self._loop.time() + timeout
        try:
            connection = await self._connector.connect(
                origin.wanted, traces=[], timeout=connecting_within(timeout)
            )
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error
        try:
            protocol = connection.protocol
            # A server that gives up an idle connection may say so first, unasked.
            if protocol is None or protocol.should_close:
                raise Unusable
            transport = protocol.transport
            # On one that is closing, nothing would be written.
            if transport is None or transport.is_closing():
                raise Unusable
            async with asyncio.timeout_at(until):
                self._expect_answer(protocol, request.method)
                sending.begun = True
                write(transport, data)
                message, content = await protocol.read()
                while 100 <= message.code < 200 and message.code != 101:
                    message, content = await protocol.read()
                headers = headers_of(message.raw_headers)
                body = await whole_content(headers, content, content.read, self._limit)
        except HttpProcessingError as error:
            give_up(connection)
            raise UnusableAnswer("the answer is not valid in HTTP") from error
        except BaseException:
            give_up(connection)
            raise
        if transport.get_write_buffer_size():
            # The answer came before all of the request had left.
            give_up(connection)
        else:
            connection.release()
        return Response(message.code, headers, body)

    def _expect_answer(self, protocol: ResponseHandler, method: str) -> None:
        protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            max_line_size=LONGEST_FIELD,
            max_field_size=LONGEST_FIELD,
        )

    def _resolved(self, url: str) -> tuple[Origin, str]:
        """Where a request goes: the server, and the target that it is asked for.

        Raises:
            ValueError: it is no URL of HTTP.
        """
        plain = PLAIN_URL.fullmatch(url)
        if plain is not None:
            base, target = plain.groups()
        else:
            parsed = parsed_url(url)
            base, target = str(parsed.origin()), parsed.raw_path_qs
        origin = self._origins.get(base)
        if origin is None:
            origin = self._origin(base)
        return origin, target

    def _origin(self, base: str) -> Origin:
        url = URL(base, encoded=True)
        host = url.host_port_subcomponent
        if url.scheme not in ("http", "https") or not host:
            raise ValueError
        wanted = aiohttp.ClientRequest("GET", url, loop=self._loop, session=self._session)
        if len(self._origins) >= REMEMBERED:
            self._origins.clear()
        origin = self._origins[base] = Origin(wanted, host)
        return origin

    def _written(self, request: Request, origin: Origin, target: str) -> bytes:
        """The request as it goes over the wire (RFC 9112, section 3).

        Raises:
            ValueError: the method or a header is not valid.
        """
        headers, content = request.headers, request.content
        key = (origin.host, request.method, *headers)
        beginning = self._beginnings.get(key)
        if beginning is None:
            beginning = self._beginning(key)
        validate_values(headers.values())
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if content or request.method not in WITHOUT_CONTENT:
            fields += f"Content-Length: {len(content)}\r\n"
        head = f"{request.method} {target} HTTP/1.1\r\n{beginning}{fields}\r\n"
        return head.encode() + content

    def _beginning(self, key: tuple[str, ...]) -> str:
        """The headers that a request with these names does not bring itself."""
        host, method, *given = key
        if TOKEN.fullmatch(method) is None:
            raise ValueError
        validate_names(given)
        names = {name.lower() for name in given}
        theirs = self._session.headers
        others = [*theirs.items()]
        if "Host" not in theirs:
            others.insert(0, ("Host", host))
        if self._connector.force_close and "Connection" not in theirs:
            others.append(("Connection", "close"))
        beginning = "".join(
            [f"{name}: {value}\r\n" for name, value in others if name.lower() not in names]
        )
        if len(self._beginnings) >= REMEMBERED:
            self._beginnings.clear()
        self._beginnings[key] = beginning
        return beginning


def write(transport: asyncio.Transport, data: bytes) -> None:
    """Write a request so that `get_write_buffer_size` says whether some of it has not left.

    A transport of TLS does not count what it has handed on, and hands on whatever comes before the
    transport below it asks for a pause. So the last byte of a large request comes after that.
    """
    if len(data) > LARGE and transport.get_extra_info("ssl_object") is not None:
        transport.write(data[:-1])
        data = data[-1:]
    transport.write(data)


def give_up(connection: Connection) -> None:
    """Close a connection at once: what has not left by now must not reach the server later."""
    if connection.protocol is not None:
        connection.protocol.abort()
    connection.close()
