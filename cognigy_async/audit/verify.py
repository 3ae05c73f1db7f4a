"""Reading and verifying audit files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from pydantic import TypeAdapter, ValidationError

from ..errors import AuditError, ConfigurationError
from .hash_chain import (
    HASH,
    START,
    Position,
    is_torn,
    key_bytes,
    parse_line,
    unverified_position,
)
from .records import AuditRecord

if TYPE_CHECKING:
    from pydantic import SecretStr

MAX_LINE = 16 * 1024 * 1024
"""Maximum bytes of a line. The rest of a longer line is read as another line and is a fault."""

AnyPath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class AuditFault:
    """The first fault of an audit file.

    Attributes:
        path, line: the file and the number of the line, counted from 1.
        problem: description of the fault.
    """

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of `verify_audit`.

    Attributes:
        records: number of valid records.
        heads: hash of the last record of each chain, in the order of the files.
        faults: the first fault of each file that has one.
        torn: files that end in a part of a record, as a crash leaves it; the part is not counted.
        missing: expected hashes that no record has.
    """

    records: int
    heads: tuple[str, ...]
    faults: tuple[AuditFault, ...]
    torn: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Return whether there is neither a fault nor a missing hash."""
        return not self.faults and not self.missing


@dataclass(slots=True)
class _FileCheck:
    """The check of one file.

    Attributes:
        first: position before its first record.
        last: position after its last record; after a fault, unverified from the last line.
        found: expected hashes that the file has.
    """

    path: Path
    first: Position | None = None
    last: Position = START
    records: int = 0
    fault: AuditFault | None = None
    torn: bool = False
    found: set[str] = field(default_factory=set)


def verify_audit(
    paths: Iterable[AnyPath],
    *,
    key: str | bytes | SecretStr | None = None,
    heads: Iterable[str] = (),
    after: str | None = None,
) -> AuditReport:
    """Check that no record was changed, removed, inserted or moved.

    Example: `verify_audit(["audit.jsonl"], heads=[saved_head]).ok`

    Args:
        paths: all files of a chain, or of several chains, in any order.
        key: the key of the sink, if it had one.
        heads: hashes saved from `JsonLinesAudit.head`. One that no record has is reported as
            missing. Without them, records removed from the end of a chain go unnoticed.
        after: hash of the last record before these files, if they do not begin a chain.

    Raises:
        OSError: a file cannot be read.
        ConfigurationError: a hash or the key is malformed, or there is no file.
    """
    secret = key_bytes(key)
    expected = tuple(dict.fromkeys(heads))
    for head in (*expected, *(() if after is None else (after,))):
        if not HASH(head):
            raise ConfigurationError("a head is 64 digits of 0 to 9 and a to f")
    files = [
        _check_file(Path(path), secret, frozenset(expected))
        for path in dict.fromkeys(map(Path, paths))
    ]
    if not files:
        raise ConfigurationError("there is no file to verify")
    ends = _check_continuity(files, after)
    found = {head for file in files for head in file.found}
    return AuditReport(
        records=sum(file.records for file in files),
        heads=tuple(ends),
        faults=tuple(file.fault for file in files if file.fault is not None),
        torn=tuple(file.path for file in files if file.torn),
        missing=tuple(head for head in expected if head not in found),
    )


def read_audit(path: AnyPath) -> Iterator[AuditRecord]:
    """Yield the records of a file without verifying it. An incomplete last line is skipped.

    Raises:
        OSError: the file cannot be read.
        AuditError: a line is not a record.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _parser().validate_json(line)
            except ValidationError:
                problem = f"{path}, line {number}: not an audit record; verify the file."
                raise AuditError(problem) from None


@cache
def _parser() -> TypeAdapter[AuditRecord]:
    return TypeAdapter(AuditRecord)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE):
        yield line


def _check_file(path: Path, key: bytes | None, expected: frozenset[str]) -> _FileCheck:
    """Check a file by itself. Its first record may continue another file."""
    check = _FileCheck(path)
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if check.fault is None:
                problem = _problem(check, line, key)
                if problem:
                    check.fault = AuditFault(path, number, problem)
                elif not check.torn:
                    check.records += 1
                    if check.last.head in expected:
                        check.found.add(check.last.head)
            elif position := unverified_position(line):
                # Keep the position, so that the file that continues this one gets no fault too.
                check.last = position
    return check


def _problem(check: _FileCheck, line: bytes, key: bytes | None) -> str:
    """Return why a line does not follow the lines before it; empty if it does."""
    if not line.endswith(b"\n"):
        if is_torn(line) and not _is_valid(line[:-1] + b"\n", key):
            check.torn = True
            return ""
        return "it is neither a line of an audit file nor a part of one"
    try:
        before, after = parse_line(line, key)
    except ValueError as error:
        return str(error)
    if check.first is None:
        check.first = before
    elif before != check.last:
        if before.seq == check.last.seq:
            return f"record {before.seq} does not follow the one before it"
        return f"record {before.seq} stands where record {check.last.seq} should"
    check.last = after
    return ""


def _is_valid(line: bytes, key: bytes | None) -> bool:
    try:
        parse_line(line, key)
    except ValueError:
        return False
    return True


def _check_continuity(files: list[_FileCheck], after: str | None) -> list[str]:
    """Check that each file begins a chain or continues one other. Return the chains' heads."""
    ends = {file.last.head: file for file in files if file.first is not None}
    continued: set[str] = set()
    for file in files:
        first = file.first
        if first is None or first == START:
            continue
        before = ends.get(first.head)
        problem = ""
        if first.head in continued:
            problem = f"record {first.seq} continues a record that another file continues too"
        elif first.head != after and (before is None or before.last != first):
            problem = (
                f"record {first.seq} is the first, and the one before it ends none of the files; "
                "give all files of the chain, or the hash of the last record before them"
            )
        if problem:
            file.fault = AuditFault(file.path, 1, problem)
        continued.add(first.head)
    return [head for head in ends if head not in continued]
