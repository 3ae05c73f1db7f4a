"""``/_emulator/``: control of an emulator that runs in another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from .faults import Faults, Step
from .responses import HttpResponse, json_response
from .server.asgi import HttpRequest, decode_segment, parse_object
from .state import Dialog
from .stats import Stats

MAX_BODY_BYTES = 1024 * 1024
DIALOGS = b"dialogs/"


class _Controlled(Protocol):
    """The part of `Emulator` that is controlled."""

    stats: Stats
    dialogs: dict[str, Dialog]

    @property
    def faults(self) -> Faults: ...

    @faults.setter
    def faults(self, faults: Faults) -> None: ...

    def script(self, *steps: Step, dialog_id: str | None = ...) -> None: ...

    def add_dialog(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = ...,
        user: Mapping[str, Any] | None = ...,
        next_step: str | None = ...,
    ) -> Dialog: ...

    def revoke_tokens(self) -> None: ...

    def reset(self) -> None: ...


class Control:
    """The control endpoint. It needs no credentials and serves these paths:

    - ``GET stats``: `Stats.as_dict`.
    - ``GET faults``, ``PUT faults``: Fields of `Faults`; missing ones get their default.
    - ``POST script``: ``{"steps": [...], "dialog_id": ..., "method": ...}``, as `Emulator.script`.
    - ``GET dialogs/{id}``: State of a dialog or session, with its history.
    - ``PUT dialogs/{id}``: ``{"session": {...}, "user": {...}, "next_step": ...}``, as
      `Emulator.add_dialog`; answers as the ``GET``.
    - ``POST revoke``: `Emulator.revoke_tokens`. ``POST reset``: `Emulator.reset`.
    """

    def __init__(self, emulator: _Controlled) -> None:
        self._emulator = emulator

    async def handle(self, request: HttpRequest, path: bytes) -> None:
        """Answer one request; `path` follows ``/_emulator/`` and is percent-encoded."""
        content = await request.read(MAX_BODY_BYTES)
        await request.answer(self._answer(request.method, path, content or b""))

    def _answer(self, method: str, path: bytes, content: bytes) -> HttpResponse:
        emulator = self._emulator
        match method, DIALOGS if path.startswith(DIALOGS) else path:
            case "GET", b"stats":
                return json_response(200, emulator.stats.as_dict())
            case "GET", b"faults":
                return json_response(200, emulator.faults.as_dict())
            case "PUT", b"faults":
                return self._change(self._set_faults, content)
            case "POST", b"script":
                return self._change(self._script, content)
            case "GET", b"dialogs/":
                return self._show_dialog(path.removeprefix(DIALOGS))
            case "PUT", b"dialogs/":
                add = partial(self._add_dialog, path.removeprefix(DIALOGS))
                return self._change(add, content)
            case "POST", b"revoke":
                emulator.revoke_tokens()
                return json_response(200, {"message": "tokens revoked"})
            case "POST", b"reset":
                emulator.reset()
                return json_response(200, {"message": "reset"})
        return json_response(404, {"message": f"{method} is not supported at this path"})

    def _change(
        self, change: Callable[[dict[str, Any]], HttpResponse], content: bytes
    ) -> HttpResponse:
        try:
            return change(parse_object(content))
        except (TypeError, ValueError) as error:
            return json_response(400, {"message": str(error)})

    def _set_faults(self, body: dict[str, Any]) -> HttpResponse:
        self._emulator.faults = Faults.of(body)
        return json_response(200, self._emulator.faults.as_dict())

    def _script(self, body: dict[str, Any]) -> HttpResponse:
        steps = body.pop("steps", None)
        if not isinstance(steps, list):
            raise ValueError("steps must be a list")
        if not isinstance(body.get("dialog_id"), str | None):
            raise ValueError("dialog_id must be a string or null")
        unknown = sorted(body.keys() - {"dialog_id", "method"})
        if unknown:
            raise ValueError(f"unknown member {', '.join(unknown)}")
        self._emulator.script(*steps, **body)
        return json_response(200, self._emulator.faults.as_dict())

    def _add_dialog(self, segment: bytes, body: dict[str, Any]) -> HttpResponse:
        dialog_id = decode_segment(segment)
        if not dialog_id or b"/" in segment:
            raise ValueError("the dialog id must be one segment of the path, in UTF-8")
        unknown = sorted(body.keys() - {"session", "user", "next_step"})
        if unknown:
            raise ValueError(f"unknown member {', '.join(unknown)}")
        for name in ("session", "user"):
            if not isinstance(body.get(name), dict | None):
                raise ValueError(f"{name} must be an object or null")
        if not isinstance(body.get("next_step"), str | None):
            raise ValueError("next_step must be a string or null")
        self._emulator.add_dialog(dialog_id, **body)
        return self._show_dialog(segment)

    def _show_dialog(self, segment: bytes) -> HttpResponse:
        dialog_id = decode_segment(segment)
        if dialog_id is None:
            return json_response(400, {"message": "the dialog id is not UTF-8"})
        dialog = self._emulator.dialogs.get(dialog_id)
        if dialog is None or b"/" in segment:
            return json_response(404, {"message": "no such dialog"})
        history = [entry.as_dict() for entry in dialog.history]
        return json_response(200, {**dialog.as_dict(), "history": history})
