"""Count the steps that the package takes, which are the same in each run, unlike seconds.

A step is a line of Python. A loop inside C, such as a copy of a list, is one step: to see it, let
what it looks at count instead.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import cognigy_async

__all__ = ["Steps"]

PACKAGE = str(Path(cognigy_async.__file__).parent)


class Steps:
    """Counts the steps of this thread inside ``with``.

    Example::

        with Steps() as steps:
            run(main, backend="asyncio")
        assert steps.count < 1000
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: Any = None

    def __enter__(self) -> Steps:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        self.count += event == "line"
        return self._line
