"""The emulator over real sockets: `serve` in a running event loop, `run` in the foreground."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from .app import Emulator

if TYPE_CHECKING:
    from .sockets import SocketServer


@asynccontextmanager
async def serve(
    emulator: Emulator, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[str]:
    """Serve the emulator in the running asyncio event loop; yields its base URL.

    It handles no signals. On leaving, connections are closed, and requests that are not answered
    are cut off.

    Args:
        emulator: the app.
        host: the address to listen on.
        port: 0 takes a free one.

    Raises:
        ImportError: the extra ``emulator`` is not installed.
        OSError: the address cannot be listened on.
        RuntimeError: there is no asyncio event loop, as under trio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "serve() needs a running asyncio event loop; under trio, use the emulator in the "
            "process by httpx.ASGITransport(app=emulator)"
        ) from None
    server = _server(emulator)
    base_url = await server.start(host, port)
    try:
        yield base_url
    finally:
        with anyio.CancelScope(shield=True):
            await server.aclose()


def run(
    emulator: Emulator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    on_listening: Callable[[str], None],
) -> None:
    """Serve the emulator until SIGINT or SIGTERM. Blocks; for the main thread.

    Args:
        emulator: the app.
        host: the address to listen on.
        port: 0 takes a free one.
        on_listening: called once with the base URL.

    Raises:
        ImportError: the extra ``emulator`` is not installed.
        OSError: the address cannot be listened on.
        RuntimeError: called in another thread, where no signal would end it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run() ends by a signal, so it needs the main thread; use serve()")
    asyncio.run(_until_signalled(emulator, host, port, on_listening))


async def _until_signalled(
    emulator: Emulator, host: str, port: int, on_listening: Callable[[str], None]
) -> None:
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(*_: object) -> None:
        loop.call_soon_threadsafe(signalled.set)

    for number in before:
        signal.signal(number, stop)
    try:
        async with serve(emulator, host=host, port=port) as base_url:
            on_listening(base_url)
            await signalled.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _server(emulator: Emulator) -> SocketServer:
    try:
        from .sockets import SocketServer
    except ImportError as error:
        raise ImportError(
            f"serving the emulator needs uvicorn and httptools ({error}): "
            "pip install 'cognigy-async[emulator]'"
        ) from error
    return SocketServer(emulator)
