"""`Emulator`, the ASGI app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from .control import Control
from .endpoint import Backend
from .faults import FaultInjector, Faults, Step
from .messages import MessageEndpoint
from .recorder import Recorder
from .rules import Rules, Throttling
from .runtime import RuntimeEndpoint, find_problem
from .server.asgi import ClientGoneError, HttpRequest, Receive, Scope, Send
from .sessions import SessionsEndpoint
from .state import Dialog, Profile
from .stats import Stats
from .throttle import Throttle
from .tokens import TokenEndpoint, Tokens

DIALOGS = b"/runtime/v2/dialogs/"
STATE = b"/state"
SESSIONS = b"/new/v2.0/sessions/"
PROFILES = b"/new/v2.0/profiles/"
MESSAGES = (b"inject", b"notify")
CONTROL = b"/_emulator/"


class Emulator:
    """ASGI app that emulates Cognigy.AI's runtime and sessions API, token and message endpoints.

    A session is a dialog too: each API can read the writes of the other API.

    Args:
        api_key: Value of `X-API-Key` to accept, with all scopes; None to accept no key.
        client_id, client_secret: OAuth client to accept, at the token endpoints of the rules.
        url_token: URL token to accept, at ``/inject/{URLToken}`` and ``/notify/{URLToken}``.
            `Dialog.messages` has what arrived.
        rules: Rules by which requests are validated and applied.
        throttling: Quotas, and the headers that announce them.
        faults: Faults to inject; assign to `faults` to change them at any time.
        strict: Answer 404 for a dialog, session or profile that `add_dialog` or `add_profile` has
            not added, as ``Rules(create_dialogs=False)`` does. By default the emulator creates a
            dialog, session or profile at the first request for it.
        seed: Random seed of faults and tokens.

    Attributes:
        dialogs: Dialogs and sessions that were written, by id.
        profiles: Contact profiles that were written, by id.
        stats: Counters of requests, faults and violations.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        client_id: str = "emulator-client",
        client_secret: str = "emulator-secret",
        url_token: str = "emulator-url-token",
        rules: Rules | None = None,
        throttling: Throttling | None = None,
        faults: Faults | None = None,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        rules = rules or Rules()
        if strict:
            rules = replace(rules, create_dialogs=False)
        self.dialogs: dict[str, Dialog] = {}
        self.profiles: dict[str, Profile] = {}
        self.stats = Stats()
        self._faults = FaultInjector(faults or Faults(), seed)
        self._tokens = Tokens((client_id, client_secret), api_key, rules, seed)
        self._throttle = Throttle(throttling or Throttling())
        self._recorder = Recorder(self.stats)
        backend = Backend(
            rules,
            self.dialogs,
            self.profiles,
            self._tokens,
            self._throttle,
            self._faults,
            self._recorder,
        )
        self._runtime = RuntimeEndpoint(backend, rules.max_body_bytes)
        self._sessions = SessionsEndpoint(backend, rules.max_payload_bytes)
        self._messages = MessageEndpoint(backend, rules.max_payload_bytes, url_token)
        self._token_endpoint = TokenEndpoint(self._tokens, self._faults, self._recorder)
        self._control = Control(self)
        self._token_paths = frozenset(path.encode() for path in rules.token_paths)
        self._rules = rules
        self._drop_error = rules.drop_error

    @property
    def faults(self) -> Faults:
        """The faults in force. You may assign other `Faults` at any time."""
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
        """Choose the faults of the next writes, or of the next reads, one step for each.

        A step is the name of a fault with a probability, ``"error_500_applied"`` (502, 504),
        ``"hang_applied"``, ``"ok"`` for no fault, or a status from 300 to 599. A request that the
        emulator refuses for its credentials or by a quota takes no step. The next token request
        takes the step ``"token_failure"``. `untaken_steps` has the steps that are left.

        The responses have a body of JSON with a text and a trace id, in the form of the API that
        the request calls. The runtime API has ``{"message": ..., "traceId": "emulator-1"}``; for
        the fault ``"conflict"``, also `dialogId` and `version`, and a header `ETag`. The sessions
        API has the problem details of its public description, with `status`, `detail`, `code` and
        `traceId`. A 429 has a `Retry-After`, unless the step is the status 429.

        Args:
            steps: Steps to append to the earlier steps.
            dialog_id: Dialog whose requests take the steps, before the steps for any dialog; None
                for any dialog.
            method: Method of the requests that take the steps: "PATCH" for writes, the POST of the
                sessions API and of messages too, or "GET" for reads.

        Raises:
            ValueError: A step or the method does not exist; no step is appended.
        """
        self._faults.script(steps, dialog_id, method)

    @property
    def untaken_steps(self) -> dict[tuple[str, str | None], tuple[Step, ...]]:
        """The steps of `script` that no request has taken yet.

        The keys are the method and the dialog id; the id is None for steps for any dialog. Steps
        for token requests have the method POST.
        """
        return self._faults.untaken_steps()

    def write(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
    ) -> Dialog:
        """Write a dialog as another client would, and return the dialog.

        The dialog gets a new version, so that an `If-Match` with an earlier version fails. A change
        of `Dialog.session` makes no version.

        Raises:
            ValueError: The server would refuse the write.
        """
        dialog = self.dialogs.get(dialog_id)
        if dialog is None:
            if not self._rules.create_dialogs:
                raise ValueError(f"no dialog {dialog_id!r}: add it with add_dialog")
            dialog = Dialog(dialog_id)
        body: dict[str, Any] = {}
        for name, variables in (("session", session), ("user", user)):
            if variables is not None:
                body[name] = dict(variables)
        if next_step is not None:
            body["transition"] = {"nextStep": next_step}
        rules = self._rules
        problem = find_problem(dialog_id, body, rules.limits, rules.flow_nodes)
        if problem is not None:
            raise ValueError(problem)
        dialog.compete(body, merge=rules.merge, history_limit=rules.history_limit)
        self.dialogs[dialog_id] = dialog
        return dialog

    def add_dialog(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
    ) -> Dialog:
        """Add a dialog at version 0, and return it.

        Raises:
            ValueError: It exists already.
        """
        if dialog_id in self.dialogs:
            raise ValueError(f"dialog {dialog_id!r} exists already")
        dialog = Dialog(
            dialog_id, session=dict(session or {}), user=dict(user or {}), next_step=next_step
        )
        self.dialogs[dialog_id] = dialog
        return dialog

    def add_profile(self, profile_id: str, *, profile: Mapping[str, Any] | None = None) -> Profile:
        """Add a contact profile, and return it.

        Raises:
            ValueError: It exists already.
        """
        if profile_id in self.profiles:
            raise ValueError(f"profile {profile_id!r} exists already")
        self.profiles[profile_id] = added = Profile(profile_id, dict(profile or {}))
        return added

    def revoke_tokens(self) -> None:
        """Revoke all tokens issued so far. Requests with a revoked token get 401."""
        self._tokens.revoke_all()

    def reset(self) -> None:
        """Restore the initial state: no dialogs, counters, tokens or scripts, the first faults."""
        self.dialogs.clear()
        self.profiles.clear()
        self.stats.reset()
        for part in (self._faults, self._tokens, self._throttle, self._recorder):
            part.reset()
        for endpoint in (self._runtime, self._sessions, self._messages):
            endpoint.reset()

    def __repr__(self) -> str:
        return f"<Emulator {len(self.dialogs)} dialogs, {self.stats.requests} requests>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, as an ASGI app."""
        if scope["type"] == "lifespan":
            await _run_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"the emulator speaks HTTP, not {scope['type']}")
        request = HttpRequest(scope, receive, send, self._drop_error)
        path = request.path
        try:
            if path.startswith(DIALOGS) and path.endswith(STATE):
                await self._runtime.handle(request, "state", path[len(DIALOGS) : -len(STATE)])
            elif path.startswith(SESSIONS):
                segment, _, rest = path.removeprefix(SESSIONS).partition(b"/")
                await self._sessions.handle(request, f"sessions/{rest.decode('latin-1')}", segment)
            elif path == PROFILES.removesuffix(b"/"):
                await self._sessions.handle(request, "profiles/create", b"profiles")
            elif path.startswith(PROFILES):
                await self._sessions.handle(request, "profiles", path.removeprefix(PROFILES))
            elif path in self._token_paths:
                await self._token_endpoint.handle(request)
            elif path.startswith(CONTROL):
                await self._control.handle(request, path.removeprefix(CONTROL))
            else:
                kind, _, token = path[1:].partition(b"/")
                if kind in MESSAGES:
                    await self._messages.handle(request, kind.decode(), token)
                else:
                    await self._runtime.handle(request, "unknown", b"")
        except ClientGoneError:
            self.stats.abandoned += 1


async def _run_lifespan(receive: Receive, send: Send) -> None:
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
