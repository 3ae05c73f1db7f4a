"""Contestants that are not in Python: the official JavaScript client, and wrk as the ceiling."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .work import HEADERS, Work, server_cpu

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@functools.cache
def missing_javascript() -> str | None:
    """Install the official client, as the tests do; return why that is not possible, or None."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no Node.js with npm"
    command = [sys.executable, "-m", "tests.interop.official"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"npm could not install it: {done.stderr.strip().splitlines()[-1]}"
    return None


def javascript(work: Work) -> dict[str, Any]:
    """Call `injectContext` from a pool of promises."""
    task = {
        "modules": str(ROOT / ".cache" / "interop" / "package.json"),
        "baseUrl": work.url,
        "inFlight": work.in_flight,
        "warmUp": work.warm_up,
        "count": work.count,
        "context": work.load.session(0),
        "serverPid": work.server_pid,
        "ticks": os.sysconf("SC_CLK_TCK"),
    }
    # Proxies are not for loopback.
    environment = {
        name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")
    }
    command = ["node", str(HERE / "official.js")]
    return _last_line(command, environment, json.dumps(task))


def missing_wrk() -> str | None:
    return None if shutil.which("wrk") else "wrk is not installed"


def wrk(work: Work) -> dict[str, Any]:
    """Send the same bytes for each request, as fast as they are answered."""
    environment = os.environ | {
        "BENCH_PATH": work.url_of(0).removeprefix(work.url),
        "BENCH_BODY": work.content(0).decode(),
        **{f"BENCH_{name}": value for name, value in HEADERS.items()},
    }
    command = ["wrk", "--threads", "1", "--connections", str(work.in_flight)]
    command += ["--script", str(HERE / "wrk.lua"), work.url, "--duration"]
    _last_line([*command, "1s"], environment)
    server, cpu = server_cpu(work.server_pid), _cpu_of_children()
    results = _last_line([*command, "3s"], environment)
    if results["errors"]:
        raise RuntimeError(f"wrk met {results['errors']} errors")
    seconds, requests = results["seconds"], results["requests"]
    return {
        "per_second": requests / seconds,
        "cpu_us": (_cpu_of_children() - cpu) / requests * 1e6,
        "server_share": (server_cpu(work.server_pid) - server) / seconds,
    }


def _last_line(command: list[str], environment: dict[str, str], stdin: str = "") -> dict[str, Any]:
    """Return the last line that a command prints, which is JSON."""
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


def _cpu_of_children() -> float:
    import resource  # not on Windows, where there is no wrk either

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
