"""Refuse requests that a web page may have made: browsers reach a server on loopback too.

A page of another site can send some requests without being asked for permission, such as those of
forms. It can also give its own host name the address of this machine (DNS rebinding), and then
reads the answers as well. Such requests name a foreign host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cognigy_async import ConfigurationError
from cognigy_async._utils.arguments import host_of, is_loopback

from ..responses import HttpResponse, json_response
from .asgi import Scope

CONTROL = "/_emulator/"
JSON = b"application/json"
FOREIGN_HOST = (
    "the Host of this request is neither loopback nor an allowed host; name it by --allowed-host "
    "or serve(allowed_hosts=...)"
)
WILDCARDS = ("", "0.0.0.0", "::")
"""Addresses to listen on that no request should name."""


class Access:
    """The check of requests that come over sockets.

    Args:
        address: Address or host name that the server listens on.
        allowed_hosts: Host names and addresses, without port, that a request may name besides
            `address` and those of loopback.

    Raises:
        ConfigurationError: An allowed host is malformed.
    """

    def __init__(self, address: str, allowed_hosts: Collection[str]) -> None:
        if isinstance(allowed_hosts, str):
            raise ConfigurationError("allowed_hosts must be a list of hosts, not a string")
        self._hosts = set(map(_validate_host, allowed_hosts))
        own = None if address in WILDCARDS else _host_in(address)
        if own is not None:
            self._hosts.add(own)
        self._last_hosts: list[bytes] = []

    def refusal(self, scope: Scope) -> HttpResponse | None:
        """Return the response to a request that is refused, or None."""
        hosts: list[bytes] = []
        origins: list[bytes] = []
        media_type = b""
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.lower())
            elif name == b"origin":
                origins.append(value.lower())
            elif name == b"content-type":
                media_type = value.partition(b";")[0].strip().lower()
        # Browsers always send one.
        if hosts and hosts != self._last_hosts:
            if len(hosts) > 1 or not self._names_this_server(hosts[0]):
                return _refuse(403, FOREIGN_HOST)
            self._last_hosts = hosts
        if origins and not _origins_of(hosts).issuperset(origins):
            return _refuse(403, "the Origin of this request is another site")
        if scope["method"] != "GET" and scope["path"].startswith(CONTROL) and media_type != JSON:
            return _refuse(415, "control requests need Content-Type: application/json")
        return None

    def _names_this_server(self, netloc: bytes) -> bool:
        host = host_of(netloc.decode("latin-1"))
        return host is not None and (is_loopback(host) or host in self._hosts)


def _host_in(text: str) -> str | None:
    """Return a host as `host_of` does, or None for anything else, as one with a port."""
    netloc = f"[{text}]" if text.count(":") > 1 and "[" not in text else text
    return None if ":" in netloc.rpartition("]")[2] else host_of(netloc)


def _validate_host(text: str) -> str:
    host = _host_in(text)
    if host is None:
        raise ConfigurationError(
            f"allowed host {text!r}: must be a host name or an address, without scheme and port"
        )
    return host


def _origins_of(hosts: Iterable[bytes]) -> set[bytes]:
    return {scheme + host for scheme in (b"http://", b"https://") for host in hosts}


def _refuse(status: int, message: str) -> HttpResponse:
    return json_response(status, {"message": message})
