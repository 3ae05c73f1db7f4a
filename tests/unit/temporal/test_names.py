"""The names of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cognigy_async
from cognigy_async import temporal


def test_the_names_are_sorted_and_exist() -> None:
    assert temporal.__all__ == sorted(temporal.__all__)
    assert all(getattr(temporal, name) is not None for name in temporal.__all__)
    assert not set(temporal.__all__) & set(cognigy_async.__all__)


def test_the_package_and_the_command_load_nothing_of_the_extra() -> None:
    program = (
        "import sys, cognigy_async, cognigy_async.temporal, cognigy_async.cli.app; "
        "cognigy_async.AsyncStateClient; "
        "print({'temporalio', 'fsspec', 'cryptography'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "set()\n"


@pytest.mark.parametrize("arguments", [["worker"], ["job", "status", "x"], ["dialog", "show", "x"]])
def test_a_command_without_the_extra_names_it(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['temporalio'] = None; from cognigy_async.cli import main; main()"
    )
    settings = {"COGNIGY_BASE_URL": "http://127.0.0.1:1", "COGNIGY_API_KEY": "k"}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | settings,
    )
    assert ended.returncode == 2
    assert "package temporalio is missing" in ended.stderr
    assert "pip install 'cognigy-async[temporal]'" in ended.stderr
