"""Arguments of the form ``NAME=VALUE``, whose value is JSON where it parses as JSON, else text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

import typer

from .output import say


def parse_assignments(option: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Values by name, of arguments like ``cart_total=149.99``; `option` is for messages.

    Raises:
        typer.BadParameter: an argument without a name or an equals sign, or a name
            that comes twice.
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{option} {assignment!r}: write it as NAME=VALUE")
        if name in found:
            raise typer.BadParameter(f"{option} {name!r} is given twice; give each name once")
        found[name] = _value(f"{option} {name!r}", text)
    return found


def _value(subject: str, text: str) -> Any:
    def once(members: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(members)
        if len(value) < len(members):
            raise typer.BadParameter(f"{subject}: an object has the same member twice")
        return value

    try:
        # NaN and Infinity are JSON to Python only.
        return json.loads(text, object_pairs_hook=once, parse_constant=_refuse)
    except RecursionError:
        raise typer.BadParameter(f"{subject} is nested too deeply") from None
    except ValueError:
        if text.lstrip()[:1] in ("{", "["):
            say(f"Note: {subject} is no valid JSON and is sent as text; mind the quotes.")
        return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
