"""How a job begins: the journal is opened, and compared with what the job is asked to do now."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cognigy_async import ConfigurationError, Limits

from .errors import InputError, JournalRefusedError
from .fingerprint import Fingerprint, Mark
from .intake import Intake
from .journal import Batch, Journal
from .options import JobOptions
from .readers import STDIN, Reader, compare, open_input
from .records import OpenSend, Totals, reading


@dataclass(slots=True)
class Opened:
    """A journal and an input that belong together.

    Attributes:
        before: what earlier runs came to. last_line: the last one that is done.
        sends, groups: what they left open.
        quota: its window, as it was saved last.
        canary: how many rows come first; 0 for none.
    """

    journal: Journal
    reader: Reader
    before: Totals
    last_line: int
    sends: list[OpenSend]
    groups: dict[int, str]
    quota: str | None
    canary: int

    def close(self) -> None:
        """Close both."""
        self.reader.close()
        self.journal.close()


def open_job(
    source: str | Path,
    path: Path,
    options: JobOptions,
    circumstances: dict[str, Any],
    *,
    force: bool,
) -> Opened:
    """Open the input of a job and its journal.

    Args:
        circumstances: what a resumed run must have in common besides the options.
        force: go on with another input or other options.

    Raises:
        JournalRefusedError: the journal cannot be used for this.
        InputError: the input cannot be read.
    """
    if source != STDIN and not os.path.exists(source):
        raise InputError(f"{source} cannot be opened: there is no such file")
    journal = Journal(path)
    try:
        asked = {**options.record(), **circumstances}
        known: list[Mark] = []
        note = None
        if journal.resumed and not force:
            with reading(path):
                known = journal.marks()
                _compare_options(journal, asked)
                note = _compare_input(journal, source, known)
        else:
            journal.forget_marks()
        reader = open_input(
            source, format=options.format, text_columns=tuple(options.text_columns), known=known
        )
        try:
            if note is not None:
                reader.notes.append(note)
            found = reader.fingerprint
            identity = {"name": reader.name, "size": found.size, "modified_ns": found.modified_ns}
            meta = {"options": json.dumps(asked), "input": json.dumps(identity)}
            opened = Opened(
                journal,
                reader,
                journal.totals(),
                journal.last_line(),
                journal.open_sends(),
                journal.open_groups(),
                journal.stored("quota"),
                _canary(source, options),
            )
            # From here on keys of this job may be used, whatever else gets into the journal.
            now = time.time()
            journal.write(Batch(meta=meta, run=(journal.run, now, now, 0.0, 0, "{}", None)))
            return opened
        except BaseException:
            reader.close()
            raise
    except BaseException:
        journal.close()
        raise


def _canary(source: str | Path, options: JobOptions) -> int:
    """How many rows come first."""
    first = options.first
    if first is None:
        return 0
    if first.rows is not None:
        return first.rows
    if source == STDIN or not os.path.isfile(source):
        raise ConfigurationError(
            "canary: a share needs the number of all rows, which standard input and pipes do not "
            "tell; give a number of rows"
        )
    reader = open_input(source, format=options.format, text_columns=tuple(options.text_columns))
    intake = Intake(reader, Limits(), options.selection)
    try:
        rows = sum(1 for _ in intake.rows())
    finally:
        intake.close()
    assert first.share is not None
    return math.ceil(first.share * rows)


def _compare_options(journal: Journal, asked: dict[str, Any]) -> None:
    told = _differences(json.loads(journal.meta("options")), asked)
    if told:
        raise JournalRefusedError(
            f"journal {journal.path} belongs to a job with other options: {'; '.join(told)}. Give "
            "the same options, or --force to go on with these, or another --journal for a new job."
        )


def _compare_input(journal: Journal, source: str | Path, known: list[Mark]) -> str | None:
    """Refuse another input; what the user should know of one that may be another."""
    if source == STDIN:
        return None
    before = json.loads(journal.meta("input"))
    now = Fingerprint.from_stat(os.stat(source))
    then = Fingerprint(before["size"], before["modified_ns"])
    if then.size is None or then == now:
        return None
    difference = then.change(now) if then.size != now.size else None
    if difference is None:
        # Its time alone says little: a copy has another one, and the same content.
        try:
            compare(source, known)
        except InputError as error:
            difference = f"its content differs ({error})"
        else:
            return _doubt(source, known)
    raise JournalRefusedError(
        f"journal {journal.path} belongs to another input: {before['name']} then, {source} now, "
        f"and {difference}. Give the same input, or another --journal for a new job, or --force to "
        "go on with this one, which skips the lines that the journal has."
    )


def _doubt(source: str | Path, known: list[Mark]) -> str | None:
    """What is told of an input that has another time, and where it was read the same content."""
    if known and known[-1].last:
        return None
    read = known[-1].offset if known else 0
    return (
        f"{source} has another time than before. Its first {read:,} bytes are those that this job "
        "read; what follows had not been read, and cannot be compared."
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same in two sets of options, each by its name."""
    return [
        f"{name}: {_shown(old.get(name))} before, {_shown(new.get(name))} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _shown(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)
