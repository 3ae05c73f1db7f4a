"""Rows of a journal as values."""

from __future__ import annotations

from cognigy_async import BadRequestError
from cognigy_async.bulk import InputError
from cognigy_async.bulk.journal.schema import Failure, Totals


def test_a_failure_is_described_by_its_error() -> None:
    assert Failure.of(InputError("text")) == Failure("InputError", "text", None)
    failure = Failure.of(BadRequestError("text", status=400))
    assert (failure.type, failure.status) == ("BadRequestError", 400)
    assert "text" in failure.message


def test_completed_rows_are_those_with_an_outcome() -> None:
    assert Totals(succeeded=1, failed=2, ambiguous=4).completed == 7
