"""The ledger in the file of a shared limit."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognigy_async import RateLimit
from cognigy_async.ratelimit.shared_ledger import (
    BATCHES_PER_WINDOW,
    BEGIN,
    LEASE_SHARE,
    ForeignContentError,
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


def written(**changes: Any) -> bytes:
    """The content of a ledger with a batch, of which some members are changed."""
    ledger = visit(b"", 100.0)
    ledger.take("a-1", 3, 100.0, live=True)
    return json.dumps(json.loads(ledger.content()) | changes).encode() + b"\n"


DEEP = b"[" * 100_000
DAMAGED = {
    "cut": written()[:-20],
    "cut early": BEGIN[:5],
    "blank": b"\0" * 4096,
    "not UTF-8": BEGIN + b"\xff",
    "deep": BEGIN + b'"batches": ' + DEEP,
    "a list": written(batches=[]),
    "of an earlier version": b'{"offset": 0.0, "next_paced": 0, "full_at": 0, "batches": {}}',
    "infinite counts": written(batches={"a-1": [math.inf, 100.0, 0]}),
    "infinite as a number": written(batches={"a-1": ["x", 100.0, 0]}).replace(b'"x"', b"1e999"),
    "a count that is no number": written(batches={"a-1": [math.nan, 100.0, 0]}),
    "a negative count": written(batches={"a-1": [-1000, 100.0, 0]}),
    "half a slot": written(batches={"a-1": [0.5, 100.0, 0]}),
    "true": written(batches={"a-1": [True, 100.0, 0]}),
    "negative headroom": written(batches={"a-1": [1, 100.0, -60]}),
    "the far future": written(batches={"a-1": [1, 1e15, 0]}),
    "an infinite time": written(batches={"a-1": [1, math.inf, 0]}),
    "a time that is no number": written(batches={"a-1": [1, math.nan, 0]}),
    "a time of many digits": written(batches={"a-1": [1, 10**400, 0]}),
    "a number of many digits": written(offset=0).replace(
        b'"offset": 0', b'"offset": ' + b"9" * 9999
    ),
    "an infinite offset": written(offset=math.inf),
    "no headroom for ever": written(next_paced=1e15),
    "no burst for ever": written(full_at=1e15),
    "a serial that is no number": written(serial=math.nan),
    "a client that is never seen": written(clients={"a": math.nan}),
    "a client without a time": written(clients=["a"]),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_content_counts_as_a_full_window(content: bytes) -> None:
    ledger = visit(content, 100.0)
    assert ledger.changed
    assert (ledger.used, ledger.full_for(100.0)) == (60, pytest.approx(2.0))
    assert ledger.take("b", 3, 100.0, live=True).count == 0
    again = ledger.content()
    assert len(again) < 1000
    assert (visit(again, 101.9).used, visit(again, 101.9).full_for(101.9) > 0) == (60, True)
    assert (visit(again, 102.0).used, visit(again, 102.0).full_for(102.0)) == (0, 0.0)


FOREIGN = [
    b"[]",
    b"{}",
    b"\xff",
    b"5",
    b"my notes",
    b'{"offset": 1}',
    b'{"batches": 5}',
    b"\x89PNG\r\n\x1a\n",
    DEEP,
    b"\0my notes",
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_the_content_of_others_is_an_error(content: bytes) -> None:
    with pytest.raises(ForeignContentError):
        visit(content, 100.0)


def test_a_longer_content_of_before_is_no_damage() -> None:
    ledger = visit(written() + b"[3, 99.0, 0]}}\n", 100.0)
    assert (ledger.used, ledger.changed) == (3, False)


def test_counts_beyond_the_limit_are_full_until_they_end() -> None:
    ledger = visit(written(batches={"a-1": [10**300, 100.0, 0]}), 100.0)
    assert (ledger.used, ledger.full_for(100.0)) == (60, 0.0)
    assert visit(ledger.content(), 102.0).used == 0


# A ledger that was made anew.


def test_a_ledger_is_followed_as_long_as_it_is_the_same() -> None:
    ledger = visit(b"", 100.0)
    ledger.take("a-1", 3, 100.0, live=True)
    first = ledger.content()
    version = ledger.version
    for content in (first, visit(first, 100.1).content()):
        again = visit(content, 100.2)
        again.follow(version, 100.2)
        assert (again.used, again.changed) == (3, False)


def test_a_ledger_that_another_process_began_counts_as_full_since_then() -> None:
    seen = visit(b"", 90.0)
    seen.content()
    other = visit(b"", 100.0)
    other.take("b-1", 3, 100.0, live=True)
    ledger = visit(other.content(), 101.0)
    ledger.follow(seen.version, 101.0)
    assert ledger.changed
    assert ledger.full_for(101.0) == pytest.approx(1.0)
    # A process that finds out later does not make it longer.
    late = visit(ledger.content(), 101.5)
    late.follow(seen.version, 101.5)
    assert late.full_for(101.5) == pytest.approx(0.5)
    after = visit(late.content(), 102.1)
    after.follow(seen.version, 102.1)
    assert (after.full_for(102.1), after.changed) == (0.0, False)
    # The same after a restart of the machine.
    restarted = visit(ledger.content(), 10.0, offset=91.5)
    assert restarted.full_for(10.0) == pytest.approx(0.5)


def test_an_empty_file_is_new_for_a_process_that_saw_no_other_one() -> None:
    ledger = visit(b"", 100.0)
    assert (ledger.used, ledger.full_for(100.0)) == (0, 0.0)
    ledger.follow((50.0, 7), 100.0)
    assert ledger.full_for(100.0) == 2.0


def test_an_old_copy_counts_as_full_from_now() -> None:
    ledger = visit(b"", 100.0)
    copy = ledger.content()
    ledger.take("a-1", 3, 101.0, live=True)
    ledger.content()
    old = visit(copy, 101.5)
    old.follow(ledger.version, 101.5)
    assert old.full_for(101.5) == pytest.approx(2.0)
    assert old.version[0] != ledger.version[0]


def test_the_use_of_a_batch_that_the_ledger_does_not_know_is_added() -> None:
    ledger = visit(b"", 100.0)
    ledger.report({"a-1": Usage(5, 0.5), "a-2": Usage(0, math.inf)}, 100.0)
    assert (ledger.used, ledger.changed) == (5, True)
    assert visit(ledger.content(), 101.4).used == 5
    assert visit(ledger.content(), 101.5).used == 0


def test_clients_are_known_until_they_leave_or_are_not_seen_for_long() -> None:
    content = b""
    for at, client in ((95.0, "dead"), (96.0, "a"), (98.0, "b"), (100.0, "c"), (100.0, "a")):
        ledger = visit(content, at)
        ledger.see(client, at)
        content = ledger.content()
    ledger = visit(content, 100.9)
    assert ledger.clients == 4
    ledger.see("a", 100.9)
    ledger.forget("nobody")
    assert not ledger.changed
    ledger.forget("c")
    assert (ledger.clients, ledger.changed) == (3, True)
    assert visit(ledger.content(), 101.1).clients == 2
    assert visit(b"\0", 100.0).clients == 0


def test_only_a_ledger_that_changed_need_be_written() -> None:
    assert visit(b"", 100.0).changed
    ledger = visit(written(), 100.0)
    assert not ledger.changed
    ledger.report({}, 100.0)
    assert not ledger.changed
    ledger.take("b", 3, 100.0, live=True)
    assert ledger.changed


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
