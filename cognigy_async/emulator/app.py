"""`Emulator`: the server in one object, which is the ASGI app."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, get_args
from urllib.parse import unquote_to_bytes

import httpx

from cognigy_async import Limits

from .answers import Errors, Problems
from .asgi import ClientGoneError, Receive, Request, Scope, Send
from .control import Control
from .endpoint import Rules, Server
from .faults import Faults, FaultSource, Step
from .oauth import TokenEndpoint
from .profiles import Profile, Profiles
from .runtime import RuntimeEndpoint
from .sessions import BELOW_A_SESSION, Operation, SessionsEndpoint
from .state import Dialog, Merge
from .stats import Stats
from .throttle import QuotaHeaders, RetryAfter, Throttle
from .tokens import Tokens
from .watch import Watch

DIALOGS = b"/runtime/v2/dialogs/"
STATE = b"/state"
TOKENS = (b"/oauth/token", b"/auth/oauth2/token")
SESSIONS = b"/new/v2.0/sessions/"
PROFILES = b"/new/v2.0/profiles/"
CONTROL = b"/_emulator/"


class Emulator:
    """Behaves like the runtime and the sessions API of Cognigy.AI and their token endpoints.

    It is an ASGI app. A session is a dialog too: what one API writes the other one reads.

    Args:
        client_id, client_secret: who may have a token, at ``/oauth/token`` and at
            ``/auth/oauth2/token``.
        api_key: a value of `X-API-Key` that is accepted too, with all scopes; None for no such.
        scopes: that a token may have. In the runtime API a PATCH needs ``runtime:write``, a GET
            that or ``dialog:read``; the sessions API asks for none.
        token_lifetime: seconds that a token is valid, by the clock of the event loop.
        merge: "replace" assigns a variable whole, "recursive" merges an object into an object.
        inject: what a context/inject does with the variables that it does not name: "merge" keeps
            them, "replace" drops them.
        honour_idempotency_keys: whether a write with a key that was applied is answered as it was
            and not applied again.
        conflict_status: answers an `If-Match` that does not hold.
        limits: what a PATCH may carry.
        flow_nodes: the nodes that a transition may name; None for any.
        max_body_bytes: a longer body is answered 413 by the runtime API.
        max_payload_bytes: the same for the sessions API.
        tenant_quota, dialog_quota: (requests, seconds); more of them within a fixed window are
            answered 429, those of a dialog with ``X-RateLimit-Scope: dialog``.
        address_quota: the same for each calling address, as shared hosts count.
        quota_headers: how every answer tells what is left: ``"ietf"`` (`RateLimit-Policy` and
            `RateLimit`), ``"ietf-early"`` (`RateLimit-Limit`, `-Remaining` and `-Reset`), ``"x"``
            (the same with `X-`), or ``"none"``. Seconds are rounded up.
        retry_after: how `Retry-After` is written: whole seconds, seconds with three decimals, an
            HTTP date, or not at all. Rounded up.
        notice: seconds after a 429 in which requests that arrive are taken to be on their way
            already, and not counted as early.
        faults: what goes wrong; change it at any time by assigning to `faults`.
        seed: of all chance.
        create_dialogs: whether a dialog, session or profile exists as soon as it is asked for; else
            see `add_dialog` and `add_profile`.
        history_limit: entries kept of each dialog's history, and keys remembered; None keeps all.
        drop_error: what a dropped connection raises where the app is called in the process.
        wall_clock: seconds since the epoch, for HTTP dates.

    Raises:
        ValueError: a number that makes no sense.

    Attributes:
        dialogs: what was written, by dialog or session id.
        profiles: contact profiles that were written, by id.
        stats: what was seen.
    """

    def __init__(
        self,
        *,
        client_id: str = "emulator-client",
        client_secret: str = "emulator-secret",
        api_key: str | None = None,
        scopes: Collection[str] = ("runtime:write", "session:manage", "dialog:read"),
        token_lifetime: float = 3600.0,
        merge: Merge = "replace",
        inject: Literal["merge", "replace"] = "merge",
        honour_idempotency_keys: bool = True,
        conflict_status: Literal[409, 412] = 409,
        limits: Limits | None = None,
        flow_nodes: Collection[str] | None = None,
        max_body_bytes: int = 1024 * 1024,
        max_payload_bytes: int = 60_000,
        tenant_quota: tuple[int, float] | None = None,
        dialog_quota: tuple[int, float] | None = None,
        address_quota: tuple[int, float] | None = None,
        quota_headers: QuotaHeaders = "none",
        retry_after: RetryAfter = "seconds",
        notice: float = 0.25,
        faults: Faults | None = None,
        seed: int = 0,
        create_dialogs: bool = True,
        history_limit: int | None = None,
        drop_error: Callable[[str], Exception] = httpx.RemoteProtocolError,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        _one_of("merge", merge, ("replace", "recursive"))
        _one_of("inject", inject, ("merge", "replace"))
        _one_of("conflict_status", conflict_status, (409, 412))
        _one_of("retry_after", retry_after, ("seconds", "decimal", "date", "none"))
        _one_of("quota_headers", quota_headers, get_args(QuotaHeaders))
        _in_range("token_lifetime", token_lifetime, above=0)
        _in_range("notice", notice, least=0)
        _in_range("max_body_bytes", max_body_bytes, least=1)
        _in_range("max_payload_bytes", max_payload_bytes, least=1)
        if history_limit is not None:
            _in_range("history_limit", history_limit, least=1)
        self.stats = Stats()
        self.dialogs: dict[str, Dialog] = {}
        self.profiles = Profiles()
        self._faults = FaultSource(faults or Faults(), seed)
        self._tokens = Tokens(client_id, client_secret, api_key, scopes, token_lifetime, seed)
        self._throttle = Throttle(
            tenant_quota,
            dialog_quota,
            retry_after,
            notice,
            wall_clock,
            address_quota=address_quota,
            quota_headers=quota_headers,
        )
        self._watch = Watch(self.stats)
        self._errors = Errors()
        self._problems = Problems()
        self._drop_error = drop_error
        rules = Rules(
            merge=merge,
            inject=inject,
            honour_idempotency_keys=honour_idempotency_keys,
            conflict_status=conflict_status,
            limits=limits or Limits(),
            flow_nodes=flow_nodes,
            max_body_bytes=max_body_bytes,
            create_dialogs=create_dialogs,
            history_limit=history_limit,
        )
        server = Server(
            rules, self.dialogs, self._tokens, self._throttle, self._faults, self._watch
        )
        self._runtime = RuntimeEndpoint(server, self._errors)
        self._sessions = SessionsEndpoint(server, self._problems, self.profiles, max_payload_bytes)
        self._token_endpoint = TokenEndpoint(self._tokens, self._faults, self._watch)
        self._control = Control(self)

    @property
    def faults(self) -> Faults:
        """The faults in force; assign others at any time."""
        return self._faults.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults.faults = faults

    def script(
        self,
        *steps: Step,
        dialog_id: str | None = None,
        method: Literal["PATCH", "GET"] = "PATCH",
    ) -> None:
        """Decide what the next requests meet, one step each, instead of chance.

        A step is the name of a fault with a probability, ``"error_500_applied"`` (502, 504) or
        ``"hang_applied"``, ``"ok"`` for none, or a status from 300 to 599. A request that is
        refused for its credentials or by a quota takes no step. ``"token_failure"`` goes to the
        next token request.

        Args:
            steps: appended to those not yet taken.
            dialog_id: whose requests take them, before steps for any; None for any dialog's.
            method: which requests take them; "PATCH" stands for the POST of the sessions API too.

        Raises:
            ValueError: there is no such step or method; none of the steps is kept.
        """
        self._faults.script(steps, dialog_id, method)

    def add_dialog(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
    ) -> Dialog:
        """Make a dialog exist, at version 0.

        Raises:
            ValueError: it exists.
        """
        if dialog_id in self.dialogs:
            raise ValueError(f"dialog {dialog_id!r} exists already")
        dialog = Dialog(
            dialog_id, session=dict(session or {}), user=dict(user or {}), next_step=next_step
        )
        self.dialogs[dialog_id] = dialog
        return dialog

    def add_profile(self, profile_id: str, *, profile: Mapping[str, Any] | None = None) -> Profile:
        """Make a contact profile exist.

        Raises:
            ValueError: it exists.
        """
        if profile_id in self.profiles:
            raise ValueError(f"profile {profile_id!r} exists already")
        self.profiles[profile_id] = made = Profile(profile_id, dict(profile or {}))
        return made

    def revoke_tokens(self) -> None:
        """Answer 401 to every token issued so far."""
        self._tokens.revoke_all()

    def reset(self) -> None:
        """As newly made: no dialogs, counters, tokens, scripts, pauses; the faults of the start."""
        self.dialogs.clear()
        self.profiles.clear()
        self.stats.reset()
        for part in (self._faults, self._tokens, self._throttle, self._watch):
            part.reset()
        for errors in (self._errors, self._problems):
            errors.reset()

    def __repr__(self) -> str:
        return f"<Emulator {len(self.dialogs)} dialogs, {self.stats.requests} requests>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the emulator speaks HTTP, not {scope['type']}")
        request = Request(scope, receive, send, self._drop_error)
        path = request.path
        try:
            if path.startswith(DIALOGS) and path.endswith(STATE):
                await self._to_dialog(request, path[len(DIALOGS) : -len(STATE)])
            elif path.startswith((SESSIONS, PROFILES)):
                await self._to_session(request, path)
            elif path in TOKENS:
                await self._token_endpoint.handle(request)
            elif path.startswith(CONTROL):
                await self._control.handle(request, path.removeprefix(CONTROL).decode("latin-1"))
            else:
                await self._runtime.refuse(request, 404, "there is no such path")
        except ClientGoneError:
            self.stats.abandoned += 1

    async def _to_dialog(self, request: Request, segment: bytes) -> None:
        dialog_id = _decoded(segment)
        if not segment or b"/" in segment:
            await self._runtime.refuse(request, 404, "there is no such path")
        elif request.method not in ("GET", "PATCH"):
            allowed = (b"allow", b"GET, PATCH")
            await self._runtime.refuse(request, 405, "a state takes GET and PATCH", allowed)
        elif dialog_id is None:
            await self._runtime.refuse(request, 400, "the dialog id is not UTF-8")
        else:
            await self._runtime.handle(request, dialog_id)

    async def _to_session(self, request: Request, path: bytes) -> None:
        operation: Operation | None
        if path.startswith(PROFILES):
            segment, operation = path[len(PROFILES) :], "profile"
        else:
            segment, _, rest = path[len(SESSIONS) :].partition(b"/")
            operation = BELOW_A_SESSION.get(rest.decode("latin-1"))
        subject = _decoded(segment)
        if operation is None or not segment or b"/" in segment:
            await self._sessions.refuse(request, 404, "there is no such path")
        elif subject is None:
            await self._sessions.refuse(request, 400, "the id is not UTF-8")
        else:
            await self._sessions.handle(request, operation, subject)


def _decoded(segment: bytes) -> str | None:
    """The text of a segment of a path; None where it is not UTF-8."""
    try:
        return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    except UnicodeDecodeError:
        return None


async def _live(receive: Receive, send: Send) -> None:
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Emulator({name}={value!r}): must be one of {choices}")


def _in_range(
    name: str, value: float, *, least: float = -math.inf, above: float = -math.inf
) -> None:
    if not (least <= value < math.inf and value > above):
        bound = f"at least {least}" if math.isfinite(least) else f"above {above}"
        raise ValueError(f"Emulator({name}={value!r}): must be {bound} and finite")
