"""The activities of a dialog: write to Cognigy.AI, and tell the targets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import anyio
from temporalio import activity
from temporalio.exceptions import ApplicationError

from cognigy_async import (
    AmbiguousUpdateError,
    AsyncStateClient,
    ClientClosedError,
    CognigyError,
    NotSentError,
    PendingUpdate,
    QueueFullError,
    StateUpdate,
    UpdateEvent,
    UpdateResult,
    UpdateWithdrawnError,
)
from cognigy_async.crm.target import EventRejectedError, Target
from cognigy_async.spi import may_repeat

from .dialog_writer import DELIVER, WRITE, Json
from .fencing import Fence, fenced
from .wire import dump_error, dump_result, load_options, load_outcome

MOST_WAIT = 3600.0
"""Seconds. A target that wants to be left alone for longer is asked again after this time."""


class DialogActivities:
    """Activities of the workflow `DialogWriter`, with the client and the targets of a worker."""

    def __init__(self, client: AsyncStateClient, targets: Sequence[Target]) -> None:
        self._client = client
        self._targets = {target.name: target for target in targets}

    @activity.defn(name=WRITE)
    async def write(self, updates: list[Json]) -> Json:
        """Send updates of one dialog in order; return an outcome for each, None if unsent."""
        again = activity.info().attempt > 1
        outcomes: list[Json | None] = []
        async with fenced() as fence:
            handles: list[PendingUpdate | Json | None] = []
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_withdraw_at_shutdown, handles)
                    for index, update in enumerate(updates):
                        # The outcome of the first one is lost with the worker that had sent it.
                        handles.append(await self._submit(update, again and index == 0))
                    outcomes += [await _outcome(handle, fence, len(updates)) for handle in handles]
                    tasks.cancel_scope.cancel()
            finally:
                _withdraw(handles)
        return {"outcomes": outcomes, "targets": list(self._targets)}

    @activity.defn(name=DELIVER)
    async def deliver(self, name: str, events: list[Json]) -> Json:
        """Hand events to a target in order.

        Returns:
            `errors`, for the first events: None if the target has taken the event, a text if it
            never will. The others are to be handed over again.

        Raises:
            ApplicationError: The target has not taken the first event now.
        """
        target = self._targets.get(name)
        if target is None:
            raise ApplicationError(f"this worker has no target {name!r}", type="NoTarget")
        errors: list[str | None] = []
        failure: Exception | None = None
        async with fenced() as fence:
            size = max(1, target.batch_size)
            for start in range(0, len(events), size):
                batch = [self._event(event) for event in events[start : start + size]]
                failure = await _deliver(target, batch, errors)
                if failure is not None or fence.is_lost:
                    break
        if not errors and failure is not None:
            delay = getattr(failure, "retry_after", None)
            raise ApplicationError(
                f"{name}: {type(failure).__name__}",
                type=type(failure).__name__,
                next_retry_delay=None if not delay else timedelta(seconds=min(delay, MOST_WAIT)),
            )
        return {"errors": errors}

    async def _submit(self, update: Json, may_be_applied: bool) -> PendingUpdate | Json | None:
        """Hand an update to the client; return its handle, or its outcome, or None if unsent."""
        fields = update["fields"]
        try:
            valid = StateUpdate.from_fields(self._client.limits, fields)
            if may_be_applied and not (update["repeatable"] or may_repeat(self._client.api, valid)):
                raise AmbiguousUpdateError(
                    "The worker that sent it has stopped",
                    dialog_id=valid.dialog_id,
                    update_id=valid.update_id,
                )
            options = load_options(update["options"])
            with suppress(QueueFullError):
                # All updates are in the queue before the first one is sent, so that the same
                # updates share requests if the activity runs again.
                return self._client.submit_nowait(valid, **options)
            return await self._client.submit(valid, **options)
        except ClientClosedError:
            return None
        except CognigyError as error:
            return dump_error(error)

    def _event(self, event: Json) -> UpdateEvent:
        fields = event["update"]["fields"]
        update = StateUpdate.from_fields(self._client.limits, fields)
        dialog_id, update_id = update.dialog_id, fields["update_id"]
        result = load_outcome(dialog_id, update_id, event["outcome"])
        assert isinstance(result, UpdateResult)
        return UpdateEvent(dialog_id, update_id, update, result, None, update.metadata)


async def _outcome(handle: PendingUpdate | Json | None, fence: Fence, updates: int) -> Json | None:
    if not isinstance(handle, PendingUpdate):
        return handle
    try:
        return dump_result(await handle, updates)
    except (UpdateWithdrawnError, ClientClosedError):
        return None
    except NotSentError as error:
        return None if fence.refused else dump_error(error)
    except CognigyError as error:
        return dump_error(error)


async def _withdraw_at_shutdown(handles: Sequence[PendingUpdate | Json | None]) -> None:
    await activity.wait_for_worker_shutdown()
    _withdraw(handles)


def _withdraw(handles: Sequence[PendingUpdate | Json | None]) -> None:
    # From the last one, so that no later update overtakes one that was withdrawn.
    for handle in reversed(handles):
        if isinstance(handle, PendingUpdate):
            handle.withdraw()


async def _deliver(
    target: Target, events: Sequence[UpdateEvent], errors: list[str | None]
) -> Exception | None:
    """Hand one batch over, and add to `errors`. Return why the next event was not taken now."""
    try:
        answers: Sequence[Exception | None] = await target.deliver(events)
    except Exception as error:
        answers = [error] * len(events)
    for answer in answers:
        if answer is not None and not isinstance(answer, EventRejectedError):
            return answer
        errors.append(None if answer is None else f"{type(answer).__name__}: {answer}")
    return None
