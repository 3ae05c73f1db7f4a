"""A server that costs as little as one in Python can, so that what is measured is the client.

    python benchmarks/server.py                        # answers every request alike
    python benchmarks/server.py --fault-every 50       # 429, 409, 503 and a hang-up, in turns
    python benchmarks/server.py --tls CERTIFICATE KEY  # two files in PEM
    python benchmarks/server.py --times                # remembers when each request came

Its first line on stdout is the port. It keeps connections open, reads no more of a request than
where it ends, and gives a token to who asks for one. It stops when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from typing import cast

LENGTH = b"content-length:"


def answer(content: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """Content and head of an answer, ready to be sent."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


APPLIED = answer(b'{"dialogId":"d","version":1,"message":"state updated"}', headers='ETag: "1"\r\n')
STATE = answer(b'{"dialogId":"d","version":1,"session":{},"user":{}}', headers='ETag: "1"\r\n')
TOKEN = answer(b'{"access_token":"0123456789abcdef","token_type":"Bearer","expires_in":3600}')
HANG_UP = b""
FAULTS = (
    answer(
        b'{"message":"too many requests"}',
        "429 Too Many Requests",
        "Retry-After: 1\r\nX-RateLimit-Scope: dialog\r\n",
    ),
    answer(b'{"message":"the state has changed"}', "409 Conflict"),
    answer(b'{"message":"overloaded"}', "503 Service Unavailable"),
    HANG_UP,
)


class Faults:
    """Which answer the next update gets."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._updates = 0

    def answer(self) -> bytes:
        self._updates += 1
        number, rest = divmod(self._updates, self._every)
        return APPLIED if rest else FAULTS[number % len(FAULTS)]


class Answering(asyncio.Protocol):
    """One connection; requests may be pipelined and may come in pieces."""

    def __init__(self, faults: Faults | None = None, times: list[float] | None = None) -> None:
        self._faults = faults
        self._times = times
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop are not of this class, but have its methods.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        while (end := unread.find(b"\r\n\r\n")) >= 0:
            head = unread[:end].lower()
            at = head.find(LENGTH)
            size = end + 4
            if at >= 0:
                line, _, _ = head[at + len(LENGTH) :].partition(b"\r\n")
                size += int(line)
            if len(unread) < size:
                break
            unread = unread[size:]
            if not (told := self._answer(head)):
                self._transport.abort()
                return
            self._transport.write(told)
        self._unread = unread

    def _answer(self, head: bytes) -> bytes:
        if head.startswith(b"get /times"):
            told = answer(json.dumps(self._times).encode())
            if self._times is not None:
                self._times.clear()
            return told
        if head.startswith(b"get "):
            return STATE
        if head.startswith(b"post /oauth/"):
            return TOKEN
        if self._times is not None:
            self._times.append(time.monotonic())
        return APPLIED if self._faults is None else self._faults.answer()


async def main(options: argparse.Namespace) -> None:
    faults = Faults(options.fault_every) if options.fault_every else None
    times: list[float] | None = [] if options.times else None
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
    server = await asyncio.get_running_loop().create_server(
        lambda: Answering(faults, times), "127.0.0.1", 0, backlog=1024, ssl=context
    )
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fault-every", type=int, default=0, metavar="N")
    parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    parser.add_argument("--times", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(arguments()))
    else:
        uvloop.run(main(arguments()))
