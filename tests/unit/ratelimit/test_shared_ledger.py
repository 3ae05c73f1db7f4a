"""The ledger in the file of a shared limit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import RateLimit
from cognigy_async.ratelimit.shared_ledger import (
    BATCHES_PER_WINDOW,
    LEASE_SHARE,
    Grant,
    SharedLedger,
    Usage,
)

LIMIT = RateLimit(60, per=2, guard=0.0)


def visit(content: bytes, now: float, *, offset: float = 0.0) -> SharedLedger:
    return SharedLedger(LIMIT, content, now, offset)


def take_all(content: bytes, now: float, *, live: bool) -> tuple[int, bytes]:
    taken = 0
    for number in range(100):
        ledger = visit(content, now)
        taken += ledger.take(f"all-{now}-{live}-{number}", 60, now, live=live).count
        content = ledger.content()
    return taken, content


def test_a_batch_is_a_twentieth_and_all_batches_are_the_limit() -> None:
    ledger = visit(b"", 100.0)
    assert ledger.take("a", 60, 100.0, live=True) == Grant(60 // BATCHES_PER_WINDOW)
    assert visit(ledger.content(), 100.0).used == 3
    taken, content = take_all(ledger.content(), 100.0, live=True)
    assert taken == 57
    refused = visit(content, 100.0).take("b", 1, 100.0, live=True)
    assert refused.count == 0
    assert 0 < refused.wait <= LEASE_SHARE * 2


def test_bulk_work_leaves_the_last_tenth_and_takes_it_bit_by_bit() -> None:
    taken, content = take_all(b"", 100.0, live=False)
    assert taken == 60 - 6 + 1
    assert take_all(content, 100.3, live=False)[0] == 0
    assert take_all(content, 100.35, live=False)[0] == 1
    assert take_all(content, 100.35, live=True)[0] == 5


@pytest.mark.parametrize("burst", [1, 2, 5])
def test_after_a_burst_slots_come_one_by_one(burst: int) -> None:
    limit = RateLimit(60, per=2, guard=0.0, burst=burst)
    content, taken, now = b"", [], 100.0
    for number in range(4000):
        ledger = SharedLedger(limit, content, now, 0.0)
        grant = ledger.take(str(number), 60, now, live=True)
        taken += [now] * grant.count
        content = ledger.content()
        assert grant.count or grant.wait > 0
        now += 0.001
    assert sum(at < 100.005 for at in taken) == burst
    spans = [taken[index + burst] - at for index, at in enumerate(taken[:-burst])]
    assert min(spans) >= 2 / 60 * 0.9
    assert len(taken) == pytest.approx(4 / 2 * 60, abs=burst + 2)


def test_the_slots_of_a_dead_process_come_back_after_lease_and_window() -> None:
    _, content = take_all(b"", 100.0, live=True)
    assert visit(content, 102.0).used == 60
    assert visit(content, 102.0 + LEASE_SHARE * 2 + 0.001).used == 0


def test_a_report_returns_the_unused_slots() -> None:
    ledger = visit(b"", 100.0)
    ledger.take("a", 3, 100.0, live=True)
    ledger.take("b", 3, 100.0, live=True)
    # Two of one batch were used; none of the other.
    ledger.report({"a": Usage(2, 0.0), "b": Usage(0, 0.0)}, 100.05)
    content = ledger.content()
    assert visit(content, 102.03).used == 2
    assert visit(content, 102.05).used == 0


def test_a_batch_counts_from_its_last_response() -> None:
    ledger = visit(b"", 100.0)
    ledger.take("a", 3, 100.0, live=True)
    ledger.report({"a": Usage(3, 0.02)}, 100.03)
    content = ledger.content()
    assert visit(content, 102.0).used == 3
    assert visit(content, 102.02).used == 0


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"offset": 1}', b"\xff", b'{"batches": 5}'])
def test_unreadable_content_counts_as_a_full_window(content: bytes) -> None:
    assert visit(content, 100.0).used == 60
    again = visit(content, 100.0).content()
    assert visit(again, 101.9).used == 60
    assert visit(again, 102.0).used == 0


def test_a_restart_of_the_machine_forgets_nothing() -> None:
    ledger = visit(b"", 5000.0, offset=1_000_000.0)
    ledger.take("a", 3, 5000.0, live=True)
    # A second later by the wall clock the monotonic one has begun anew.
    content = visit(ledger.content(), 10.0, offset=1_004_991.0).content()
    assert visit(content, 10.9, offset=1_004_991.0).used == 3
    assert visit(content, 11.1, offset=1_004_991.0).used == 0


def test_a_wall_clock_that_is_set_changes_nothing() -> None:
    ledger = visit(b"", 5000.0, offset=1_000_000.0)
    ledger.take("a", 3, 5000.0, live=True)
    assert visit(ledger.content(), 5001.0, offset=0.0).used == 3
    assert visit(ledger.content(), 5002.1, offset=2_000_000.0).used == 0


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_window_is_exceeded_by_several_processes(data: st.DataObject) -> None:
    limit = RateLimit(data.draw(st.integers(1, 45)), per=2, guard=0.0)
    content, now = b"", 0.0
    starts: list[float] = []
    for number in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.005, 0.03, 0.5]))
        ledger = SharedLedger(limit, content, now, 0.0)
        live = data.draw(st.booleans())
        grant = ledger.take(f"{number}", 60, now, live=live)
        used = data.draw(st.integers(0, grant.count))
        at = now + data.draw(st.floats(0, LEASE_SHARE * 2))
        starts += [at] * used
        if data.draw(st.booleans()):
            ledger.report({f"{number}": Usage(used, now - at)}, now)
        content = ledger.content()
        starts.sort()
    for start in starts:
        assert sum(start <= other < start + 2 - 1e-6 for other in starts) <= limit.n
