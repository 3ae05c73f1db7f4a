"""A token provider with callers that come, wait and are cancelled, while tokens expire and fail."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cognigy_async import (
    AccessToken,
    AuthenticationError,
    ClientClosedError,
    NoResponseError,
    NotSentError,
    Request,
    Response,
)
from cognigy_async.testing.virtual_time import VirtualClockLoop

from .token_server import Answer, Endpoint, answer, provider, token

TAKES = 0.5
"""Seconds of one token request."""
LIFETIMES = (1.0, 20.0, 3600.0)
REFUSED, AWAY = 401, 503
LONGEST = 200.0
"""Seconds within which each caller has its answer: three attempts, and waits between them."""


class Issuer(Endpoint):
    """Knows until when each of its tokens is valid."""

    def __init__(self) -> None:
        super().__init__(takes=TAKES)
        self.until: dict[str, float] = {}
        self.next: list[Any] = []

    async def send(self, request: Request, *, timeout: float) -> Response:
        kind = self.next.pop(0) if self.next else LIFETIMES[-1]
        reply: Answer
        if kind in LIFETIMES:
            name = f"t{len(self.until) + 1}"
            self.until[f"Bearer {name}"] = anyio.current_time() + TAKES + kind
            reply = token(name, expires_in=kind)
        elif isinstance(kind, int):
            reply = answer(kind)
        else:
            reply = kind("no")
        self.script.append(reply)
        return await super().send(request, timeout=timeout)


class ProviderMachine(RuleBasedStateMachine):
    """The provider against what the issuer knows of its tokens. Time is virtual."""

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualClockLoop()
        self.issuer = Issuer()
        self.tokens = provider(self.issuer, clock=self.loop.time)
        self.callers: dict[asyncio.Task[AccessToken], float] = {}
        self.last: AccessToken | None = None
        self.discarded: set[str] = set()

    def run(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for _ in range(5):
            # Who has got something goes on.
            self.loop.run_until_complete(asyncio.sleep(0))
        for task, since in list(self.callers.items()):
            assert self.loop.time() <= since + LONGEST
            if task.done():
                del self.callers[task]
                self.check(task, since)

    def check(self, task: asyncio.Task[AccessToken], since: float) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            assert isinstance(error, AuthenticationError), error
            return
        self.last = task.result()
        # One that was valid after the call began, at least when it was given out.
        assert self.issuer.until[self.last.value] > since

    @rule(count=st.integers(1, 3))
    def ask(self, count: int) -> None:
        for _ in range(count):
            task = self.loop.create_task(self.tokens.get_token())
            self.callers[task] = self.loop.time()
        self.run(0.0)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 15.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        # In steps, so that what a caller got is checked soon after.
        end = self.loop.time() + seconds
        while self.loop.time() < end - 1e-6:
            self.run(min(seconds, end - self.loop.time(), 15.0))
            if not self.callers and not self.issuer.under_way:
                self.run(end - self.loop.time())

    @rule(
        answers=st.lists(
            st.sampled_from([*LIFETIMES, REFUSED, AWAY, NoResponseError, NotSentError]), max_size=4
        )
    )
    def the_issuer_answers(self, answers: list[Any]) -> None:
        self.issuer.next[:] = answers

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def a_caller_is_cancelled(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.callers) - 1))
        list(self.callers)[at].cancel()
        self.run(0.0)

    @precondition(lambda self: self.last is not None)
    @rule()
    def a_token_is_refused(self) -> None:
        """The server refused it: nobody who asks now gets it."""
        assert self.last is not None
        self.tokens.invalidate(self.last)
        self.discarded.add(self.last.value)
        task = self.loop.create_task(self.tokens.get_token())
        self.loop.run_until_complete(asyncio.wait([task], timeout=LONGEST))
        if task.exception() is None:
            assert task.result().value not in self.discarded
        else:
            assert isinstance(task.exception(), AuthenticationError)
        self.run(0.0)

    @precondition(lambda self: self.last is not None)
    @rule()
    def a_valid_token_is_given_at_once(self) -> None:
        newest = list(self.issuer.until)[-1]
        assert self.last is not None
        if self.last.value != newest or newest in self.discarded or self.issuer.under_way:
            return
        # The provider counts from the moment before the request.
        if self.issuer.until[newest] - TAKES <= self.loop.time() + 0.001:
            return
        task = self.loop.create_task(self.tokens.get_token())
        self.run(0.0)
        assert task.done()
        assert task.result().value == newest

    @invariant()
    def one_request_at_a_time(self) -> None:
        if hasattr(self, "issuer"):
            assert self.issuer.peak <= 1
            assert self.tokens.statistics().refreshing or not self.callers

    def teardown(self) -> None:
        """Closing ends every wait, and leaves no task."""
        if not hasattr(self, "loop"):
            return
        self.loop.run_until_complete(self.tokens.aclose())
        for task in self.callers:
            with suppress(ClientClosedError, AuthenticationError, asyncio.CancelledError):
                self.loop.run_until_complete(task)
        with pytest.raises(ClientClosedError):
            self.loop.run_until_complete(self.tokens.get_token())
        self.loop.run_until_complete(asyncio.sleep(0))
        assert self.issuer.under_way == 0
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


class ProviderMachineForLong(ProviderMachine):
    pass


TestProvider: Any = ProviderMachine.TestCase
TestProvider.settings = settings(deadline=None, max_examples=25, stateful_step_count=25)
TestProviderForLong: Any = pytest.mark.thorough(ProviderMachineForLong.TestCase)
TestProviderForLong.settings = settings(deadline=None, max_examples=1000, stateful_step_count=40)
