"""A server that costs as little as one in Python can, so that what is measured is the client.

    python benchmarks/null_server.py

Its first line on stdout is the port. It answers every request alike, keeps connections open and
reads no more of a request than where it ends. It stops when its stdin is closed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

CONTENT = b'{"dialogId":"d","version":1,"message":"state updated"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b'ETag: "1"\r\nContent-Length: %d\r\n\r\n' % len(CONTENT)
) + CONTENT
LENGTH = b"content-length:"


class Answering(asyncio.Protocol):
    """One connection; requests may be pipelined and may come in pieces."""

    def __init__(self) -> None:
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop are not of this class, but have its methods.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        answers = 0
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
            answers += 1
        self._unread = unread
        if answers:
            self._transport.write(ANSWER * answers)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=1024)
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
