"""`PauseLog`: what is logged of pauses, and when it wants to be called."""

from __future__ import annotations

import logging
import math

import pytest

from cognigy_async._utils.waker import Waker
from cognigy_async.engine.pause_log import (
    LONG_PAUSE,
    QUOTA,
    SETTLING_TIME,
    THROTTLED,
    PauseLog,
)


@pytest.fixture
def log() -> PauseLog:
    return PauseLog(Waker())


def test_a_pause_is_logged_with_its_reason_and_its_length(
    log: PauseLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.pause(THROTTLED, 10.0, 40.0)
    assert (log.ends_at, log.check_at) == (40.0, math.inf), "an alarm would be another timer"
    log.check(40.0, busy=True)
    assert (log.ends_at, log.check_at) == (43.0, 43.0)
    assert len(caplog.records) == 1
    log.check(43.0, busy=True)
    assert (log.ends_at, log.check_at) == (math.inf, math.inf)
    begun, ended = caplog.records
    assert begun.getMessage() == "updates wait 30.0 s: the server asked to wait (429 or 503)"
    assert ended.getMessage() == (
        "updates continue after 30.0 s: the server asked to wait (429 or 503)"
    )
    assert {one.levelno for one in caplog.records} == {logging.WARNING}
    assert [(vars(one)["pause"], vars(one)["seconds"]) for one in caplog.records] == [
        ("throttled", 30.0),
        ("throttled", 30.0),
    ]


@pytest.mark.parametrize("until", [LONG_PAUSE - 0.1, math.inf, -1.0])
def test_a_pause_that_is_short_or_has_no_known_end_is_not_logged(
    log: PauseLog, until: float, caplog: pytest.LogCaptureFixture
) -> None:
    assert log.threshold == LONG_PAUSE
    log.pause(QUOTA, 0.0, until)
    assert log.ends_at == math.inf
    assert caplog.records == []


def test_a_pause_that_is_extended_is_one_pause(
    log: PauseLog, caplog: pytest.LogCaptureFixture
) -> None:
    for now, until in ((0.0, 10.0), (0.0, 10.0), (1.0, 20.0), (20.0 + SETTLING_TIME / 2, 50.0)):
        log.pause(QUOTA, now, until)
        log.check(now, busy=True)
    log.pause(QUOTA, 50.5, 51.0)
    log.check(60.0, busy=True)
    assert caplog.messages == [
        "updates wait 10.0 s: the rate limit is used up",
        "updates continue after 50.0 s: the rate limit is used up",
    ]
    log.pause(QUOTA, 61.0, 71.0)
    assert len(caplog.records) == 3


def test_the_end_of_a_pause_may_be_corrected(
    log: PauseLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.pause(QUOTA, 0.0, 60.0)
    assert log.threshold == 0.0
    log.pause(QUOTA, 1.0, 3.0)
    assert log.ends_at == 3.0
    log.check(3.0, busy=True)
    log.check(6.0, busy=True)
    assert caplog.messages[1] == "updates continue after 3.0 s: the rate limit is used up"
    assert log.threshold == LONG_PAUSE


def test_pauses_of_several_reasons_are_apart(
    log: PauseLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.pause(QUOTA, 0.0, 60.0)
    log.pause(THROTTLED, 1.0, 3601.0)
    assert log.ends_at == 60.0
    log.end(THROTTLED, 100.0)
    log.check(100.0, busy=True)
    log.check(103.0, busy=True)
    assert caplog.messages == [
        "updates wait 60.0 s: the rate limit is used up",
        "updates wait 3600.0 s: the server asked to wait (429 or 503)",
        "updates continue after 60.0 s: the rate limit is used up",
        "updates continue after 99.0 s: the server asked to wait (429 or 503)",
    ]


def test_no_pause_ends_that_did_not_begin(log: PauseLog) -> None:
    log.end(THROTTLED, 1.0)
    assert log.ends_at == math.inf


def test_a_server_that_is_away_is_logged_after_some_time(
    log: PauseLog, caplog: pytest.LogCaptureFixture
) -> None:
    for now in (0.0, 1.0, 2.0):
        log.failed(now, "gateway")
    assert log.is_away
    assert log.check_at == log.ends_at == LONG_PAUSE
    log.failed(4.0, "not_sent")
    log.check(LONG_PAUSE, busy=True)
    assert log.check_at == math.inf
    log.failed(8.0, "not_sent")
    log.check(90.0, busy=True)
    log.served(100.0)
    assert not log.is_away
    assert caplog.messages == [
        "updates wait for the server: it served no request for 5.0 s (not_sent)",
        "the server serves requests again after 100.0 s",
    ]
    log.failed(101.0, "not_sent")
    assert log.check_at == 106.0


@pytest.mark.parametrize("served", [True, False], ids=["served soon", "nothing waits"])
def test_a_failure_alone_is_not_logged(
    log: PauseLog, served: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log.failed(0.0, "gateway")
    if served:
        log.served(1.0)
    else:
        log.check(LONG_PAUSE, busy=False)
    assert (log.is_away, log.check_at) == (False, math.inf)
    assert caplog.records == []
