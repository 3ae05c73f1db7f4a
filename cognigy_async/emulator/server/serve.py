"""The emulator over sockets: `serve` in a running event loop, `run` in the foreground."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress

import anyio

from ..app import Emulator
from .access import Access

CLOSE_TIMEOUT = 2.0
"""Maximum seconds to close the connections and to end the requests in flight."""


@asynccontextmanager
async def serve(
    emulator: Emulator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allowed_hosts: Collection[str] = (),
) -> AsyncGenerator[str]:
    """Serve the emulator in the running asyncio event loop and yield its base URL.

    Signals are not handled. On exit all connections are closed and unanswered requests cut off.
    Requests that a web page may have made are refused: with a foreign `Origin`, with a `Host` that
    is none of this server, and control requests other than GET without JSON. The app itself does
    not check that.

    Args:
        emulator: App to serve.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        allowed_hosts: Host names and addresses, without port, that the `Host` of a request may name
            besides `host` and those of loopback. A container needs the name by which others
            reach it.

    Raises:
        ConfigurationError: An allowed host is malformed.
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
    server = SocketServer(emulator, Access(host, allowed_hosts))
    base_url = await server.start(host, port)
    try:
        yield base_url
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await server.aclose()


def run(
    emulator: Emulator,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    allowed_hosts: Collection[str] = (),
    on_listening: Callable[[str], None],
) -> None:
    """Serve the emulator in the main thread until SIGINT or SIGTERM.

    Args:
        emulator: App to serve.
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        allowed_hosts: As for `serve`.
        on_listening: Function that is called once with the base URL.

    Raises:
        ConfigurationError: An allowed host is malformed.
        ImportError: The extra ``emulator`` is not installed.
        OSError: The address cannot be listened on.
        RuntimeError: The thread is not the main one, so that no signal could end it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "run() must be called in the main thread, because only a signal ends it; elsewhere use "
            "serve()"
        )
    served = serve(emulator, host=host, port=port, allowed_hosts=allowed_hosts)
    asyncio.run(_serve_until_signal(served, on_listening))


async def _serve_until_signal(
    served: AbstractAsyncContextManager[str], on_listening: Callable[[str], None]
) -> None:
    signalled = asyncio.Event()
    with _calling_on_signals(signalled.set):
        async with served as base_url:
            on_listening(base_url)
            await signalled.wait()


@contextmanager
def _calling_on_signals(function: Callable[[], None]) -> Iterator[None]:
    """Call a function in the running event loop when SIGINT or SIGTERM arrives."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        try:
            # A handler of `signal.signal` alone would not wake a loop that begins to wait for
            # events just when the signal arrives.
            loop.add_signal_handler(number, function)
        except NotImplementedError:
            # On Windows every signal wakes the loop.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(function))
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            # A handler that was not set from Python is None, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
