"""Many events, kept while a CRM was away for a day, reach it in few calls and within its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from cognigy_async import NotSentError, Request, Response, StateUpdate
from cognigy_async.crm import HubSpot, Outbox, Salesforce, SalesforceAuth, Webhook
from tests.stubs.hubspot import HubSpotStub
from tests.stubs.salesforce import SalesforceStub
from tests.stubs.transport import InProcess, served
from tests.stubs.webhook import Receiver
from tests.unit.crm._driver import Client, Written, event_of, eventually, intent_of, opened
from tests.unit.crm.test_webhook import SECRET

DAY = 86_400.0
UPDATES = 4
"""Updates of each dialog."""


class DownForADay(InProcess):
    """Cannot be reached for a day."""

    attempts = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        if anyio.current_time() < DAY:
            self.attempts += 1
            raise NotSentError("down")
        return await super().send(request, timeout=timeout)


async def apply_all(client: Client, count: int) -> None:
    """Apply updates of many dialogs, in groups."""
    dialogs = count // UPDATES
    for first in range(0, count, 500):
        updates = [
            (StateUpdate(f"d-{number % dialogs}", session={"total": number}), f"u-{number}")
            for number in range(first, min(count, first + 500))
        ]
        written = Written()
        client.outbox.intend([intent_of(*each) for each in updates], written)
        await written.wait()
        await client.settle(*(event_of(*each) for each in updates))


def hubspot() -> tuple[HubSpotStub, Any]:
    stub = HubSpotStub("pat-token", id_property="dialog", properties=("total",))
    mapping = {"dialog": "dialog_id", "total": "session.total"}
    transport = DownForADay(stub, latency=0.2)
    return stub, HubSpot("pat-token", mapping, id_property="dialog", transport=transport)


def salesforce() -> tuple[SalesforceStub, Any]:
    stub = SalesforceStub("secret", fields=("Total__c",))
    auth = SalesforceAuth("https://acme.my.salesforce.com", "key", "secret")
    mapping = {"Dialog__c": "dialog_id", "Total__c": "session.total"}
    transport = DownForADay(stub, latency=0.5)
    return stub, Salesforce(auth, mapping, external_id="Dialog__c", transport=transport)


@pytest.mark.parametrize("count", [5_000])
@pytest.mark.parametrize(("make", "size"), [(hubspot, 100), (salesforce, 200)])
async def test_many_events_take_few_calls(tmp_path: Path, make: Any, size: int, count: int) -> None:
    stub, target = make()
    outbox = Outbox(tmp_path / "outbox")
    outbox.deliver_to(target)
    async with opened(outbox) as client:
        await apply_all(client, count)
        await anyio.sleep_until(DAY)
        await eventually(lambda: outbox.status()[0].depth == 0)
    # Virtual time passes while a thread reads, so that a few calls are made with what is there.
    spare = 10 if count < 100_000 else 0
    assert count // size <= stub.calls <= count / size * 1.01 + spare
    for number in range(count // UPDATES):
        found = stub.history[f"d-{number}"]
        written = [int(each.get("total", each.get("Total__c"))) for each in found]
        assert written == sorted(written)
        assert written[-1] == count - count // UPDATES + number


@pytest.mark.real_time
@pytest.mark.parametrize("count", [1_000])
async def test_many_events_reach_a_webhook(tmp_path: Path, count: int) -> None:
    receiver = Receiver(SECRET)
    outbox = Outbox(tmp_path / "outbox")
    with served(receiver) as origin:
        outbox.deliver_to(Webhook(f"{origin}/events", SECRET))
        async with opened(outbox, timeout=10.0) as client:
            await apply_all(client, count)
            while outbox.status()[0].depth:  # noqa: ASYNC110 (a server in a thread)
                await anyio.sleep(0.05)
    arrived: dict[str, list[int]] = {}
    for update_id, body in receiver.bodies.items():
        arrived.setdefault(body["data"]["dialog_id"], []).append(int(update_id[2:]))
    dialogs = count // UPDATES
    assert arrived == {f"d-{n}": list(range(n, count, dialogs)) for n in range(dialogs)}
