"""The contacts of HubSpot.

It follows these pages of https://developers.hubspot.com/docs:

- api-reference/2026-03/crm/objects/contacts/batch/upsert-contacts: paths, inputs, at most 100;
  api-reference/legacy has the path of v3.
- api-reference/error-handling: 207 with `objectWriteTraceId`, 401, 403, 423 (a lock lasts two
  seconds), 429, 477, the form of errors, whose messages repeat values.
- developer-tooling/platform/usage-guidelines: 100 requests in 10 seconds and 250,000 a day for free
  accounts, headers `X-HubSpot-RateLimit-*`, `policyName` in a 429.

One bad contact fails its whole batch with 400, unless `multi_status` is set. That a batch must not
name a contact twice is not in the pages, but what the API does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import anyio

from tests.stubs.transport import Reply

PATH = re.compile(
    r"/crm/(?:objects/(?P<version>\d{4}-\d{2})|(?P<v3>v3)/objects)/contacts/batch/upsert"
)
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class HubSpotStub:
    """An account with contacts.

    Attributes:
        contacts: properties by the value of the unique property.
        history: for each contact, the properties of each write.
        calls: number of requests that were let in.
        sizes: number of inputs of each of them.
        replies: responses to the next requests; None for the usual one.
        burst: requests in 10 seconds.
        daily: requests that are left of the day.
        conflicts: ids of contacts that another contact's unique value stands against.
    """

    def __init__(
        self, token: str, id_property: str = "email", properties: tuple[str, ...] = ()
    ) -> None:
        self.token = token
        self.id_property = id_property
        self.properties = {id_property, *properties}
        self.contacts: dict[str, dict[str, str]] = {}
        self.history: dict[str, list[dict[str, str]]] = {}
        self.calls = 0
        self.sizes: list[int] = []
        self.replies: list[Reply | None] = []
        self.burst = 100
        self.daily = 250_000
        self.conflicts: set[str] = set()
        self.multi_status = False
        self._times: list[float] = []

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        assert method == "POST"
        if not PATH.fullmatch(path):
            return Reply(404, error("OBJECT_NOT_FOUND", "not found"))
        if headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, error("INVALID_AUTHENTICATION", "The access token is invalid"))
        if self.replies and (reply := self.replies.pop(0)) is not None:
            return reply
        reply = self._admit() or self._upsert(json.loads(body)["inputs"])
        left = self.burst - len(self._times)
        reply.headers |= {
            "x-hubspot-ratelimit-max": str(self.burst),
            "x-hubspot-ratelimit-remaining": str(left),
            "x-hubspot-ratelimit-interval-milliseconds": "10000",
            "x-hubspot-ratelimit-daily-remaining": str(self.daily),
        }
        return reply

    def _admit(self) -> Reply | None:
        now = anyio.current_time()
        self._times = [each for each in self._times if each > now - 10]
        if self.daily < 1:
            return Reply(429, limit("DAILY", "You have reached your daily limit."))
        if len(self._times) >= self.burst:
            policy = "TEN_SECONDLY_ROLLING"
            return Reply(429, limit(policy, "You have reached your ten_secondly_rolling limit."))
        self._times.append(now)
        self.daily -= 1
        self.calls += 1
        return None

    def _upsert(self, inputs: list[dict[str, Any]]) -> Reply:
        self.sizes.append(len(inputs))
        ids = [each["id"].strip().lower() for each in inputs]
        if len(inputs) > 100:
            return Reply(400, error("VALIDATION_ERROR", "The maximum batch size is 100"))
        if len(set(ids)) < len(ids):
            return Reply(
                400, error("VALIDATION_ERROR", f"Duplicate IDs found in batch input: {ids}")
            )
        errors: list[dict[str, Any]] = []
        for each in inputs:
            fault = self._fault_of(each)
            if fault is None:
                continue
            if not self.multi_status:
                return Reply(409 if fault["category"] == "CONFLICT" else 400, fault)
            errors.append(fault | {"context": {"objectWriteTraceId": [each["objectWriteTraceId"]]}})
        bad = {trace for each in errors for trace in each["context"]["objectWriteTraceId"]}
        results = []
        for key, each in zip(ids, inputs, strict=True):
            if each["objectWriteTraceId"] not in bad:
                self.contacts.setdefault(key, {}).update(each["properties"])
                self.history.setdefault(key, []).append(each["properties"])
                results.append({"id": key, "objectWriteTraceId": each["objectWriteTraceId"]})
        body = {"status": "COMPLETE", "results": results}
        if errors:
            return Reply(207, body | {"numErrors": len(errors), "errors": errors})
        return Reply(200, body)

    def _fault_of(self, each: dict[str, Any]) -> dict[str, Any] | None:
        if each["idProperty"] != self.id_property:
            return error(
                "VALIDATION_ERROR",
                f"Unable to perform update/upsert by non-unique 0-1 property {each['idProperty']}",
            )
        for name, value in each["properties"].items():
            assert isinstance(value, str)
            if name not in self.properties:
                return invalid(name, "PROPERTY_DOESNT_EXIST", f'Property "{name}" does not exist')
            if name == "email" and not EMAIL.fullmatch(value):
                return invalid(name, "INVALID_EMAIL", f"Email address {value} is invalid")
        if each["id"] in self.conflicts:
            return error("CONFLICT", f"Contact already exists. Existing ID: {each['id']}")
        return None


def error(category: str, message: str) -> dict[str, Any]:
    return {
        "status": "error",
        "category": category,
        "message": message,
        "correlationId": "aeb5f871-7f07-4993-9211-075dc63e7cbf",
    }


def invalid(name: str, reason: str, message: str) -> dict[str, Any]:
    detail = {"isValid": False, "message": message, "error": reason, "name": name}
    return error("VALIDATION_ERROR", f"Property values were not valid: {json.dumps([detail])}")


def limit(policy: str, message: str) -> dict[str, Any]:
    return {
        "status": "error",
        "message": message,
        "errorType": "RATE_LIMIT",
        "correlationId": "c033cdaa-2c40-4a64-ae48-b4cec88dad24",
        "policyName": policy,
    }
