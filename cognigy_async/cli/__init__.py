"""The command `cognigy-async`: one module a command, and `main`, which starts it.

Results go to stdout; progress, logs and errors to stderr. Exit status: 0 applied, 1 not applied,
2 bad usage or settings, 130 interrupted. Needs the extra ``cli``.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

EXTRA = frozenset({"pydantic_settings", "rich", "typer"})


def main() -> None:
    """Run the command with the arguments of the process, and exit."""
    try:
        from .app import app
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.stderr.write(
            f"cognigy-async: the command needs {error.name}, which comes with an extra: "
            "pip install 'cognigy-async[cli]'\n"
        )
        sys.exit(2)
    try:
        app(prog_name="cognigy-async")
    except KeyboardInterrupt:
        # No command was there yet to say more.
        sys.exit(130)
