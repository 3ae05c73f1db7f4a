"""Arguments that cannot work are refused where they are given."""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import ConfigurationError

T = TypeVar("T")


def validate_timeout(timeout: Any) -> float:
    """A positive, finite number of seconds, or a `ConfigurationError`."""
    if not isinstance(timeout, int | float) or not timeout > 0 or timeout == math.inf:
        raise ConfigurationError(f"timeout={timeout!r}: must be a positive number of seconds")
    seconds: float = timeout
    return seconds


def validate_seconds(name: str, seconds: Any, *, least: float = -math.inf) -> float:
    """A finite number of seconds, or a `ConfigurationError`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds < least:
        wanted = "a finite number" if least == -math.inf else f"a finite number from {least:g} up"
        raise ConfigurationError(f"{name}={seconds!r}: must be {wanted} of seconds")
    return float(seconds)


def validate_count(name: str, number: Any) -> int:
    """A whole number of at least 1, or a `ConfigurationError`."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigurationError(f"{name}={number!r}: must be an integer of at least 1")
    return number


def validate_type(name: str, value: object, kind: type[T]) -> T:
    """An object of the kind that is needed, or a `ConfigurationError`."""
    if not isinstance(value, kind):
        given = type(value).__name__
        raise ConfigurationError(f"{name}: must be a {kind.__name__}, and is of type {given}")
    return value


def validate_base_url(base_url: str, *, allow_insecure: bool = False) -> str:
    """An absolute URL without a slash at its end, or a `ConfigurationError`."""
    validate_type("base_url", base_url, str)
    problem = url_problem(base_url, "https://api.cognigy.ai")
    if problem is None and not base_url.isascii():
        problem = "must be ASCII"
    if problem is None and "?" in base_url:
        problem = "must have neither query nor fragment"
    if problem is not None:
        raise ConfigurationError(f"base_url {problem}")
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not allow_insecure and not is_loopback(parts.hostname):
        raise ConfigurationError(
            "base_url begins with http://, so that everybody on the way could read credentials and "
            "variables; use https://, or allow_insecure=True where nobody else is on the way"
        )
    return base_url.rstrip("/")


def url_problem(url: str, example: str) -> str | None:
    """What is wrong with an absolute URL; None where nothing is. Tells nothing of what it holds."""
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
        return "must not hold credentials; they are given apart from it"
    return "must have neither query nor fragment" if "#" in url else None


def is_loopback(host: str | None) -> bool:
    """Whether a host is this machine: `localhost`, a name below it, or a loopback address."""
    if not host:
        return False
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
