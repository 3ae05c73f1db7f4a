"""`PyreqwestTransport` without a server: its arguments, and the end of the process.

Its event loops are tested with those of aiohttp.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest

from cognigy_async.errors import ConfigurationError
from cognigy_async.transports.pyreqwest import PyreqwestTransport, _let_thread_return


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proxy": "http://me:c4nary@[::1"}, "proxy: must be the URL of a proxy"),
        ({"ca_file": "/dev/null"}, "it has no certificate in PEM format"),
        ({"ca_file": "/no/such/file"}, "No such file"),
        ({"connect_timeout": 0}, "connect_timeout=0"),
    ],
)
def test_an_argument_of_pyreqwest_that_is_not_valid(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        PyreqwestTransport(**arguments)
    assert "c4nary" not in str(caught.value)


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
    _let_thread_return()
    assert left
    thread.join()
