"""Limits of the server: numbers, and their defaults for each API."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._utils.arguments import validate_count
from ..errors import ConfigurationError

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
DEPTH_BOUND = 64
"""Largest `max_depth`; the validation of variables is recursive."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the server. Sizes are bytes of UTF-8 JSON, lengths are characters.

    `Limits()` has the tutorial's numbers for the runtime API, `Limits.cognigy_saas()` those of the
    public REST API (docs.cognigy.com, "Quotas and Limits").

    Attributes:
        max_depth: levels of nested objects and lists, at most 64.
        max_variable_bytes: size of one variable with its name.
        max_context_bytes: size of all session or all user variables of one update.
        safe_payload_bytes: size of one request; larger updates are split.
        max_integer: largest absolute value of an integer.
        max_dialog_id_length: length of a dialog id.
        reserved_prefixes: prefixes that names of variables must not have.
        harmless_bytes: size of a payload that breaks no other size, computed.

    Raises:
        ConfigurationError: a number that no update could satisfy.
    """

    max_depth: int = 3
    max_variable_bytes: int = MEBIBYTE
    max_context_bytes: int = MEBIBYTE
    safe_payload_bytes: int = 512 * KIBIBYTE
    max_integer: int = 2**53 - 1
    max_dialog_id_length: int = 256
    reserved_prefixes: tuple[str, ...] = ("_cognigy", "_session", "_user", "cognigy_")
    harmless_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in (
            "max_variable_bytes",
            "max_context_bytes",
            "safe_payload_bytes",
            "max_integer",
            "max_dialog_id_length",
            "max_depth",
        ):
            validate_count(f"Limits: {name}", getattr(self, name))
        if self.max_depth > DEPTH_BOUND:
            raise ConfigurationError(
                f"Limits: max_depth={self.max_depth}: must be between 1 and {DEPTH_BOUND}"
            )
        prefixes = self.reserved_prefixes
        if type(prefixes) is not tuple or not all(isinstance(text, str) for text in prefixes):
            raise ConfigurationError(
                f"Limits: reserved_prefixes={prefixes!r}: must be a tuple of strings"
            )
        sizes = (self.max_variable_bytes, self.max_context_bytes, self.safe_payload_bytes)
        object.__setattr__(self, "harmless_bytes", min(sizes))

    @classmethod
    def cognigy_saas(cls) -> Limits:
        """Return the limits of the public REST API: 60 kB a request, 65 kB a context."""
        return cls(max_variable_bytes=65_000, max_context_bytes=65_000, safe_payload_bytes=60_000)


DEFAULT_LIMITS = Limits()
