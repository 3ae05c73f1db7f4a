"""Contestants that are not in Python: the official JavaScript client, and wrk as the ceiling.

Both do without what is missing: `missing_*` tells the reason, and then they are left out.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .measuring import server_cpu
from .work import HEADERS, Work

__all__ = ["javascript", "missing_javascript", "missing_wrk", "wrk"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "interop"
"""Where the tests have the official client installed as well."""

SECONDS = 3
"""How long wrk runs, which does not count to a number."""


@functools.cache
def missing_javascript() -> str | None:
    """Why the official client cannot run; it is installed if it is not there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no Node.js with npm"
    done = subprocess.run(
        [sys.executable, "-m", "tests.interop.official"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return f"npm could not install it: {done.stderr.strip().splitlines()[-1]}"
    return None


def javascript(work: Work) -> dict[str, Any]:
    """A pool of promises; the calls are `injectContext`, with one variable more for its user."""
    task = {
        "modules": str(CACHE / "package.json"),
        "baseUrl": work.url,
        "inFlight": work.in_flight,
        "warmUp": work.warm_up,
        "count": work.count,
        "text": work.session(0)["text"],
        "serverPid": work.server_pid,
        "ticks": os.sysconf("SC_CLK_TCK"),
    }
    done = subprocess.run(
        ["node", str(HERE / "official.js")],
        input=json.dumps(task),
        stdout=subprocess.PIPE,
        text=True,
        env=_without_proxies(),
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def missing_wrk() -> str | None:
    return None if shutil.which("wrk") else "wrk is not installed"


def wrk(work: Work) -> dict[str, Any]:
    """The same bytes for each request, as fast as they are answered: no client can be faster."""
    command = ["wrk", "--threads", "1", "--connections", str(work.in_flight)]
    environment = os.environ | {
        "BENCH_PATH": work.url_of(0).removeprefix(work.url),
        "BENCH_BODY": work.content(0).decode(),
        **{f"BENCH_{name}": value for name, value in HEADERS.items()},
    }

    def run(seconds: int) -> dict[str, Any]:
        done = subprocess.run(
            [*command, "--duration", f"{seconds}s", "--script", str(HERE / "wrk.lua"), work.url],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            check=True,
        )
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if told["errors"]:
            raise RuntimeError(f"wrk met {told['errors']} errors")
        return told

    run(1)
    server, cpu = server_cpu(work.server_pid), _cpu_of_children()
    told = run(SECONDS)
    seconds = told["seconds"]
    return {
        "per_second": told["requests"] / seconds,
        "cpu_us": (_cpu_of_children() - cpu) / told["requests"] * 1e6,
        "server_share": (server_cpu(work.server_pid) - server) / seconds,
    }


def _cpu_of_children() -> float:
    import resource  # not on Windows, where there is no wrk either

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _without_proxies() -> dict[str, str]:
    """Proxies are not for loopback."""
    return {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
