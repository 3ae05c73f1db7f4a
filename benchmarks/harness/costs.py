"""CPU time and memory of updates over a transport that does nothing, in this process."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from cognigy_async import AuditSink, JsonLinesAudit, RateLimit, Request, StateUpdate

from .null import IN_FLIGHT, NullTransport, client, resident_memory

__all__ = ["Kind", "audit_cost", "calibration", "cpu", "live", "many", "memory", "traced"]

Kind = Callable[[int], Awaitable[None]]
"""Makes so many updates."""

Audited = Callable[[int, AuditSink | None, RateLimit | None], Awaitable[None]]


async def calibration(count: int) -> None:
    """The least that any client does: a queue, workers, JSON, a send, a result."""
    transport = NullTransport()
    waiting: asyncio.Queue[tuple[str, dict[str, object]]] = asyncio.Queue()
    done: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    for number in range(count):
        waiting.put_nowait((f"d{number}", {"n": number, "tag": "x"}))

    async def worker() -> None:
        while not waiting.empty():
            dialog, values = await waiting.get()
            content = json.dumps({"session": values}).encode()
            headers = {"content-type": "application/json", "authorization": "Bearer x"}
            request = Request("PATCH", f"http://localhost/{dialog}", headers, content)
            answer = await transport.send(request, timeout=15.0)
            await done.put((dialog, answer.status))

    await asyncio.gather(*[worker() for _ in range(IN_FLIGHT)])


def _updates(count: int) -> Iterator[StateUpdate]:
    for number in range(count):
        yield StateUpdate(dialog_id=f"d{number}", session={"n": number, "tag": "x"})


async def many(
    count: int, audit: AuditSink | None = None, rate_limit: RateLimit | None = None
) -> None:
    """`update_many`."""
    async with (
        client(audit=audit, rate_limit=rate_limit) as one,
        one.update_many(_updates(count)) as outcomes,
    ):
        applied = 0
        async for outcome in outcomes:
            applied += outcome.ok
    if applied != count:
        raise RuntimeError(f"{applied} of {count} were applied")


async def traced(count: int) -> None:
    """`update_many`, with spans of OpenTelemetry that nobody takes."""
    from cognigy_async.integrations.opentelemetry import instrument

    one = client()
    instrument(one)
    async with one, one.update_many(_updates(count)) as outcomes:
        async for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error


async def live(
    count: int, audit: AuditSink | None = None, rate_limit: RateLimit | None = None
) -> None:
    """`update`, where all calls wait at once."""
    async with client(count + 100, audit, rate_limit) as one:
        calls = [one.update(f"d{n}", session={"n": n, "tag": "x"}) for n in range(count)]
        await asyncio.gather(*calls)


def cpu(kind: Kind, count: int) -> float:
    """Microseconds of CPU for one update."""

    async def main() -> float:
        began = time.process_time()
        await kind(count)
        return time.process_time() - began

    _start_afresh()
    return asyncio.run(main()) / count * 1e6


def _start_afresh() -> None:
    """What one run leaves to the garbage collector is no cost of the next one."""
    gc.collect()


def memory(count: int) -> float:
    """Megabytes that so many updates to as many dialogs add."""
    asyncio.run(many(20_000))
    before = resident_memory()
    asyncio.run(many(count))
    return resident_memory() - before


def audit_cost(
    count: int, rounds: int, rate_limit: RateLimit | None = None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What an update with an audit costs on the loop's thread, and what the audit adds to it.

    By kind, with one value for each of the interleaved rounds.
    """
    kinds: dict[str, Audited] = {"update_many": many, "update": live}
    whole: dict[str, list[float]] = {name: [] for name in kinds}
    added: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            without = _on_the_loop(kind, count, None, rate_limit)
            with tempfile.TemporaryDirectory() as folder:
                # A sink that is never behind, as is any whose loop waits for a network: neither is
                # a record dropped nor makes the loop way for the sink.
                audit = JsonLinesAudit(Path(folder, "audit.jsonl"), max_queue=2 * count)
                cost = _on_the_loop(kind, count, audit, rate_limit)
            whole[name].append(cost)
            added[name].append(cost - without)
    return whole, added


def _on_the_loop(
    kind: Audited, count: int, audit: AuditSink | None, rate_limit: RateLimit | None
) -> float:
    """Microseconds of CPU for one update on the event loop's thread, closing included."""

    async def main() -> float:
        began = time.thread_time()
        await kind(count, audit, rate_limit)
        return time.thread_time() - began

    _start_afresh()
    return asyncio.run(main()) / count * 1e6
