"""The official JavaScript client: installation and calls.

``python -m tests.interop.official`` installs it, which the first test does as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "interop"
"""Ignored by git, and kept between runs."""

NODE = shutil.which("node")


def install() -> Path:
    """Install the version in package.json if it is missing, and return its folder."""
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    ((name, version),) = wanted.items()
    installed = CACHE / "node_modules" / name / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != version:
        npm = shutil.which("npm")
        assert npm is not None, "there is node, and npm is missing, which comes with it"
        CACHE.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(HERE / file, CACHE)
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--silent")
        subprocess.run([npm, "ci", *quiet], cwd=CACHE, check=True, timeout=300)
    return CACHE


def call(
    base_url: str,
    credentials: dict[str, str],
    *calls: tuple[str, dict[str, Any]],
    login: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the value or error of each call, after the login if there is one."""
    assert NODE is not None
    asked = {
        "modules": str(CACHE / "package.json"),
        "baseUrl": base_url,
        "credentials": credentials,
        "login": login,
        "calls": calls,
    }
    # No proxy for loopback.
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [NODE, str(HERE / "official.js")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


if __name__ == "__main__":
    if NODE is None:
        print("no Node.js, so the official client is not installed")
    else:
        install()
