"""Log lines of the logger `cognigy_async`, with their fields in `extra`."""

from __future__ import annotations

import logging
from contextlib import suppress

logger = logging.getLogger("cognigy_async")

is_enabled = logger.isEnabledFor
"""True if any handler may take lines of a level."""


def log(level: int, message: str, *arguments: object, **fields: object) -> None:
    """Log a line; `fields` become attributes of the record unless a name is taken.

    Never raise: a filter or record factory of the application must not end an update.
    """
    if not is_enabled(level):
        return
    try:
        logger.log(level, message, *arguments, extra=fields)
    except Exception:
        with suppress(Exception):
            logger.log(level, message, *arguments)
