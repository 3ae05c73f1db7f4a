"""Runs in processes of their own, beside a server on another core, in interleaved rounds."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from cognigy_async.cli.bench.load import turns
from cognigy_async.cli.bench.server import available_cores, server_process

from .page import tables

MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "2097152"}
"""Make glibc keep the buffers into which asyncio reads, which it would return to the system."""

PROGRAMS = Path(__file__).parents[1]
DISTS = ("aiohttp", "anyio", "cognigy-async", "httpcore", "httpx", "httpx2", "pydantic", "uvloop")
Key = TypeVar("Key")


@dataclass(frozen=True)
class Server:
    """A running server; `authority` is a PEM file of the authority if it uses TLS."""

    url: str
    pid: int
    authority: str | None = None


@contextmanager
def serving(kind: str = "plain", *, pinned: bool = True) -> Iterator[Server]:
    """Run `server.py`: plain, or with faults, tls, times, or options of its own.

    Args:
        pinned: give the server one core, and this process and its children another one.
    """
    with tempfile.TemporaryDirectory() as folder:
        authority, options = None, list[str]()
        if kind == "tls":
            authority, *pair = _certificates(Path(folder))
            options = ["--tls", *pair]
        elif kind != "plain":
            known = {"faults": ["--fault-every", "50"], "times": ["--times"]}
            options = known.get(kind) or kind.split()
        program = str(PROGRAMS / "server.py")
        cores = available_cores() if pinned else None
        with server_process([program, *options], cores) as (port, pid):
            scheme = "https" if authority else "http"
            yield Server(f"{scheme}://127.0.0.1:{int(port)}", pid, authority)


def _certificates(folder: Path) -> list[str]:
    """Write an authority, a certificate for 127.0.0.1 and its key; return their paths."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    paths = [str(folder / name) for name in ("authority.pem", "certificate.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    return paths


def in_process(*arguments: str) -> dict[str, Any]:
    """Run Python with arguments, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROGRAMS,
        env={**os.environ, **MALLOC},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def interleaved(
    keys: Sequence[Key], rounds: int, run: Callable[[Key], dict[str, float]]
) -> dict[Key, list[dict[str, float]]]:
    """Run each key once per round; return the results of each in the order of rounds."""
    runs: dict[Key, list[dict[str, float]]] = {key: [] for key in keys}
    for number, key in turns(keys, rounds):
        tell(f"round {number + 1} of {rounds}: {key}")
        runs[key].append({kind: float(f"{value:.5g}") for kind, value in run(key).items()})
    return runs


def tell(text: str) -> None:
    """Print progress."""
    print(text, file=sys.stderr, flush=True)


def parser_of(doc: str | None, rounds: int) -> ArgumentParser:
    """Return a parser with the options that all programs have."""
    parser = ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to it")
    return parser


def publish(name: str, results: dict[str, Any], path: Path | None) -> None:
    """Print the tables of results, and write a file of them with the machine."""
    text = json.dumps({"machine": machine(), **results}, indent=2)
    print(tables({name: json.loads(text) | {"machine": None}}, {}, "."))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def machine() -> dict[str, Any]:
    """Return the machine and the versions that figures depend on."""
    versions: dict[str, str | None] = dict.fromkeys(DISTS)
    for package in DISTS:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    for program in ("node", "wrk"):
        versions[program] = _version_of(program)
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": model and model[1],
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "malloc": MALLOC,
    }


def _version_of(program: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", (done.stdout or done.stderr).partition("\n")[0])
    return found and found.group()
