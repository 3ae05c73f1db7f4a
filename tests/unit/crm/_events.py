"""Events of updates, and the outcomes of their delivery."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from cognigy_async import CognigyError, StateUpdate, UpdateEvent
from cognigy_async.crm import DeliveryError, Target

TargetT = TypeVar("TargetT", bound=Target)


def event(
    dialog_id: str = "d-1",
    number: int = 0,
    *,
    metadata: dict[str, str] | None = None,
    error: CognigyError | None = None,
    **fields: Any,
) -> UpdateEvent:
    update = StateUpdate(dialog_id, **(fields or {"session": {"a": number}}))
    update_id = f"u-{dialog_id}-{number}"
    return UpdateEvent(dialog_id, update_id, update, None, error, metadata or {})


@asynccontextmanager
async def opened(target: TargetT) -> AsyncIterator[TargetT]:
    await target.open()
    try:
        yield target
    finally:
        await target.aclose()


async def outcomes(target: Target, events: Sequence[UpdateEvent]) -> list[DeliveryError | None]:
    """Deliver events as an outbox does: an error that is raised holds for all of them."""
    try:
        return list(await target.deliver(events))
    except DeliveryError as error:
        return [error] * len(events)


def kinds(results: Sequence[DeliveryError | None]) -> list[str]:
    return ["" if each is None else type(each).__name__ for each in results]


def text_of(error: BaseException | None) -> str:
    """Return all that a log could show of an error."""
    if error is None:
        return ""
    return f"{error!r} {error} {''.join(traceback.format_exception(error))}"
