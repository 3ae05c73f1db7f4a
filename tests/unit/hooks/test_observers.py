"""`Observations`: all observers see all of an operation, and none can harm it."""

from __future__ import annotations

from typing import Any

import pytest

from cognigy_async.hooks.observers import Observations
from tests.unit._builders import request, response


class Noting:
    """An observer, and the observation of each operation; `failing` names what raises."""

    def __init__(self, *, failing: str = "") -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._failing = failing

    def _note(self, *what: Any) -> None:
        self.seen.append(what)
        if what[0] == self._failing:
            raise RuntimeError("canary")

    def accepted(self, *of: Any) -> Noting:
        self._note("accepted", *of)
        return self

    def request_starts(self, *of: Any) -> None:
        self._note("request_starts", *of)

    def request_ends(self, *of: Any) -> None:
        self._note("request_ends", *of)

    def settled(self, *of: Any) -> None:
        self._note("settled", *of)


class Ignoring:
    def accepted(self, *of: Any) -> None:
        return None


def observe(observations: Observations) -> list[tuple[Any, ...]]:
    sent, answer, error = request(), response(), OSError()
    observations.request_starts(sent, 1)
    observations.request_ends(sent, None, error)
    observations.request_ends(sent, answer, None)
    observations.settled(None, 2)
    return [
        ("request_starts", sent, 1),
        ("request_ends", sent, None, error),
        ("request_ends", sent, answer, None),
        ("settled", None, 2),
    ]


def test_each_observer_sees_everything() -> None:
    observers = Noting(), Noting()
    made = Observations(observers, "update", "d", "u")
    assert made
    expected = [("accepted", "update", "d", "u"), *observe(made)]
    assert [observer.seen for observer in observers] == [expected, expected]


def test_an_observer_may_ignore_an_operation() -> None:
    made = Observations((Ignoring(),), "read", "d", "u")
    assert not made
    observe(made)


@pytest.mark.parametrize("failing", ["accepted", "request_starts", "request_ends", "settled"])
def test_one_that_raises_is_logged_and_harms_nothing(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, other = Noting(failing=failing), Noting()
    observe(Observations((broken, other), "update", "d", "u"))
    assert len(other.seen) == 5
    assert f"observer Noting.{failing} raised RuntimeError" in caplog.messages
    assert "canary" not in caplog.text


def test_updates_that_share_a_request_are_observed_together() -> None:
    one, other = Noting(), Noting()
    several = [Observations((each,), "update", "d", "u") for each in (one, other)]
    observe(Observations.joined(several))
    assert len(one.seen) == len(other.seen) == 5
