"""The names of the package."""

from __future__ import annotations

import subprocess
import sys

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
