"""The emulator over sockets: `serve` in a running event loop, `run` in the foreground."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from ..app import Emulator


@asynccontextmanager
async def serve(
    emulator: Emulator, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[str]:
    """Serve the emulator in the running asyncio event loop and yield its base URL.

    Signals are not handled. On exit all connections are closed and unanswered requests cut off.

    Args:
        emulator: App to serve.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.

    Raises:
        ImportError: The extra ``emulator`` is not installed.
        OSError: The address cannot be listened on.
        RuntimeError: No asyncio event loop is running, for example under trio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "serve() needs a running asyncio event loop; under trio, use the emulator in the "
            "process: httpx.ASGITransport(app=emulator)"
        ) from None
    try:
        from .sockets import SocketServer
    except ImportError as error:
        raise ImportError(
            f"serving the emulator needs uvicorn and httptools ({error}): "
            "pip install 'cognigy-async[emulator]'"
        ) from error
    server = SocketServer(emulator)
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
    """Serve the emulator in the main thread until SIGINT or SIGTERM.

    Args:
        emulator: App to serve.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        on_listening: Function that is called once with the base URL.

    Raises:
        ImportError: The extra ``emulator`` is not installed.
        OSError: The address cannot be listened on.
        RuntimeError: The thread is not the main one, so that no signal could end it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run() ends by a signal, so it needs the main thread; use serve()")
    asyncio.run(_serve_until_signal(emulator, host, port, on_listening))


async def _serve_until_signal(
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
