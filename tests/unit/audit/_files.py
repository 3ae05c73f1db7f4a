"""Audit files as a sink writes them, and lines of a hash chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cognigy_async import read_audit
from cognigy_async.audit.hash_chain import START, Position, format_line
from cognigy_async.audit.json_lines import JsonLinesAudit
from tests.unit._builders import audit_record

KEY = b"canary-key-of-an-audit"


CHAIN_ID = "5e" * 16

OLD = (
    b'{"seq":0,"chain":"sha256","prev":"' + b"0" * 64 + b'","update_id":"u-0","status":200,'
    b'"hash":"3e335f86c801131e70a7f36732a76268976faabb3a42987fbee80306f1b7bad2"}\n',
    b'{"seq":1,"chain":"sha256",'
    b'"prev":"3e335f86c801131e70a7f36732a76268976faabb3a42987fbee80306f1b7bad2",'
    b'"update_id":"u-1","status":200,'
    b'"hash":"5210e12a49c868936d7cb57e7405267b6915e62cbe382e1988ef2b70fe715b47"}\n',
)
"""Lines of a version whose chains had no id."""


def chained(
    records: Iterable[Mapping[str, Any]],
    key: bytes | None = None,
    *,
    start: Position = replace(START, chain_id=CHAIN_ID),  # noqa: B008 (a constant)
) -> list[bytes]:
    """Return the lines of records that follow a position, by default the begin of a chain."""
    made = []
    position = start
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
