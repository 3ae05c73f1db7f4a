"""Every kind of transport on every event loop that it runs on."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
import httpx
import httpx2
import pytest

from cognigy_async import AiohttpTransport, HttpxTransport, PyreqwestTransport, Transport
from tests.integration.transport_servers import TLS

LIBRARIES = {"httpx client": httpx, "httpx2 client": httpx2}
HTTPX = ("httpx", *LIBRARIES)
AIOHTTP = ("aiohttp", "aiohttp session")
OWNED = ("httpx", "aiohttp", "pyreqwest")
KINDS = (*HTTPX, *AIOHTTP, "pyreqwest")
THEIRS = (*LIBRARIES, "aiohttp session")
TRUSTING = (*THEIRS, "pyreqwest")
"""Those that can be told which certificates to trust."""

CONNECT_TIMEOUT = 0.5
"""Seconds that pyreqwest has for connecting; for others the timeout of the request counts."""


class Case(NamedTuple):
    """A transport on an event loop."""

    backend: str
    kind: str


CASES = [
    *[Case("asyncio", kind) for kind in KINDS],
    *[Case("trio", kind) for kind in HTTPX],
    *[Case("uvloop", kind) for kind in ("aiohttp", "pyreqwest")],
]


def name_of(case: Case) -> str:
    return f"{case.backend}-{case.kind}".replace(" ", "-")


def only(kinds: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for these kinds of transport alone."""
    cases = [case for case in CASES if case.kind in kinds]
    return pytest.mark.parametrize("case", cases, ids=name_of)


def backend_of(case: Case) -> tuple[str, dict[str, Any]]:
    """Return the value of the fixture `anyio_backend`."""
    if case.backend == "uvloop":
        return "asyncio", {"use_uvloop": True}
    return case.backend, {}


@asynccontextmanager
async def opened(
    case: Case,
    *,
    trusts: ssl.SSLContext | None = None,
    connections: int = 100,
    **options: Any,
) -> AsyncIterator[Transport]:
    """Open a transport; the options of a given client or session must not reach a request."""
    made: Transport
    if case.kind in ("httpx", "aiohttp"):
        made = HttpxTransport(**options) if case.kind == "httpx" else AiohttpTransport(**options)
        yield made
        await made.aclose()
    elif case.kind == "pyreqwest":
        options.setdefault("connect_timeout", CONNECT_TIMEOUT)
        with TemporaryDirectory() as folder:
            if trusts is not None:
                options["ca_file"] = Path(folder, "ca.pem")
                options["ca_file"].write_text(
                    "".join(map(ssl.DER_cert_to_PEM_cert, trusts.get_ca_certs(binary_form=True)))
                )
            made = PyreqwestTransport(**options)
        yield made
        await made.aclose()
    elif case.kind == "aiohttp session":
        session = aiohttp.ClientSession(
            "http://elsewhere.invalid/",
            connector=aiohttp.TCPConnector(ssl=trusts or True, limit=connections),
            cookies={"sid": "1"},
            raise_for_status=True,
            timeout=aiohttp.ClientTimeout(total=0.001),
            trace_configs=[aiohttp.TraceConfig()],
        )
        async with session:
            made = AiohttpTransport(session, **options)
            yield made
            await made.aclose()
            assert not session.closed
            assert session.connector is not None
            assert not session.connector.closed
    else:
        library = LIBRARIES[case.kind]
        async with library.AsyncClient(
            auth=("somebody", "else"),
            follow_redirects=True,
            params={"page": "3"},
            verify=trusts or TLS,
            limits=library.Limits(max_connections=connections),
        ) as client:
            made = HttpxTransport(client, **options)
            yield made
            await made.aclose()
            assert not client.is_closed
