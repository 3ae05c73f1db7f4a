"""Threads that a library starts outside Python."""

from __future__ import annotations

import threading
import time

from cognigy_async._utils.native_threads import let_threads_return


def test_the_process_does_not_end_while_the_thread_of_pyreqwest_is_in_python() -> None:
    entered = threading.Event()
    left: list[bool] = []

    def call_soon_threadsafe() -> None:
        entered.set()
        time.sleep(0.1)
        left.append(True)

    thread = threading.Thread(target=call_soon_threadsafe)
    thread.start()
    assert entered.wait(10)
    let_threads_return()
    assert left
    thread.join()
