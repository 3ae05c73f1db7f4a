"""Sessions and clients of the HTTP libraries, with a connection for each request in flight."""

from __future__ import annotations

import ssl

import aiohttp
import httpx
import httpx2

from .work import Work

__all__ = ["aiohttp_session", "httpx2_client", "httpx_client"]


def _context(work: Work) -> ssl.SSLContext:
    """Who is trusted; needed only where there is an authority."""
    return ssl.create_default_context(cafile=work.authority)


def aiohttp_session(work: Work) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=work.in_flight, ssl=_context(work) if work.authority else True
    )
    return aiohttp.ClientSession(connector=connector)


def httpx_client(work: Work) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    return httpx.AsyncClient(limits=limits, verify=_context(work) if work.authority else True)


def httpx2_client(work: Work) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=work.in_flight, max_keepalive_connections=work.in_flight)
    return httpx2.AsyncClient(limits=limits, verify=_context(work) if work.authority else True)
