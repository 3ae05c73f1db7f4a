"""The records of a Salesforce organization.

It follows these pages of https://developer.salesforce.com/docs and https://help.salesforce.com:

- REST API Developer Guide, "Upsert Records Using sObject Collections": path, at most 200 records of
  one type, the results in order, one success or several errors for each of them.
- "Status Codes and Error Responses": 400 for a body that cannot be understood, 401 for an expired
  session (INVALID_SESSION_ID), 403 (REQUEST_LIMIT_EXCEEDED), 404.
- "Limit Info Header": `Sforce-Limit-Info: api-usage=10018/100000`, in each response.
- Apex Developer Guide, "Upserting Records": a key that is matched several times is an error.
- "OAuth 2.0 Client Credentials Flow for Server-to-Server Integration": the token endpoint of the My
  Domain; the response names no lifetime.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from tests.stubs.transport import Reply

PATH = re.compile(r"/services/data/v\d{2,3}\.0/composite/sobjects/(?P<type>\w+)/(?P<key>\w+)")


class SalesforceStub:
    """An organization with one kind of records.

    Attributes:
        records: fields by external id.
        history: for each record, the fields of each write.
        calls: number of upserts that were let in.
        tokens: number of tokens that were issued.
        replies: responses to the next upserts; None for the usual one.
        locked: external ids, each with the number of times that its row is locked.
        used: requests of the last 24 hours.
    """

    def __init__(
        self,
        secret: str,
        *,
        external_id: str = "Dialog__c",
        fields: tuple[str, ...] = ("LastName",),
        required: tuple[str, ...] = (),
        sobject: str = "Contact",
    ) -> None:
        self.secret = secret
        self.external_id = external_id
        self.fields = {external_id, *fields}
        self.required = required
        self.sobject = sobject
        self.records: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.calls = 0
        self.tokens = 0
        self.replies: list[Reply | None] = []
        self.locked: Counter[str] = Counter()
        self.used, self.limit = 0, 100_000
        self._valid: set[str] = set()

    def expire_tokens(self) -> None:
        self._valid.clear()

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path == "/services/oauth2/token":
            return self._issue(parse_qs(body.decode()))
        self.used += 1
        usage = {"sforce-limit-info": f"api-usage={self.used}/{self.limit}"}
        if headers.get("authorization", "").removeprefix("Bearer ") not in self._valid:
            return Reply(401, errors("INVALID_SESSION_ID", "Session expired or invalid"), usage)
        if self.used > self.limit:
            message = "TotalRequests Limit exceeded."
            return Reply(403, errors("REQUEST_LIMIT_EXCEEDED", message), usage)
        if self.replies and (reply := self.replies.pop(0)) is not None:
            return reply
        assert method == "PATCH"
        self.calls += 1
        reply = self._upsert(path, json.loads(body))
        reply.headers |= usage
        return reply

    def _issue(self, form: dict[str, list[str]]) -> Reply:
        assert form["grant_type"] == ["client_credentials"]
        if form["client_secret"] != [self.secret]:
            body = {"error": "invalid_client", "error_description": "invalid client credentials"}
            return Reply(401, body)
        self.tokens += 1
        token = f"00Dxx!token.{self.tokens}"
        self._valid.add(token)
        return Reply(200, {"access_token": token, "token_type": "Bearer", "issued_at": "1"})

    def _upsert(self, path: str, body: dict[str, Any]) -> Reply:
        found = PATH.fullmatch(path)
        if found is None or (found["type"], found["key"]) != (self.sobject, self.external_id):
            return Reply(404, errors("NOT_FOUND", "The requested resource does not exist"))
        records = body["records"]
        if len(records) > 200:
            return Reply(400, errors("LIMIT_EXCEEDED", "at most 200 records"))
        for record in records:
            for name, value in record.items():
                if name == "attributes":
                    continue
                if name not in self.fields:
                    return Reply(400, errors("INVALID_FIELD", f"No such column '{name}'"))
                if isinstance(value, dict | list):
                    message = f"Cannot deserialize instance of string from {value}"
                    return Reply(400, errors("JSON_PARSER_ERROR", message))
        keys = Counter(record[self.external_id] for record in records)
        assert body["allOrNone"] is False
        return Reply(200, [self._write(record, keys) for record in records])

    def _write(self, record: dict[str, Any], keys: Counter[str]) -> dict[str, Any]:
        key = record[self.external_id]
        assert record["attributes"] == {"type": self.sobject}
        if keys[key] > 1:
            return failed("DUPLICATE_VALUE", f"Duplicate external id specified: {key}")
        if self.locked[key]:
            self.locked[key] -= 1
            return failed("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        missing = [name for name in self.required if name not in record | self.records.get(key, {})]
        if missing:
            return failed(
                "REQUIRED_FIELD_MISSING", f"Required fields are missing: {missing}", missing
            )
        fields = {name: value for name, value in record.items() if name != "attributes"}
        if "INVALID" in str(fields.get("LastName")):
            return failed("STRING_TOO_LONG", f"data value too large: {fields}", ["LastName"])
        created = key not in self.records
        self.records.setdefault(key, {}).update(fields)
        self.history.setdefault(key, []).append(fields)
        return {"id": f"003{len(self.records)}", "success": True, "errors": [], "created": created}


def errors(code: str, message: str) -> list[dict[str, Any]]:
    return [{"message": message, "errorCode": code}]


def failed(code: str, message: str, fields: list[str] | None = None) -> dict[str, Any]:
    fault = {"statusCode": code, "message": message, "fields": fields or []}
    return {"success": False, "errors": [fault]}
