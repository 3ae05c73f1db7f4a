"""Free ports for servers that are started with a number."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Return a free port of loopback below those that systems give to sockets without a number.

    Another test's server, which has such a one, would get what this one's clients send.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
