"""Log lines under `cognigy_async`, with their fields in `extra`."""

from __future__ import annotations

import logging
from contextlib import suppress

logger = logging.getLogger("cognigy_async")

is_enabled = logger.isEnabledFor
"""Whether lines of a level go anywhere."""


def log(level: int, message: str, *arguments: object, **fields: object) -> None:
    """Log a line.

    Never raises: a filter, a record factory or a field's name that an application has taken for
    something else must not end an update.
    """
    if not is_enabled(level):
        return
    try:
        logger.log(level, message, *arguments, extra=fields)
    except Exception:
        with suppress(Exception):
            logger.log(level, message, *arguments)
