"""A transport is any object with two methods."""

from __future__ import annotations

from cognigy_async import ApiKey, AsyncStateClient
from cognigy_async.models.http import Request, Response
from cognigy_async.transports.base import Transport


class Fixed:
    """Returns one response to every request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.closed = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        return Response(200, {"etag": '"1"'}, b"{}")

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_client_uses_a_transport_and_closes_it() -> None:
    fixed = Fixed()
    transport: Transport = fixed
    async with AsyncStateClient(
        "http://localhost", auth=ApiKey("k"), transport=transport
    ) as client:
        assert (await client.update("d-1", session={"a": 1})).etag == '"1"'
    assert [request.method for request in fixed.requests] == ["PATCH"]
    assert fixed.closed == 1
