"""A server on one core and each run on another, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MALLOC", "Server", "cores", "in_process", "serving"]

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "2097152"}
"""So that glibc keeps the buffers into which asyncio reads, which are larger than what it keeps."""

PROGRAMS = Path(__file__).parents[1]


def cores() -> tuple[int, int] | None:
    """One for the server and one for the client, where the system lets processes have some."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[-1]) if len(available) > 1 else None


@dataclass(frozen=True)
class Server:
    """Where it listens, its process, and a file with whom to trust where it speaks TLS."""

    url: str
    pid: int
    authority: str | None = None


@contextmanager
def serving(kind: str = "plain") -> Iterator[Server]:
    """`server.py`: plain, or with faults, tls or times."""
    with tempfile.TemporaryDirectory() as folder:
        options: list[str] = []
        authority = None
        if kind == "faults":
            options = ["--fault-every", "50"]
        elif kind == "times":
            options = ["--times"]
        elif kind == "tls":
            authority, *pair = _certificates(Path(folder))
            options = ["--tls", *pair]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "server.py"), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if both := cores():
                os.sched_setaffinity(process.pid, {both[0]})
            port = int(process.stdout.readline())
            scheme = "https" if authority else "http"
            yield Server(f"{scheme}://127.0.0.1:{port}", process.pid, authority)
        finally:
            process.stdin.close()
            process.wait(timeout=10)
            process.stdout.close()


def _certificates(folder: Path) -> tuple[str, str, str]:
    """Files with an authority, and with a certificate for 127.0.0.1 and its key."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    names = ("authority.pem", "certificate.pem", "key.pem")
    paths = [folder / name for name in names]
    authority.cert_pem.write_to_path(str(paths[0]))
    issued.cert_chain_pems[0].write_to_path(str(paths[1]))
    issued.private_key_pem.write_to_path(str(paths[2]))
    return str(paths[0]), str(paths[1]), str(paths[2])


def in_process(
    program: str, arguments: Sequence[str], environment: Mapping[str, str] = MALLOC
) -> dict[str, Any]:
    """What a program of this folder prints as JSON, run on the core for clients.

    Raises:
        subprocess.CalledProcessError: it failed; it has said why on stderr.
    """
    both = cores()
    if both is not None:
        arguments = [*arguments, "--core", str(both[1])]
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told
