"""A proxy as companies have them: it may ask for a password, and it inspects TLS."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio


class Proxy:
    """Forwards each request to one server, whatever host the request names.

    With CONNECT it speaks TLS for the host, with a certificate of the company.

    Attributes:
        url: where it listens.
        lines: the first lines of the requests to it.
        requires: user and password that it asks for, as `user:password`; None for none.
        refuses: the status with which it answers CONNECT; None if it connects.
    """

    def __init__(self, target: int, tls: ssl.SSLContext) -> None:
        self.url = ""
        self.lines: list[str] = []
        self.requires: str | None = None
        self.refuses: str | None = None
        self._target = target
        self._tls = tls
        self._serving: set[asyncio.Task[None]] = set()

    def accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Serve one connection in a task of its own."""
        task = asyncio.create_task(self._serve_until_closed(client, answers))
        self._serving.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._serving.discard(task)
            # Closing TLS waits for the client, which may not answer before the event loop ends. A
            # task that is cancelled before it began closes nothing itself.
            answers.transport.abort()

        task.add_done_callback(end)

    async def aclose(self) -> None:
        """End what is served."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve_until_closed(
        self, client: asyncio.StreamReader, answers: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._serve(client, answers)
            answers.close()
            await answers.wait_closed()

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        head = (await client.readuntil(b"\r\n\r\n")).decode("ascii")
        first, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        self.lines.append(first)
        method, url, version = first.split(" ")
        if self.requires is not None:
            known = f"basic {base64.b64encode(self.requires.encode()).decode()}"
            if f"proxy-authorization: {known}".lower() not in map(str.lower, fields):
                answers.write(b"HTTP/1.1 407 Ask the admin\r\nContent-Length: 0\r\n\r\n")
                return
        begin = b""
        if method == "CONNECT" and self.refuses is not None:
            answers.write(f"HTTP/1.1 {self.refuses}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        if method == "CONNECT":
            answers.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await answers.start_tls(self._tls)
        else:
            # One request for each connection, because the next one would have to be changed too.
            path = "/" + url.split("/", 3)[3]
            kept = [
                each for each in fields if not each.lower().startswith(("proxy-", "connection"))
            ]
            lines = [f"{method} {path} {version}", *kept, "Connection: close", "", ""]
            begin = "\r\n".join(lines).encode()
        server, requests = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            requests.write(begin)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_copy, client, requests)
                await _copy(server, answers)
                tasks.cancel_scope.cancel()
        finally:
            requests.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def proxying(
    target: int, tls: ssl.SSLContext, own_tls: ssl.SSLContext | None = None
) -> AsyncIterator[Proxy]:
    """Run a proxy before the server on port `target`; `own_tls` gives it https://."""
    proxy = Proxy(target, tls)
    listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, ssl=own_tls)
    port = listening.sockets[0].getsockname()[1]
    proxy.url = f"{'http' if own_tls is None else 'https'}://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        for one in listening.sockets:
            asyncio.get_running_loop().remove_reader(one.fileno())
        # Let connections that were just accepted reach the proxy, which closes them.
        for _ in range(3):
            await asyncio.sleep(0)
        listening.close()
        await proxy.aclose()
        await asyncio.sleep(0)
