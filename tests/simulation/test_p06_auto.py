"""P6: a limit that nobody stated is learned, from headers or from 429s."""

from __future__ import annotations

import math
import time
from collections import deque
from email.utils import formatdate
from typing import Any

import anyio
import pytest
from tenacity import wait_random_exponential

from cognigy_async import AsyncStateClient, RateLimitedError, Request, Response, RetryPolicy
from tests.simulation.test_p06_quota import most
from tests.simulation.world import Wire, client_of, state, status

N, PER = 60, 2.0


class Server:
    """Allows `N` requests in `PER` seconds, in fixed windows or in a sliding one."""

    def __init__(self, *, sliding: bool, retry_after: str, headers: str = "none") -> None:
        self.sliding = sliding
        self.retry_after = retry_after
        self.headers = headers
        self.counted: deque[float] = deque()
        self.window = -math.inf
        self.log: list[tuple[float, bool]] = []

    async def __call__(self, request: Request) -> Response:
        now = anyio.current_time()
        if self.sliding:
            while self.counted and self.counted[0] + PER <= now:
                self.counted.popleft()
        elif now >= self.window + PER:
            self.window = now
            self.counted.clear()
        fits = len(self.counted) < N
        if fits:
            self.counted.append(now)
        self.log.append((now, fits))
        reset = (self.counted[0] if self.sliding else self.window) + PER - now
        told = self._told(N - len(self.counted), reset)
        if fits:
            answer = state(1)
            return Response(200, {**answer.headers, **told}, answer.content)
        if self.retry_after == "rounded":
            told["retry-after"] = str(int(reset) + 1)
        elif self.retry_after == "exact":
            told["retry-after"] = f"{reset:.3f}"
        return status(429, told)

    def _told(self, left: int, reset: float) -> dict[str, str]:
        if self.headers == "ietf":
            return {
                "ratelimit-policy": f'"default";q={N};w={PER:.0f}',
                "ratelimit": f'"default";r={left};t={math.ceil(round(reset, 9))}',
            }
        if self.headers == "x":
            return {
                "x-ratelimit-limit": str(N),
                "x-ratelimit-remaining": str(left),
                "x-ratelimit-reset": str(math.ceil(round(reset, 9))),
            }
        return {}

    def after(self, moment: float) -> tuple[float, float]:
        """The share of the quota that was used after a moment, and the share answered 429."""
        end = self.log[-1][0]
        answers = [fits for at, fits in self.log if at >= moment]
        used = sum(answers) / (N * (end - moment) / PER)
        return used, 1 - sum(answers) / len(answers)


async def run(client: AsyncStateClient, count: int, **options: Any) -> None:
    rows = ({"dialog_id": f"d-{number}", "session": {"a": 1}} for number in range(count))
    async with client.update_many(rows, **options) as outcomes:
        async for outcome in outcomes:
            assert outcome.ok


@pytest.mark.quick("asyncio-rounded-*", "trio-exact-*")
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("retry_after", ["rounded", "exact", "none"])
async def test_p6_auto_without_headers_it_learns_from_429s(sliding: bool, retry_after: str) -> None:
    server = Server(sliding=sliding, retry_after=retry_after)
    wire = Wire(takes=0.01, answer=server)
    # Where the server names no pause a draw decides. One of several windows would say more of
    # the draw than of what was learned.
    retry = RetryPolicy(wait=wait_random_exponential(multiplier=0.25, max=PER / 2))
    async with client_of(wire, rate_limit="auto", retry=retry) as client:
        assert client.metrics.quota == ()
        await run(client, 1800)
        [use] = client.metrics.quota
    used, refused = server.after(10 * PER)
    assert used >= 0.9
    assert refused <= 0.02
    assert use.learned
    assert use.n / use.per == pytest.approx(N / PER, rel=0.1)


@pytest.mark.quick("asyncio-0.01-*", "trio-0.1-*", "asyncio-0.0-ietf-*")
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("headers", ["ietf", "x"])
@pytest.mark.parametrize("takes", [0.0, 0.01, 0.1])
async def test_p6_auto_headers_are_kept_like_a_limit_that_was_stated(
    sliding: bool, headers: str, takes: float
) -> None:
    server = Server(sliding=sliding, retry_after="exact", headers=headers)
    wire = Wire(takes=takes, answer=server)
    async with client_of(wire, rate_limit="auto") as client:
        await run(client, 1200, priority="live")
        [use] = client.metrics.quota
    used, _ = server.after(PER)
    assert all(fits for _, fits in server.log)
    assert used >= 0.93
    assert (use.n, use.per, use.learned) == (N, PER, True)
    assert most(wire, PER) <= N


async def test_p6_auto_what_others_use_is_seen_in_what_remains() -> None:
    server = Server(sliding=False, retry_after="exact", headers="ietf")
    wire = Wire(takes=0.01, answer=server)
    async with client_of(wire, rate_limit="auto") as client, anyio.create_task_group() as tasks:

        async def others() -> None:
            while True:
                await anyio.sleep(0.1)
                await server(Request("GET", "", {}))

        tasks.start_soon(others)
        await run(client, 600, priority="live")
        tasks.cancel_scope.cancel()
    ours = len(wire.sent)
    assert client.metrics.retries["throttled"] <= 0.12 * ours


async def test_p6_auto_a_pause_shrinks_the_rate_once() -> None:
    """All that were under way when it began are of the same pause."""
    server = Server(sliding=False, retry_after="rounded")
    wire = Wire(takes=0.3, answer=server)
    async with client_of(wire, rate_limit="auto", max_in_flight=60) as client:
        await run(client, 600)
        [use] = client.metrics.quota
    assert sum(not fits for _, fits in server.log) > 3
    assert use.n / use.per >= 0.5 * N / PER


async def test_p6_auto_a_tenant_without_a_limit_is_not_held_back_for_long() -> None:
    wire = Wire(takes=0.01)
    async with client_of(wire, rate_limit="auto") as client:
        await run(client, 3000)
    assert wire.sent[-1].at < 8


# Headers that are wrong.

FAR: dict[str, dict[str, str]] = {
    "milliseconds": {"x-ratelimit-limit": "100", "x-ratelimit-reset": "60000"},
    "draft, far future": {"ratelimit": "limit=100, remaining=0, reset=99999999999999"},
    "a window of decades": {"ratelimit-policy": '"a";q=1;w=1000000000', "ratelimit": '"a";r=0'},
    "its reset as well": {
        "ratelimit-policy": '"a";q=1;w=1000000000',
        "ratelimit": '"a";r=0;t=1000000000',
    },
    "epoch seconds": {"x-ratelimit-limit": "100", "x-ratelimit-reset": "9999999999"},
    "epoch milliseconds": {"x-rate-limit-limit": "1", "x-rate-limit-reset": "9999999999999"},
    "a date": {"ratelimit-limit": "2", "ratelimit-reset": "Thu, 01 Jan 2099 00:00:00 GMT"},
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("kind", ["live", "bulk"])
async def test_p6_auto_no_header_holds_work_longer_than_its_bound(name: str, kind: str) -> None:
    told = {"x-ratelimit-remaining": "0", "x-rate-limit-remaining": "0", "ratelimit-remaining": "0"}

    async def fine(_: Request) -> Response:
        return Response(200, {**state(1).headers, **told, **FAR[name]}, state(1).content)

    wire = Wire(takes=0.01, answer=fine)
    async with client_of(wire, rate_limit="auto") as client:
        await run(client, 50, priority=kind)
        assert client.metrics.quota == ()
    bound = 600 if kind == "live" else 3600
    # One asks, is served, and shows that the headers are wrong.
    asked_at = next(sent.at for sent in wire.sent if sent.at > 10)
    assert asked_at == pytest.approx(bound, abs=1)
    assert wire.sent[-1].at < bound + 5


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"},
        {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "-1", "x-ratelimit-reset": "60"},
        {"ratelimit": "limit=0, remaining=0, reset=60"},
        {"ratelimit-policy": '"a";q=0;w=60', "ratelimit": '"a";r=0;t=60'},
    ],
    ids=lambda headers: " ".join(headers.values()),
)
async def test_p6_auto_a_limit_of_nothing_is_none(headers: dict[str, str]) -> None:
    async def fine(_: Request) -> Response:
        return Response(200, {**state(1).headers, **headers}, state(1).content)

    wire = Wire(takes=0.01, answer=fine)
    async with client_of(wire, rate_limit="auto") as client:
        await run(client, 50, priority="live")
    assert wire.sent[-1].at < 5


@pytest.mark.parametrize("skew", [-7200, 3600])
async def test_p6_auto_a_reset_counts_from_the_date_of_the_answer(skew: int) -> None:
    async def fine(_: Request) -> Response:
        server = int(time.time()) + skew
        told = {
            "date": formatdate(server, usegmt=True),
            "x-ratelimit-limit": "100",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(server + 60),
        }
        return Response(200, {**state(1).headers, **told}, state(1).content)

    wire = Wire(takes=0.01, answer=fine)
    async with client_of(wire, rate_limit="auto") as client:
        await client.update("a", session={"a": 1})
        await client.update("b", session={"a": 1})
    assert wire.sent[1].at == pytest.approx(60, abs=1)


async def test_p6_auto_a_far_moment_in_a_429_does_not_slow_down_what_comes_after() -> None:
    wire = Wire(takes=0.01)
    wire.script(status(429, {"retry-after": "1000000000"}))
    async with client_of(wire, rate_limit="auto") as client:
        with pytest.raises(RateLimitedError):
            await client.update("d", session={"a": 1})
        await anyio.sleep(600)
        await run(client, 100, priority="live")
    assert wire.sent[-1].at < 610
