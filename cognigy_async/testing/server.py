"""A simulated server and the network before it, as one `Transport`: no socket, thread or task."""

from __future__ import annotations

import heapq
import json
import random
from typing import Any
from urllib.parse import unquote

import anyio

from cognigy_async import NoResponseError, NotSentError, Request, Response

from .log import Exchange, Log, TokenExchange
from .schedule import Schedule

AWAY = 0.3
"""Probability that another client writes to a dialog before a read after a crash."""
TOKEN_URL = "https://simulated.invalid/oauth/token"


class SimulatedServer:
    """Execute requests of the runtime API in virtual time, with the faults of a schedule.

    A request that is late stays on its way after the client gave up, and is applied then.
    """

    def __init__(self, schedule: Schedule, log: Log) -> None:
        self._schedule = schedule
        self.log = log
        self._requests: dict[str, int] = {}
        self._late: list[tuple[float, int, Exchange, dict[str, Any]]] = []
        self._dialogs: dict[str, dict[str, Any]] = {}
        self._keys: set[str] = set()
        self._valid_until: dict[str, float] = {}
        self._rng = random.Random(f"tokens {schedule.seed}")

    async def send(self, request: Request, *, timeout: float) -> Response:
        """As `Transport.send`."""
        if request.url == TOKEN_URL:
            return await self._issue()
        exchange = self._note(request)
        ordinal = self._requests.get(exchange.dialog_id, 0)
        self._requests[exchange.dialog_id] = ordinal + 1
        fault = exchange.fault = self._schedule.fault(
            exchange.dialog_id, ordinal, is_read=exchange.method == "GET"
        )
        if not fault and exchange.method == "GET" and self.log.crashes:
            # While the process was away, others wrote to the dialogs.
            moved = random.Random(f"moved {self._schedule.seed} {exchange.dialog_id} {ordinal}")
            fault = exchange.fault = "competitor" if moved.random() < AWAY else ""
        if fault:
            self.log.faults[fault] += 1
        delay = self._schedule.latency(exchange.dialog_id, ordinal)
        body = json.loads(request.content) if request.content else {}
        try:
            response = await self._execute(exchange, body, fault, delay, timeout)
        except NotSentError:
            exchange.status = -1
            raise
        except NoResponseError:
            raise
        except BaseException:
            exchange.torn_down = True
            raise
        else:
            exchange.status = response.status
            return response
        finally:
            exchange.ended = anyio.current_time()

    async def aclose(self) -> None:
        """As `Transport.aclose`."""

    def settle(self) -> None:
        """Apply what is still on its way, and note the final state."""
        self._arrive(float("inf"))
        for dialog_id, dialog in self._dialogs.items():
            self.log.sessions[dialog_id] = dialog["session"]

    def _note(self, request: Request) -> Exchange:
        body = json.loads(request.content) if request.content else {}
        numbers: tuple[int, ...] = ()
        if not self._schedule.has_program:
            session = body.get("session", {})
            numbers = tuple(int(name[1:]) for name in session if name[0] == "n")
        headers = {name.lower(): value for name, value in request.headers.items()}
        exchange = Exchange(
            anyio.current_time(),
            request.method,
            unquote(request.url.split("/dialogs/")[1].split("/")[0]),
            headers.get("idempotency-key"),
            numbers,
            body.get("transition", {}).get("nextStep"),
            headers.get("if-match"),
            headers.get("authorization", ""),
        )
        self.log.exchanges.append(exchange)
        return exchange

    async def _execute(
        self, exchange: Exchange, body: dict[str, Any], fault: str, delay: float, timeout: float
    ) -> Response:
        if fault == "refused":
            await anyio.sleep(delay)
            raise NotSentError("no connection")
        if fault == "late":
            self._come_late(exchange, body, anyio.current_time() + timeout + 20 * delay)
            await anyio.sleep(timeout)
            raise NoResponseError("no answer in time", timed_out=True)
        await anyio.sleep(delay)
        if fault == "dropped before":
            raise NoResponseError("the connection was closed")
        now = anyio.current_time()
        if self.log.crashes and exchange.began <= self.log.crashes[-1]:
            # The process that sent it has crashed: the network may lose it, or be late.
            fate = self._rng.choice(("", "lost in a crash", "late after a crash"))
            exchange.fault = fate or fault
            if fate:
                self.log.faults[fate] += 1
                if fate == "late after a crash":
                    self._come_late(exchange, body, now + self._rng.uniform(0, 3))
                raise NoResponseError("the process has crashed")
        self._arrive(now)
        response = self._answer(exchange, body, fault, now)
        await anyio.sleep(delay)
        if fault == "dropped after":
            raise NoResponseError("the connection was closed")
        return response

    def _answer(self, exchange: Exchange, body: dict[str, Any], fault: str, now: float) -> Response:
        token = exchange.token.removeprefix("Bearer ")
        if fault == "revoked":
            self._valid_until[token] = now
        if self._valid_until.get(token, 0.0) <= now:
            return _response(401)
        rng = random.Random(f"answer {self._schedule.seed} {exchange.began}")
        if fault in ("429", "429 retry-after", "429 dialog", "503", "503 retry-after"):
            headers: dict[str, str] = {}
            if "retry-after" in fault or (fault == "429 dialog" and rng.random() < 0.7):
                exchange.retry_after = float(rng.choice((1, 3, 10)))
                headers["retry-after"] = str(int(exchange.retry_after))
            if fault == "429 dialog":
                exchange.of_dialog = True
                headers["x-ratelimit-scope"] = "dialog"
            return _response(int(fault[:3]), headers)
        if fault == "500":
            return _response(500)
        dialog = self._dialog(exchange.dialog_id)
        if fault == "competitor":
            # Another process increments the counter of `modify`, or a variable of its own.
            name = "competitor" if self._schedule.has_program else "count"
            dialog["version"] += 1
            dialog["session"][name] = dialog["session"].get(name, 0) + 1
            if self._schedule.program == "outbox":
                dialog["transition"]["nextStep"] = "elsewhere"
            self.log.competitors[exchange.dialog_id] += 1
        if fault == "409" and exchange.method != "GET":
            return _response(409, {"etag": f'"{dialog["version"]}"'})
        if exchange.method != "GET" and not self._apply(exchange, body, now):
            return _response(409, {"etag": f'"{dialog["version"]}"'})
        if fault == "500 applied":
            return _response(500)
        return _response(200, {"etag": f'"{dialog["version"]}"'}, dialog)

    def _come_late(self, exchange: Exchange, body: dict[str, Any], at: float) -> None:
        heapq.heappush(self._late, (at, len(self.log.exchanges), exchange, body))

    def _arrive(self, now: float) -> None:
        while self._late and self._late[0][0] <= now:
            at, _, exchange, body = heapq.heappop(self._late)
            token = exchange.token.removeprefix("Bearer ")
            if exchange.method != "GET" and self._valid_until.get(token, 0.0) > at:
                self._apply(exchange, body, at)

    def _apply(self, exchange: Exchange, body: dict[str, Any], now: float) -> bool:
        dialog = self._dialog(exchange.dialog_id)
        match = exchange.if_match
        if match is not None and match != f'"{dialog["version"]}"':
            return False
        key = exchange.key
        if self._schedule.honours_keys and key is not None:
            if key in self._keys:
                return True
            self._keys.add(key)
        dialog["version"] += 1
        for context in ("session", "user", "transition"):
            dialog[context].update(body.get(context, {}))
        exchange.applied_at.append(now)
        return True

    def _dialog(self, dialog_id: str) -> dict[str, Any]:
        empty = {"version": 0, "session": {}, "user": {}, "transition": {}}
        return self._dialogs.setdefault(dialog_id, empty)

    async def _issue(self) -> Response:
        exchange = TokenExchange(anyio.current_time())
        self.log.tokens.append(exchange)
        try:
            await anyio.sleep(self._rng.uniform(0.05, 0.5))
            if self._rng.random() < self._schedule.token_failures:
                self.log.faults["token"] += 1
                return _response(503)
            exchange.token = f"token-{len(self.log.tokens)}"
            lifetime = self._schedule.lifetime
            self._valid_until[exchange.token] = anyio.current_time() + lifetime
            body = {"access_token": exchange.token, "token_type": "Bearer", "expires_in": lifetime}
            return _response(200, content=body)
        finally:
            exchange.ended = anyio.current_time()


def _response(
    status: int, headers: dict[str, str] | None = None, content: dict[str, Any] | None = None
) -> Response:
    fields = {"content-type": "application/json"} | (headers or {})
    return Response(status, fields, json.dumps(content or {}).encode())
