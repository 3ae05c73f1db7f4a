"""The command `cognigy-async`: `main`, and one module or folder for each command; see `app`.

Results go to stdout. Progress, logs and errors go to stderr. Exit status: 0 applied, 1 not applied,
2 invalid usage or settings, 130 interrupted. Requires the extra ``cli``.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ._streams import flush, prepare, report

EXTRA = frozenset({"dotenv", "rich", "typer"})


def main() -> NoReturn:
    """Run the command with the arguments of the process, and exit."""
    prepare()
    status: int | str | None = 0
    try:
        _run_app()
    except SystemExit as exit_:
        status = exit_.code
        if isinstance(exit_.__context__, BrokenPipeError):
            # The reader of a help text or of a usage error, such as `head`, has left.
            status = getattr(exit_.__context__.__context__, "exit_code", 0)
    except KeyboardInterrupt:
        # A running command reports an interrupt itself. This one came before or after the command.
        status = 130
    except OSError as error:
        # If a usage error could not be printed, its own exit status is kept.
        status = getattr(error.__context__, "exit_code", None) or report(error)
    # Flush here: if Python's own flush at exit fails, the exit status becomes 120.
    for stream in (sys.stdout, sys.stderr):
        status = flush(stream, status)
    sys.exit(status)


def _run_app() -> None:
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        sys.stderr.write(
            f"cognigy-async: the package {error.name} is missing; "
            "install it with: pip install 'cognigy-async[cli]'\n"
        )
        sys.exit(2)
    app(prog_name="cognigy-async")
