"""Arguments that cannot work are refused where they are given."""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .errors import ConfigurationError

__all__ = [
    "checked_base_url",
    "checked_count",
    "checked_seconds",
    "checked_timeout",
    "checked_type",
]


T = TypeVar("T")


def checked_timeout(timeout: Any) -> float:
    """A positive, finite number of seconds, or a `ConfigurationError`."""
    if not isinstance(timeout, int | float) or not timeout > 0 or timeout == math.inf:
        raise ConfigurationError(f"timeout={timeout!r}: must be a positive number of seconds")
    seconds: float = timeout
    return seconds


def checked_seconds(name: str, seconds: Any, *, least: float = -math.inf) -> float:
    """A finite number of seconds, or a `ConfigurationError`."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or seconds < least:
        wanted = "a finite number" if least == -math.inf else f"a finite number from {least:g} up"
        raise ConfigurationError(f"{name}={seconds!r}: must be {wanted} of seconds")
    return float(seconds)


def checked_count(name: str, number: Any) -> int:
    """A whole number of at least 1, or a `ConfigurationError`."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigurationError(f"{name}={number!r}: must be an integer of at least 1")
    return number


def checked_type(name: str, value: object, kind: type[T]) -> T:
    """An object of the kind that is needed, or a `ConfigurationError`."""
    if not isinstance(value, kind):
        given = type(value).__name__
        raise ConfigurationError(f"{name}: must be a {kind.__name__}, and is of type {given}")
    return value


def checked_base_url(base_url: str, *, allow_insecure: bool = False) -> str:
    """An absolute URL without a slash at its end, or a `ConfigurationError`."""
    checked_type("base_url", base_url, str)
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ConfigurationError(f"base_url is not a URL: {error}") from None
    if not usable:
        raise ConfigurationError(
            "base_url must be absolute, like https://api.cognigy.ai: it needs a scheme and a host"
        )
    if not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise ConfigurationError("base_url must be visible ASCII, without spaces")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url must not hold credentials; give them to auth=")
    if "?" in base_url or "#" in base_url:
        raise ConfigurationError("base_url must have neither query nor fragment")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(parts.hostname):
        raise ConfigurationError(
            "base_url begins with http://, so that everybody on the way could read credentials and "
            "variables; use https://, or allow_insecure=True where nobody else is on the way"
        )
    return base_url.rstrip("/")


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
