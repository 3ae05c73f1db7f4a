"""The measurements of `cognigy-async probe`. Each says what it will do before it does it."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import anyio

from cognigy_async import (
    CognigyError,
    DialogState,
    NoResponseError,
    NotSentError,
    Response,
    TenantProfile,
)
from cognigy_async.spi import (
    MeasuredBody,
    MeasuredEtags,
    MeasuredReads,
    MeasuredStates,
    MeasuredToken,
    MeasuredWrites,
    is_strong_etag,
)

from .session import ProbedSession
from .tally import Tally

MOST_REQUESTS = 15
MOST_SIZE_REQUESTS = 21

KEPT, OBJECT, LIST = NAMES = ("probe_kept", "probe_object", "probe_list")
"""Session variables that the probe writes."""
FIRST_OBJECT = {"first": 1, "inner": {"first": 1, "inner": {"first": 1}}}
SECOND_OBJECT = {"inner": {"inner": {"second": 1}}}
FIRST_LIST, SECOND_LIST = [{"first": 1}, 1, 2], [{"second": 1}]
UNKNOWN_STATE = "cognigy-async-probe"
"""A state that no flow has."""

READ_WAITS = (0.0, 0.5, 1.5, 4.0)
"""Seconds before each read that looks for a write."""
RESTORE_TIMEOUT = 20.0
"""Seconds to restore the session after a failure."""
MOST_RESTORED = 50_000
"""Bytes of a context that surely fit into one request."""

FIRST_SIZE, LAST_SIZE, PRECISION = 16 * 1024, 4 * 1024 * 1024, 1024
"""Bytes of the first body and of the largest, and the precision of the result."""


class Measurement:
    """One measurement of a tenant by a session.

    Args:
        session: session to write to.
        tally: tally of its requests.
        announce: function that gets a line before each step, and one after it.
    """

    def __init__(
        self, session: ProbedSession, tally: Tally, announce: Callable[[str], None]
    ) -> None:
        self._session = session
        self._tally = tally
        self._announce = announce
        self._read: DialogState | None = None
        self._variables: Mapping[str, Any] | None = None
        self._previous: Mapping[str, Any] | None = None
        self._delay: float | None = None
        self._writes = MeasuredWrites()
        self._etags: dict[str, None] = {}
        self._has_written = False
        self._has_moved = False
        self._has_grown = False

    async def run(self, token: MeasuredToken | None, *, sizes: bool = False) -> TenantProfile:
        """Measure, restore the session, and return the profile.

        Raises:
            CognigyError: an answer says nothing about the behaviour, such as a 401 or a 503. The
                session was restored as far as possible.
        """
        try:
            reads = await self._measure_writes()
            is_runtime = self._session.is_runtime
            etags = await self._measure_etags() if is_runtime else None
            states = None if is_runtime else await self._measure_states()
            body = await self._measure_sizes() if sizes else None
            await self._restore()
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(RESTORE_TIMEOUT):
                try:
                    await self._restore()
                except CognigyError as error:
                    self._announce(f"The session could not be restored: {error}")
            raise
        now = datetime.fromtimestamp(self._tally.wall_clock(), UTC)
        return TenantProfile(
            measured_at=now.isoformat(timespec="seconds"),
            base_url=self._session.target.base_url,
            api="runtime" if is_runtime else "sessions",
            requests=self._tally.requests,
            writes=self._writes,
            reads=reads,
            states=states,
            etags=etags,
            rate_limit=self._tally.rate_limit,
            clock=self._tally.clock,
            token=token,
            body=body,
        )

    # Variables and reads.

    async def _measure_writes(self) -> MeasuredReads:
        session, mark = self._session, secrets.token_hex(4)
        first = {KEPT: mark, OBJECT: FIRST_OBJECT, LIST: FIRST_LIST}
        # An invalid id or a missing user is noticed before anything is sent.
        session.write_request(first)
        self._announce("Read the state, which changes nothing: 1 request.")
        self._read = original = self._seen(await session.read())
        if original is not None:
            self._previous = original.session
        self._announce(f"Write the session variables {', '.join(NAMES)}: 1 request.")
        if session.is_runtime:
            self._announce("  They stay: this API has no request that removes a variable.")
        elif original is None:
            self._announce("  If a write replaces the context, its other variables are lost.")
        self._has_written = True
        after_first = self._context_of(await session.write(first))
        most = len(READ_WAITS)
        self._announce(f"Read until a read shows them: 1 to {most} requests, at most 6 s.")
        reads = await self._measure_reads(mark)
        self._announce(f"Write {OBJECT} and {LIST} with other values: 1 or 2 requests.")
        answer = await session.write({OBJECT: SECOND_OBJECT, LIST: SECOND_LIST})
        self._variables = self._context_of(answer)
        if self._variables is None and self._delay is not None:
            await anyio.sleep(self._delay)
            state = self._seen(await session.read())
            self._variables = None if state is None else state.session
        if self._variables is not None and OBJECT in self._variables:
            self._writes = writes_from(self._variables)
        if self._previous is None and after_first is not None and self._writes.inject == "merge":
            self._previous = {
                name: value for name, value in after_first.items() if name not in NAMES
            }
        return reads

    async def _measure_reads(self, mark: str) -> MeasuredReads:
        began = anyio.current_time()
        for wait in READ_WAITS:
            await anyio.sleep(wait)
            state = self._seen(await self._session.read())
            if state is None:
                return MeasuredReads(works=False)
            self._read = self._read or state
            if state.session.get(KEPT) == mark:
                elapsed = anyio.current_time() - began
                self._delay = math.ceil(elapsed * 10) / 10 if wait else 0.0
                return MeasuredReads(works=True, delay_seconds=self._delay)
        return MeasuredReads(works=False)

    def _context_of(self, answer: Response) -> Mapping[str, Any] | None:
        """Return the context in the answer to an injection, and keep the version of the state."""
        self._keep_etag(self._session.target.api.etag(answer))
        try:
            body = json.loads(answer.content)
        except (ValueError, RecursionError):
            return None
        has_object = isinstance(body, dict) and isinstance(body.get(OBJECT), dict)
        return body if has_object else None

    def _seen(self, state: DialogState | None) -> DialogState | None:
        self._keep_etag(None if state is None else state.etag)
        return state

    def _keep_etag(self, etag: str | None) -> None:
        if etag is not None:
            self._etags.setdefault(etag)

    # Versions.

    async def _measure_etags(self) -> MeasuredEtags:
        etags = list(self._etags)
        if not etags:
            return MeasuredEtags(kind="none")
        kind: Literal["strong", "weak"] = "strong" if all(map(is_strong_etag, etags)) else "weak"
        if len(etags) < 2:
            return MeasuredEtags(kind=kind)
        self._announce(
            f"Write {KEPT} on condition of the present version, then of an earlier one: 2 requests."
        )
        present, earlier = etags[-1], etags[0]
        accepted = (await self._session.write_if({KEPT: "present"}, present)).status < 300
        applied = (await self._session.write_if({KEPT: "earlier"}, earlier)).status < 300
        if applied:
            return MeasuredEtags(kind=kind, if_match="ignored")
        return MeasuredEtags(kind=kind, if_match="honoured" if accepted else "refused")

    # The state of the flow.

    async def _measure_states(self) -> MeasuredStates:
        session, known = self._session, self._state
        self._announce(f"Inject the state {UNKNOWN_STATE}, which no flow has: 1 or 2 requests.")
        if known is None:
            self._announce("  The present state is unknown. If this one is accepted, it is reset.")
        answer = await session.inject_state(UNKNOWN_STATE)
        if answer.status >= 300:
            states: tuple[str, ...] = ()
            if known is not None and (await session.inject_state(known)).status < 300:
                states = (known,)
            return MeasuredStates(
                unknown_state="refused", status=answer.status, known_states=states
            )
        self._has_moved = True
        changes: list[Literal["state", "context"]] | None = None
        if self._delay is not None:
            await anyio.sleep(self._delay)
            state = await session.read()
            if state is not None:
                changes = ["state"] if state.next_step == UNKNOWN_STATE else []
                if self._variables is not None and state.session != self._variables:
                    changes.append("context")
        return MeasuredStates(
            unknown_state="accepted",
            status=answer.status,
            changes=None if changes is None else tuple(changes),
            known_states=() if known is None else (known,),
        )

    @property
    def _state(self) -> str | None:
        """The state before the probe; None if it is unknown."""
        return None if self._read is None else self._read.next_step

    # The size of a request.

    async def _measure_sizes(self) -> MeasuredBody:
        self._announce(
            f"Write {KEPT} with more and more bytes until a request is refused: at most "
            f"{MOST_SIZE_REQUESTS - 1} requests."
        )
        self._has_grown = True
        accepted, refused, status = len(self._session.write_request({KEPT: ""}).content), 0, None
        size = FIRST_SIZE
        while not refused or refused - accepted > PRECISION:
            answer = await self._try_size(size)
            if answer is not None and answer.status < 300:
                accepted = size
                if size >= LAST_SIZE:
                    return MeasuredBody(accepted_bytes=accepted)
            else:
                refused, status = size, None if answer is None else answer.status
            size = (accepted + refused) // 2 if refused else 2 * size
        return MeasuredBody(accepted_bytes=accepted, refused_bytes=refused, refused_status=status)

    async def _try_size(self, size: int) -> Response | None:
        """Send a write of so many bytes; return None if the connection ended without an answer."""
        request = self._session.write_request({KEPT: ""})
        filler = b"x" * (size - len(request.content))
        request.content = request.content.replace(b'""', b'"' + filler + b'"')
        try:
            return await self._session.write_body(request)
        except (NoResponseError, NotSentError):
            return None

    # The session as it was.

    async def _restore(self) -> None:
        """Restore the state and the context, as far as they are known and the API allows."""
        if self._has_moved:
            await self._restore_state()
            self._has_moved = False
        if self._has_grown and self._session.is_runtime:
            self._announce(f"Write {KEPT} with a short value again: 1 request.")
            await self._session.write({KEPT: 0})
            self._has_grown = False
        if self._has_written and not self._session.is_runtime:
            await self._restore_context()
            self._has_written = False

    async def _restore_state(self) -> None:
        session, state = self._session, self._state
        if state is None:
            self._announce("Reset the state: 1 request.")
            answer = await session.reset("state")
        else:
            self._announce("Inject the state from before: 1 request.")
            answer = await session.inject_state(state)
        if answer.status >= 300:
            self._announce(f"  HTTP {answer.status}: the session stays in {UNKNOWN_STATE}.")

    async def _restore_context(self) -> None:
        session, previous = self._session, self._previous
        names = ", ".join(NAMES)
        if previous is None or len(json.dumps(previous)) > MOST_RESTORED:
            lost = self._writes.inject == "replace"
            fate = "and replaced all others" if lost else "beside the others"
            self._announce(f"The variables {names} stay in the context, {fate}.")
            return
        if self._writes.inject != "replace":
            self._announce("Reset the context, and inject that from before: 1 or 2 requests.")
            if (await session.reset("context")).status >= 300:
                self._announce(f"  This needs ids of the flow. The variables {names} stay.")
                return
        else:
            self._announce("Inject the context from before: 1 request.")
        if previous or self._writes.inject == "replace":
            answer = await session.inject_context(previous)
            if answer.status >= 300:
                self._announce(f"  HTTP {answer.status}: the variables from before are lost.")


def writes_from(variables: Mapping[str, Any]) -> MeasuredWrites:
    """Return the effect of a write, by the variables after the second one."""
    value, count = variables[OBJECT], 0
    while isinstance(value, dict) and "first" in value:
        value, count = value.get("inner"), count + 1
    levels: Mapping[int, Literal[0, 1, 2, "all"]] = {0: 0, 1: 1, 2: 2, 3: "all"}
    return MeasuredWrites(
        inject="merge" if KEPT in variables else "replace",
        merged_levels=levels[count],
        merges_lists=variables.get(LIST) != SECOND_LIST,
    )
