"""Validate arguments when the caller passes them. A bad argument fails before any request."""

from __future__ import annotations

import math
import re
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import ConfigurationError

InstanceT = TypeVar("InstanceT")

NETLOC = re.compile(r"(?P<host>\[[^\[\]]+\]|[\w.~-]+)(?::[0-9]+)?")
"""A host, with or without a port. Libraries read the other hosts of RFC 3986 differently."""

LOCALHOST = re.compile(r"(?:[a-z0-9_-]+\.)*localhost\.?")
"""`localhost` and the names below it (RFC 6761, section 6.3)."""

UNENCRYPTED = (
    "uses http://, which sends {} unencrypted; use https://, or allow_insecure=True on a network "
    "that you trust"
)


def validate_timeout(timeout: Any) -> float:
    """Return a timeout in seconds; raise `ConfigurationError` unless it is positive and finite."""
    if not isinstance(timeout, int | float) or not timeout > 0 or timeout == math.inf:
        raise ConfigurationError(f"timeout={timeout!r}: must be a positive number of seconds")
    seconds: float = timeout
    return seconds


def validate_seconds(name: str, seconds: Any, *, least: float = -math.inf) -> float:
    """Return a duration; raise `ConfigurationError` unless it is finite and at least `least`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise ConfigurationError(f"{name}={seconds!r}: must be a finite number{bound} in seconds")
    return float(seconds)


def validate_count(name: str, number: Any) -> int:
    """Return a count; raise `ConfigurationError` unless it is an integer of at least 1."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigurationError(f"{name}={number!r}: must be an integer of at least 1")
    return number


def validate_type(name: str, value: object, kind: type[InstanceT]) -> InstanceT:
    """Return an object; raise `ConfigurationError` unless it is an instance of `kind`."""
    if not isinstance(value, kind):
        given = type(value).__name__
        raise ConfigurationError(f"{name}: must be a {kind.__name__}, not a {given}")
    return value


def validate_base_url(
    base_url: str, *, allow_insecure: bool = False, example: str = "https://api.cognigy.ai"
) -> str:
    """Return a base URL without trailing slashes.

    Raises:
        ConfigurationError: it is not absolute ASCII, has credentials, a query or a fragment, or
            uses ``http://`` for another machine without `allow_insecure`.
    """
    validate_type("base_url", base_url, str)
    problem = url_problem(base_url, example)
    if problem is None and not base_url.isascii():
        problem = "must be ASCII"
    if problem is None and "?" in base_url:
        problem = "must have neither query nor fragment"
    if problem is not None:
        raise ConfigurationError(f"base_url {problem}")
    if not allow_insecure and leaves_unencrypted(base_url):
        raise ConfigurationError(f"base_url {UNENCRYPTED.format('credentials and variables')}")
    return base_url.rstrip("/")


def url_problem(url: str, example: str) -> str | None:
    """Return the first problem of an absolute URL, or None. The problem never quotes the URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return "is not a URL"
    if not url.isprintable() or " " in url:
        return "has spaces or control characters"
    if not usable:
        return f"must be absolute, like {example}"
    if "@" in parts.netloc:
        return "must not hold credentials; pass them as arguments or settings of their own"
    if host_of(parts.netloc) is None:
        return "has a host that is neither a name nor an address"
    return "must not have a fragment" if "#" in url else None


def leaves_unencrypted(url: str) -> bool:
    """Return whether a valid URL leads to another machine without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname)


def host_of(netloc: str) -> str | None:
    """Return the host of `host[:port]`, in lower case and without brackets, or None."""
    found = NETLOC.fullmatch(netloc)
    if found is None:
        return None
    host = found["host"].lower()
    if not host.startswith("["):
        return host.removesuffix(".") or None
    try:
        return IPv6Address(host[1:-1]).compressed
    except ValueError:
        return None


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine: `localhost`, `*.localhost` or a loopback address.

    An address has its usual form. Resolvers read others as well, such as 127.1 and 0177.0.0.1, and
    do not agree on them.
    """
    if not host:
        return False
    if LOCALHOST.fullmatch(host.lower()):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # Not every version of Python takes ::ffff:127.0.0.1 for a loopback address.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
