"""Whether audit files are as they were written, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from pydantic import TypeAdapter, ValidationError

from ..errors import AuditError, ConfigurationError
from .hash_chain import HASH, START, Position, claimed, is_torn, key_bytes, read_line
from .records import AuditRecord

if TYPE_CHECKING:
    from pydantic import SecretStr

LONGEST_LINE = 16 * 1024 * 1024

AnyPath: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class AuditFault:
    """The first thing in a file that does not fit.

    Attributes:
        path, line: where it stands; lines count from 1.
        problem: what is wrong.
    """

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify_audit` found.

    Attributes:
        records: how many records fit.
        heads: the hash of the last record of each chain, in the order of the files.
        faults: the first of each file that has one.
        torn: files that end in a piece of a record, as a crash leaves it; it is not counted.
        missing: hashes that had to be there and are not.
    """

    records: int
    heads: tuple[str, ...]
    faults: tuple[AuditFault, ...]
    torn: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything fits."""
        return not self.faults and not self.missing


@dataclass(slots=True)
class _Checked:
    """One file: what holds inside it."""

    path: Path
    first: Position | None = None
    last: Position = START
    """After its last record. Where a fault stands before, as far as the last line tells."""
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
    """Check that no record was changed, removed, added or moved.

    Args:
        paths: the files, in any order: of one chain all that there are, of several chains too.
        key: that of the sink, if it had one.
        heads: hashes kept elsewhere (`JsonLinesAudit.head`); each must be that of a record. Without
            them nobody can tell whether the end is missing.
        after: the hash of the last record before these files, if they are not the beginning.

    Raises:
        OSError: a file cannot be read.
        ConfigurationError: no hash, no key, or no file.
    """
    secret = key_bytes(key)
    wanted = tuple(dict.fromkeys(heads))
    for given in (*wanted, *(() if after is None else (after,))):
        if not HASH(given):
            raise ConfigurationError("a head is 64 digits of 0 to 9 and a to f")
    files = [
        _check(Path(path), secret, frozenset(wanted)) for path in dict.fromkeys(map(Path, paths))
    ]
    if not files:
        raise ConfigurationError("there is no file to verify")
    ends = _check_joints(files, after)
    found = {one for file in files for one in file.found}
    return AuditReport(
        records=sum(file.records for file in files),
        heads=tuple(ends),
        faults=tuple(file.fault for file in files if file.fault is not None),
        torn=tuple(file.path for file in files if file.torn),
        missing=tuple(head for head in wanted if head not in found),
    )


def read_audit(path: AnyPath) -> Iterator[AuditRecord]:
    """The records of a file, unverified; a piece of one at its end is left out.

    Raises:
        OSError: it cannot be read.
        AuditError: a line is no record.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _parser().validate_json(line)
            except ValidationError:
                problem = f"{path}, line {number}: it is no audit record; verify the file."
                raise AuditError(problem) from None


@cache
def _parser() -> TypeAdapter[AuditRecord]:
    return TypeAdapter(AuditRecord)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE):
        yield line


def _check(path: Path, key: bytes | None, wanted: frozenset[str]) -> _Checked:
    """Go through one file, whose first record may continue another one."""
    checked = _Checked(path)
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if checked.fault is None:
                problem = _problem(checked, line, key)
                if problem:
                    checked.fault = AuditFault(path, number, problem)
                elif not checked.torn:
                    checked.records += 1
                    if checked.last.head in wanted:
                        checked.found.add(checked.last.head)
            elif place := claimed(line):
                # So that what follows in another file is not blamed.
                checked.last = place
    return checked


def _problem(checked: _Checked, line: bytes, key: bytes | None) -> str:
    """Why a line does not fit behind those before it; empty where it does."""
    if not line.endswith(b"\n"):
        if is_torn(line) and not _is_whole(line[:-1] + b"\n", key):
            checked.torn = True
            return ""
        return "it is not a line that an audit writes, and no piece of one either"
    try:
        link = read_line(line, key)
    except ValueError as error:
        return str(error)
    if checked.first is None:
        checked.first = link.before
    elif link.before != checked.last:
        return _gap(checked.last, link.before)
    checked.last = link.after
    return ""


def _is_whole(line: bytes, key: bytes | None) -> bool:
    try:
        read_line(line, key)
    except ValueError:
        return False
    return True


def _gap(expected: Position, found: Position) -> str:
    if found.seq == expected.seq:
        return f"record {found.seq} does not follow the one before it"
    return f"record {found.seq} stands where record {expected.seq} should"


def _check_joints(files: list[_Checked], after: str | None) -> list[str]:
    """Each file begins a chain or continues just one other; the ends of the chains."""
    ends = {file.last.head: file for file in files if file.first is not None}
    continued: set[str] = set()
    for file in files:
        first = file.first
        if first is None or first == START:
            continue
        before = ends.get(first.head)
        problem = ""
        if first.head in continued:
            problem = f"record {first.seq} continues what another file continues as well"
        elif first.head != after and (before is None or before.last != first):
            problem = (
                f"record {first.seq} is the first, and the one before it ends none of the files; "
                "give all files of the chain, or the hash of the last record before them"
            )
        if problem:
            file.fault = AuditFault(file.path, 1, problem)
        continued.add(first.head)
    return [head for head in ends if head not in continued]
