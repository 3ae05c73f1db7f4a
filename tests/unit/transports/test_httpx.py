"""`HttpxTransport` without a server: clients of both libraries, and their errors."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import httpx2
import pytest

from cognigy_async.errors import NoResponseError, NotSentError
from cognigy_async.transports.httpx import PLAIN_URL, HttpxTransport, _TimeLeft
from tests.integration.transport_servers import CANARY, CONTENT, TLS, failure, patch

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}


async def test_the_timeout_of_an_operation_shrinks() -> None:
    # The library itself ends a request in order; a cancellation does not.
    left = _TimeLeft(1.0)
    await anyio.sleep(0.05)
    assert 0.5 < left.get("read") < 0.96
    assert left.get("connect") < 0.48
    assert _TimeLeft(0.0).get("write") == 0.0


@pytest.mark.parametrize("origin", ["http://h", "https://h:8443", "http://[::1]:80"])
@pytest.mark.parametrize(
    "rest",
    [
        "/",
        "//",
        "/dialogs/%2E%2E%2fx%20%C3%A9/state",
        "/~a/b-c_d;e=1,2/@f:g/$&'()*+!?q=%2B&r=1?2/3",
        "/a..b/c./d%2e",
    ],
)
def test_a_plain_url_is_sent_as_httpx_would_send_it(origin: str, rest: str) -> None:
    plain = PLAIN_URL.fullmatch(origin + rest)
    assert plain is not None
    assert plain.groups() == (origin, rest)
    assert httpx.URL(origin + rest).raw_path == rest.encode()
    assert httpx.URL(origin).netloc == httpx.URL(origin + rest).netloc


@pytest.mark.parametrize(
    "url",
    [
        *("http://h", "http://h?q=1", "http://me:word@h/a", "ftp://h/a", "/a", "HTTP://h/a"),
        *("http://h/a b", "http://h/a\n", "http://h/\xe4", "http://h/a#b", "http://h/a%zz"),
        *("http://h/../a", "http://h/a/./b", "http://h/.a", 'http://h/"', "http://h/{a}"),
    ],
)
def test_other_urls_are_left_to_httpx(url: str) -> None:
    assert PLAIN_URL.fullmatch(url) is None


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_closed_client_is_an_error(library: str) -> None:
    client = LIBRARIES[library].AsyncClient(verify=TLS)
    await client.aclose()
    error = await failure(HttpxTransport(client), patch("http://127.0.0.1:1"))
    assert isinstance(error, NotSentError)
    assert "is closed" in str(error)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_mock_may_claim_that_nothing_was_sent(library: str) -> None:
    module = LIBRARIES[library]

    def refuse(request: Any) -> Any:
        assert request.content == CONTENT
        raise module.ConnectError("refused")

    async with module.AsyncClient(transport=module.MockTransport(refuse)) as client:
        error = await failure(HttpxTransport(client), patch("http://h"))
    assert isinstance(error, NotSentError)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_translated_claim_is_not_believed_once_the_content_was_begun(
    library: str,
) -> None:
    module = LIBRARIES[library]

    async def disconnect(request: Any) -> Any:
        await request.aread()
        raise module.ConnectTimeout("disconnected") from OSError("connection lost")

    async with module.AsyncClient(transport=module.MockTransport(disconnect)) as client:
        error = await failure(HttpxTransport(client), patch("http://h"))
    assert isinstance(error, NoResponseError)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_an_error_of_an_event_hook_shows_no_secret(library: str) -> None:
    async def hook(request: Any) -> None:
        raise RuntimeError(f"broken by {request.headers!r} {CANARY}")

    module = LIBRARIES[library]
    async with module.AsyncClient(
        transport=module.MockTransport(lambda request: module.Response(200)),
        event_hooks={"response": [hook]},
    ) as client:
        error = await failure(HttpxTransport(client), patch("http://h"))
    assert "RuntimeError" in str(error)


@pytest.mark.parametrize("client", [object(), httpx.Client(verify=TLS), httpx.AsyncClient])
def test_an_object_that_is_not_a_client_is_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="AsyncClient"):
        HttpxTransport(client)


def test_a_client_may_be_a_subclass() -> None:
    class Theirs(httpx2.AsyncClient):
        pass

    assert "httpx2" in repr(HttpxTransport(Theirs()))
