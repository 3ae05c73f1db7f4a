"""Audit files as a sink writes them, and lines of a hash chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cognigy_async import read_audit
from cognigy_async.audit.hash_chain import START, format_line
from cognigy_async.audit.json_lines import JsonLinesAudit
from tests.unit._builders import audit_record

KEY = b"canary-key-of-an-audit"


def chained(records: Iterable[Mapping[str, Any]], key: bytes | None = None) -> list[bytes]:
    """Return the lines of a chain that starts with the first record."""
    made = []
    position = START
    for fields in records:
        line, position = format_line(position, fields, key)
        made.append(line)
    return made


def wrote(path: Path, *numbers: int, **options: Any) -> str:
    """Write records with a new sink, and return the head of the chain."""
    sink = JsonLinesAudit(path, **options)
    sink.open()
    sink.write([audit_record(number) for number in numbers])
    sink.close()
    assert sink.head is not None
    return sink.head


def ids(*paths: Path) -> list[str]:
    """Return the ids of the updates in files, in order."""
    return [record.update_id for path in paths for record in read_audit(path)]
