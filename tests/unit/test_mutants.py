"""The faults of tests/mutants still apply to the source."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.__main__ import MARKED, PACKAGE
from tests.mutants.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_exactly_one_place(fault: Fault) -> None:
    source = (PACKAGE / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1
    changed = source.replace(fault.old, fault.new)
    assert changed != source
    ast.parse(changed)


def test_the_page_lists_each_fault_and_all_are_caught() -> None:
    page = (PACKAGE.parent / "docs" / "proof.md").read_text(encoding="utf-8")
    marked = MARKED.search(page)
    assert marked is not None
    rows = [row.strip("|").split("|") for row in marked[2].splitlines()[2:]]
    assert [row[0].strip() for row in rows] == [fault.name for fault in FAULTS]
    assert "not caught" not in marked[2]


def test_the_faults_have_names_of_their_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
