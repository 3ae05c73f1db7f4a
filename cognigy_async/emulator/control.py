"""``/_emulator/``: what a test asks of an emulator that runs in another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from .answers import Answer, answer_json
from .asgi import Request
from .faults import Faults
from .payload import parse

if TYPE_CHECKING:
    from .app import Emulator

LARGEST = 1024 * 1024
DIALOGS = "dialogs/"


class Control:
    """Serves these paths, without credentials:

    - ``GET stats``: `Stats.as_dict`.
    - ``GET faults``, ``PUT faults``: the fields of `Faults`; what is not named takes its default.
    - ``POST script``: ``{"steps": [...], "dialog_id": ..., "method": ...}``, see `Emulator.script`.
    - ``GET dialogs/{id}``: the state of a dialog or session, with its history.
    - ``POST revoke``: no token is valid any longer. ``POST reset``: as newly made.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def handle(self, request: Request, path: str) -> None:
        """Answer one request; `path` is what follows ``/_emulator/``, still percent-encoded."""
        content = await request.read(LARGEST)
        await request.answer(self._answer(request.method, path, content or b""))

    def _answer(self, method: str, path: str, content: bytes) -> Answer:
        emulator = self._emulator
        name = DIALOGS if path.startswith(DIALOGS) else path
        match method, name:
            case "GET", "stats":
                return answer_json(200, emulator.stats.as_dict())
            case "GET", "faults":
                return answer_json(200, emulator.faults.as_dict())
            case "PUT", "faults":
                return self._changed(self._set_faults, content)
            case "POST", "script":
                return self._changed(self._script, content)
            case "GET", "dialogs/":
                return self._dialog(path.removeprefix(DIALOGS))
            case "POST", "revoke":
                emulator.revoke_tokens()
                return answer_json(200, {"message": "tokens revoked"})
            case "POST", "reset":
                emulator.reset()
                return answer_json(200, {"message": "reset"})
        return answer_json(404, {"message": f"no {method} of this path; see Control"})

    def _changed(self, change: Callable[[dict[str, Any]], None], content: bytes) -> Answer:
        try:
            change(parse(content))
        except (TypeError, ValueError) as error:
            return answer_json(400, {"message": str(error)})
        return answer_json(200, self._emulator.faults.as_dict())

    def _set_faults(self, body: dict[str, Any]) -> None:
        self._emulator.faults = Faults.of(body)

    def _script(self, body: dict[str, Any]) -> None:
        steps = body.pop("steps", None)
        if not isinstance(steps, list):
            raise ValueError("steps must be a list")
        if not isinstance(body.get("dialog_id"), str | None):
            raise ValueError("dialog_id must be a string or null")
        unknown = sorted(body.keys() - {"dialog_id", "method"})
        if unknown:
            raise ValueError(f"unknown member {', '.join(unknown)}")
        self._emulator.script(*steps, **body)

    def _dialog(self, segment: str) -> Answer:
        try:
            dialog_id = unquote_to_bytes(segment).decode()
        except UnicodeDecodeError:
            return answer_json(400, {"message": "the dialog id is not UTF-8"})
        dialog = self._emulator.dialogs.get(dialog_id)
        if dialog is None or "/" in segment:
            return answer_json(404, {"message": "there is no such dialog"})
        history = [entry.as_dict() for entry in dialog.history]
        return answer_json(200, {**dialog.as_dict(), "history": history})
