"""Open a job: check that its journal and input belong to the requested job."""

from __future__ import annotations

import json
import math
import os
import time
from codecs import getincrementaldecoder
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cognigy_async import ConfigurationError, Limits, StateApi

from .errors import InputError, JournalRefusedError
from .input.fingerprint import Fingerprint, Mark
from .input.reader import STDIN, InputReader, compare_input, open_input
from .input.row import EXPIRES_AT
from .input.row_reader import RowReader
from .journal.journal import Journal
from .journal.reading import UNREADABLE, parse_object, refusal
from .journal.schema import EarlierRuns
from .options import JobOptions

EXPIRES_AT_NAME = EXPIRES_AT.encode()
BLOCK = 1 << 20
MAY_CHANGE = {"limit", "max_in_flight", "rate"}
"""Options that do not change what is applied."""


@dataclass(slots=True)
class OpenedJob:
    """A journal and an input that belong together.

    Attributes:
        rows: The rows of the input.
        earlier: State left by earlier runs.
        canary: Number of rows to run first; 0 for no canary.
        ends_at: Seconds of the epoch at which the sessions end by `session_ttl`; None without it.
        may_have_ends: True if sessions end by `session_ttl` or perhaps by a row, and the input is a
            file. A pipe cannot be read twice.
    """

    journal: Journal
    reader: InputReader
    rows: RowReader
    earlier: EarlierRuns
    canary: int
    ends_at: float | None
    may_have_ends: bool

    @property
    def is_pipe(self) -> bool:
        """True if a read may wait for the writer of a pipe."""
        return self.reader.fingerprint.size is None

    def close(self) -> None:
        """Close the journal and the input."""
        self.rows.close()
        self.journal.close()


def open_job(
    source: str | Path,
    path: Path,
    options: JobOptions,
    circumstances: Mapping[str, Any],
    *,
    limits: Limits,
    api: StateApi,
    force: bool,
) -> OpenedJob:
    """Open the input of a job and its journal.

    Args:
        path: File of the journal.
        circumstances: Further values, by name, that must not change when a job resumes, but for
            those of `MAY_CHANGE`.
        force: Resume although the input or the options differ, or the `-wal` is missing.

    Raises:
        JournalRefusedError: The journal cannot be used for this job.
        InputError: The input cannot be read.
    """
    if source != STDIN and not os.path.exists(source):
        raise InputError(f"{source} cannot be opened: there is no such file")
    is_file = source != STDIN and os.path.isfile(source)
    may_have_ends = is_file and (
        options.session_ttl is not None or _may_have_expiry(source, options)
    )
    journal = Journal(path, force=force)
    try:
        asked = {**options.record(), **circumstances}
        resumes = journal.resumed and not force
        known: list[Mark] = []
        note = None
        if resumes:
            try:
                known = journal.marks()
                _compare_options(journal, asked)
                note = _compare_input(journal, source, known)
            except UNREADABLE as error:
                raise refusal(path, error) from error
        reader = open_input(
            source, format=options.format, table=options.table_with_texts, known=known
        )
        try:
            if note is not None:
                reader.notes.append(note)
            found = reader.fingerprint
            identity = {"name": reader.name, "size": found.size, "modified_ns": found.modified_ns}
            earlier = journal.earlier_runs()
            canary = options.canary_rows or 0
            if options.canary_share is not None:
                canary = _share_of_rows(options.canary_share, source, options)
            meta = {"options": json.dumps(asked), "input": json.dumps(identity)}
            journal.begin_run(meta, same_input=resumes)
            rows = RowReader(reader, options, limits, api, journal)
            ends_at = None
            if options.session_ttl is not None:
                began = time.time() if earlier.began is None else earlier.began
                ends_at = began + options.session_ttl
            return OpenedJob(journal, reader, rows, earlier, canary, ends_at, may_have_ends)
        except BaseException:
            reader.close()
            raise
    except BaseException:
        journal.close()
        raise


def _share_of_rows(share: float, source: str | Path, options: JobOptions) -> int:
    """Count the rows of the input, and return this share of them."""
    if source == STDIN or not os.path.isfile(source):
        raise ConfigurationError(
            "canary: a share needs the number of all rows, which standard input and pipes do not "
            "have; give a number of rows"
        )
    reader = open_input(source, format=options.format, table=options.table_with_texts)
    rows = RowReader(reader, options, Limits())
    try:
        return math.ceil(share * sum(1 for _ in rows.rows()))
    finally:
        rows.close()


def _may_have_expiry(source: str | Path, options: JobOptions) -> bool:
    """Return whether a file may have `expires_at`; of plain text without the name, False."""
    if options.table.encoding is not None or EXPIRES_AT in options.table.columns.values():
        return True
    with open(source, "rb") as file:
        block = file.read(BLOCK)
        try:
            getincrementaldecoder("utf-8")().decode(block)
        except UnicodeDecodeError:
            return True  # It may be compressed.
        end = b""
        while block:
            if EXPIRES_AT_NAME in end + block:
                return True
            end = block[-len(EXPIRES_AT_NAME) :]
            block = file.read(BLOCK)
    return False


def _compare_options(journal: Journal, asked: Mapping[str, Any]) -> None:
    before = parse_object(journal.meta("options"))
    differences = [
        f"{name}: {_shown(before.get(name))} before, {_shown(asked.get(name))} now"
        for name in sorted({*before, *asked} - MAY_CHANGE)
        if before.get(name) != asked.get(name)
    ]
    if differences:
        raise JournalRefusedError(
            f"journal {journal.path} belongs to a job with other options: "
            f"{'; '.join(differences)}. Give the same options, or --force to go on with these, or "
            "another --journal for a new job."
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


def _compare_input(journal: Journal, source: str | Path, known: list[Mark]) -> str | None:
    """Refuse an input that differs. Return a note if a part of it cannot be compared."""
    if source == STDIN:
        return None
    before = parse_object(journal.meta("input"))
    now = Fingerprint.from_stat(os.stat(source))
    then = Fingerprint(before["size"], before["modified_ns"])
    if then.size is None or then == now:
        return None
    difference = then.change(now) if then.size != now.size else None
    if difference is None:
        # Compare only the content, because a copy may have another modification time.
        try:
            compare_input(source, known)
        except InputError as error:
            difference = f"its content differs ({error})"
        else:
            return _uncompared(source, known)
    raise JournalRefusedError(
        f"journal {journal.path} belongs to another input: {before['name']} then, {source} now, "
        f"and {difference}. Give the same input, or another --journal for a new job, or --force to "
        "go on with this one, which skips the lines that the journal has."
    )


def _uncompared(source: str | Path, known: list[Mark]) -> str | None:
    if known and known[-1].last:
        return None
    read = known[-1].offset if known else 0
    return (
        f"{source} has another time than before. Its first {read:,} bytes are those that this job "
        "read; the rest had not been read and cannot be compared."
    )
