"""Choose which variables of an update go to which field of a record; nothing else leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cognigy_async import ConfigurationError, UpdateEvent

from .target import EventRejectedError

FieldSource: TypeAlias = str | Callable[[UpdateEvent], object]
"""Name of a variable, or a function that returns the value of a field, or None for no value."""

SOURCES = '"session.NAME", "user.NAME", "next_step", "dialog_id", "metadata.KEY" or a function'


PATHS = {"dialog_id": ("dialog_id",), "next_step": ("transition", "nextStep")}


class FieldMapping:
    """The fields of a record, and where their values come from.

    An event that has a value for none of the fields is not sent. Dialog id and metadata alone send
    no event, because each event has them, unless the mapping has nothing else.

    Args:
        owner: name of the class in messages.
        fields: source of each field: ``"session.NAME"`` and ``"user.NAME"`` are variables, and
            ``"session.NAME.MEMBER"`` a member of one that is an object; ``"next_step"``,
            ``"dialog_id"``, ``"metadata.KEY"``; or a function of the event, which converts or
            combines values.
        key: field that identifies the record; None if there is no such field.

    Raises:
        ConfigurationError: the mapping is empty, a source is unknown, or `key` is not mapped.
    """

    def __init__(
        self, owner: str, fields: Mapping[str, FieldSource], key: str | None = None
    ) -> None:
        self.fields = frozenset(fields)
        self.key = key
        self._sources = {name: _read_source(owner, name, source) for name, source in fields.items()}
        if not fields:
            raise ConfigurationError(f'{owner}: map at least one field, e.g. {{"a": "session.a"}}')
        if key is not None and key not in fields:
            raise ConfigurationError(
                f"{owner}: the mapping needs a source for {key!r}, which identifies the record"
            )
        self._always = frozenset(
            name
            for name, source in self._sources.items()
            if isinstance(source, tuple) and source[0] in ("dialog_id", "metadata")
        )
        if len(self._always) == len(fields):
            self._always = frozenset()

    def read(self, event: UpdateEvent) -> dict[str, Any] | None:
        """Return the fields that an event sets, or None if it sets none.

        Raises:
            EventRejectedError: the event does not identify its record, or a function of the mapping
                failed. The text has no value.
        """
        values = event.payload | {"dialog_id": event.dialog_id, "metadata": dict(event.metadata)}
        found: dict[str, Any] = {}
        for name, source in self._sources.items():
            if isinstance(source, tuple):
                value = _look_up(values, source)
            else:
                value = _call(name, source, event)
            if value is not None:
                found[name] = value
        if found.keys() <= self._always:
            return None
        if self.key is not None and found.get(self.key, "") == "":
            raise EventRejectedError(
                f"dialog {event.dialog_id!r}: the event has no value for {self.key!r}, which "
                "identifies the record; set its source with each update, best as metadata"
            )
        return found


def _read_source(
    owner: str, field: str, source: FieldSource
) -> tuple[str, ...] | Callable[[UpdateEvent], object]:
    """Return the path of a value in an event, or the function."""
    if callable(source):
        return source
    kind, _, rest = str(source).partition(".")
    if kind == "metadata" and rest:
        return kind, rest
    path = tuple(rest.split("."))
    if kind in ("session", "user") and all(path):
        return kind, *path
    if source in PATHS:
        return PATHS[source]
    raise ConfigurationError(f"{owner}: the source of field {field!r} must be {SOURCES}")


def _look_up(values: object, path: tuple[str, ...]) -> object:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def join_options(value: object) -> object:
    """Return a list of texts as one text, as CRMs have the options of a checkbox or picklist."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ";".join(value)
    return value


def _call(field: str, function: Callable[[UpdateEvent], object], event: UpdateEvent) -> object:
    """Return a value that JSON can hold."""
    try:
        value = function(event)
        json.dumps(value, allow_nan=False)
        return value
    except Exception as error:
        reason = type(error).__name__
    # Raised outside of the handler, because the text of the exception may have values.
    raise EventRejectedError(
        f"dialog {event.dialog_id!r}: the function for field {field!r} failed with {reason}; "
        "correct it, then retry the dead letter"
    )
