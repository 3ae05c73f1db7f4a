"""Log lines of the library."""

from __future__ import annotations

import logging

import pytest

from cognigy_async._utils.logging import is_enabled, log


def test_fields_become_attributes_of_the_record(caplog: pytest.LogCaptureFixture) -> None:
    log(logging.WARNING, "dialog %r is paused", "d-1", dialog_id="d-1")
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("cognigy_async", "dialog 'd-1' is paused")
    assert record.__dict__["dialog_id"] == "d-1"


def test_a_field_with_a_taken_name_does_not_lose_the_line(caplog: pytest.LogCaptureFixture) -> None:
    log(logging.WARNING, "a line", name="taken by logging itself")
    assert caplog.messages == ["a line"]


def test_a_filter_that_raises_ends_nothing() -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("broken filter")

    logger = logging.getLogger("cognigy_async")
    logger.addFilter(broken)
    try:
        log(logging.WARNING, "a line")
    finally:
        logger.removeFilter(broken)


def test_a_level_that_nobody_takes_is_not_enabled(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "cognigy_async"):
        assert not is_enabled(logging.WARNING)
        log(logging.WARNING, "a line")
    assert not caplog.messages
