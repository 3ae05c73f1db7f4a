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
        path: the file.
        line: number of the line, counted from 1.
        problem: description of the fault.
    """

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class AuditChain:
    """A chain in the files of an `AuditReport`.

    Attributes:
        chain_id: id of the chain; None if an earlier version of the library wrote all of it.
        head: hash of the chain's last record in the files.
        confirmed: True if a record of the chain has one of the expected hashes. If False, records
            may be missing at the end of the chain, or the files may be older copies.
    """

    chain_id: str | None
    head: str
    confirmed: bool


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of `verify_audit`.

    Attributes:
        records: number of valid records.
        chains: the chains in the files, in the order of their last files.
        faults: the first fault of each file with faults.
        torn: files that end in an incomplete record, as after a crash. `records` does not count it.
        missing: expected hashes that no record has.
    """

    records: int
    chains: tuple[AuditChain, ...]
    faults: tuple[AuditFault, ...]
    torn: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """Hash of the last record of each chain."""
        return tuple(chain.head for chain in self.chains)

    @property
    def ok(self) -> bool:
        """Return whether there is neither a fault nor a missing hash."""
        return not self.faults and not self.missing


@dataclass(slots=True)
class _FileCheck:
    """The check of one file.

    Attributes:
        first: position before its first record.
        first_hash: hash of its first record.
        last: position after its last record; after a fault, unverified from the last line.
        chain_id: id of its chain; None if no record has one.
        found: expected hashes that the file has.
        previous: the file that it continues.
    """

    path: Path
    first: Position | None = None
    first_hash: str = ""
    last: Position = START
    chain_id: str | None = None
    records: int = 0
    fault: AuditFault | None = None
    torn: bool = False
    found: set[str] = field(default_factory=set)
    previous: _FileCheck | None = None

    def fail(self, problem: str) -> None:
        """Set the fault of the first record."""
        self.fault = AuditFault(self.path, 1, problem)


def verify_audit(
    paths: Iterable[AnyPath],
    *,
    key: str | bytes | SecretStr | None = None,
    heads: Iterable[str] = (),
    after: str | None = None,
) -> AuditReport:
    """Check that no record was changed, removed, inserted or moved, and no file given twice.

    Only a hash in `heads` finds records that are missing at the end of a chain, an older copy in
    place of a file, and a chain that is missing as a whole.

    Example: `verify_audit(["audit.jsonl"], heads=[saved_head]).ok`

    Args:
        paths: all files of a chain, or of several chains, in any order.
        key: the key of the sink, if the sink had a key.
        heads: the latest hash of each chain, saved from `JsonLinesAudit.head`. The report lists a
            hash that no record has as missing.
        after: hash of the last record before these files, if the files do not begin a chain.

    Raises:
        OSError: a file cannot be read.
        ConfigurationError: a hash or the key is malformed, or there is no file.
    """
    secret = key_bytes(key)
    expected = tuple(dict.fromkeys(heads))
    for head in (*expected, *(() if after is None else (after,))):
        if not HASH(head):
            raise ConfigurationError(
                "a hash in heads or after is malformed: it must be 64 digits of 0 to 9 and a to f"
            )
    files = [_check_file(Path(path), secret, frozenset(expected)) for path in paths]
    if not files:
        raise ConfigurationError("no audit file was given; pass the paths of the files to verify")
    _check_copies(files)
    chains = _check_continuity(files, after)
    found = {head for file in files for head in file.found}
    return AuditReport(
        records=sum(file.records for file in files),
        chains=chains,
        faults=tuple(file.fault for file in files if file.fault is not None),
        torn=tuple(file.path for file in files if file.torn),
        missing=tuple(head for head in expected if head not in found),
    )


def read_audit(path: AnyPath) -> Iterator[AuditRecord]:
    """Yield the records of a file without verifying the file. Skip an incomplete last line.

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
        check.first, check.first_hash = before, after.head
    elif not before.continues(check.last):
        if before.at == check.last.at:
            return f"record {before.seq} has the id of another chain"
        if before.seq == check.last.seq:
            return f"record {before.seq} does not follow the one before it"
        return f"record {before.seq} stands where record {check.last.seq} should"
    check.last = after
    check.chain_id = after.chain_id or check.chain_id
    return ""


def _is_valid(line: bytes, key: bytes | None) -> bool:
    try:
        parse_line(line, key)
    except ValueError:
        return False
    return True


def _check_copies(files: list[_FileCheck]) -> None:
    """Check that no two files begin with the same record. The one with fewer records is a copy."""
    originals: dict[str, _FileCheck] = {}
    for file in files:
        if file.first is None:
            continue
        other = originals.setdefault(file.first_hash, file)
        if other is file:
            continue
        copy, original = (other, file) if file.records > other.records else (file, other)
        originals[file.first_hash] = original
        if copy.fault is None:
            copy.fail(
                f"{original.path} begins with the same record: the file was given twice, or is an "
                "older copy; give each file once"
            )
        copy.first, copy.records = None, 0


def _check_continuity(files: list[_FileCheck], after: str | None) -> tuple[AuditChain, ...]:
    """Check that each file begins a chain or continues one other. Return the chains."""
    ends = {file.last.head: file for file in files if file.first is not None}
    continued: set[str] = set()
    for file in files:
        first = file.first
        if first is None or first.at == START.at:
            continue
        before = ends.get(first.head)
        if first.head in continued:
            file.fail(f"record {first.seq} continues a record that another file continues too")
        elif before is not None and first.continues(before.last):
            file.previous = before
        elif first.head != after:
            file.fail(
                f"record {first.seq}{_of_chain(file)} is the first, and the one before it ends "
                "none of the files; give all files of the chain, or the hash of the last record "
                "before them"
            )
        continued.add(first.head)
    return tuple(_chain(file) for head, file in ends.items() if head not in continued)


def _of_chain(file: _FileCheck) -> str:
    return f" of chain {file.chain_id}" if file.chain_id else ""


def _chain(last: _FileCheck) -> AuditChain:
    """Return the chain whose last file is given."""
    chain_id, confirmed, file = None, False, last
    while True:
        chain_id = chain_id or file.chain_id
        confirmed = confirmed or bool(file.found)
        if file.previous is None:
            return AuditChain(chain_id, last.last.head, confirmed)
        file = file.previous
