"""Numbers and durations in the output of the commands."""

from __future__ import annotations

import pytest

from cognigy_async.cli._output import counted, duration, printable


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0123, "12 ms"),
        (0.9994, "999 ms"),
        (0.9995, "1.0 s"),
        (59.94, "59.9 s"),
        (59.95, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7260.0, "2 h 1 min"),
    ],
)
def test_a_duration_has_the_unit_in_which_it_reads_best(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_a_noun_follows_its_number() -> None:
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d-1 größe 😀 a\u3000b", "d-1 größe 😀 a\u3000b"),
        ("\x1b[2J\x9b31m\x07\x7f", r"\x1b[2J\x9b31m\x07\x7f"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202egnp\u2066\u200f\u061c", r"\u202egnp\u2066\u200f\u061c"),
        ("\u2028\u200b\ufeff", r"\u2028\u200b\ufeff"),
        ("\udc80 \U000e0041", r"\udc80 \U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
