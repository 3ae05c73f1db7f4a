"""What was measured on, as a part of each file of results."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from .processes import MALLOC

__all__ = ["machine"]

PACKAGES = (
    "aiohttp",
    "anyio",
    "cognigy-async",
    "httpcore",
    "httpx",
    "httpx2",
    "pydantic",
    "uvloop",
)


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": {
            **{package: _version(package) for package in PACKAGES},
            "node": _answer("node", "--version"),
            "wrk": _answer("wrk", "--version"),
        },
        "malloc": MALLOC,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else None


def _answer(program: str, option: str) -> str | None:
    """The version in the first line that a program says about itself."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    line = (done.stdout or done.stderr).partition("\n")[0]
    found = re.search(r"\d+(\.\d+)+", line)
    return found.group() if found else None
