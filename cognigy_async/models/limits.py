"""Limits of the server: numbers, and their defaults for each API."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._utils.arguments import validate_count
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
DEPTH_BOUND = 64
"""Largest `max_depth`; the validation of variables is recursive."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the server. Sizes are bytes of UTF-8 JSON, lengths are characters.

    `Limits()` has the numbers of the tutorial for the runtime API. `Limits.cognigy_saas()` and
    `Limits.cognigy_app()` have the sizes that the vendor documents for the public REST API
    (docs.cognigy.com, "Quotas and Limits"). The vendor documents neither a maximum depth nor
    reserved prefixes: these rules are the tutorial's for both APIs.

    Attributes:
        max_depth: maximum number of levels of nested objects and lists, up to 64.
        max_variable_bytes: maximum size of one variable with its name.
        max_context_bytes: maximum size of all session or all user variables of one update. Of a
            tenant with a larger context, ``replace(Limits.cognigy_saas(), max_context_bytes=...)``.
        safe_payload_bytes: maximum size of one request. The client splits larger updates.
        max_integer: largest absolute value of an integer.
        max_dialog_id_length: maximum length of a dialog id.
        reserved_prefixes: prefixes that names of variables must not have.
        variables: model of the session variables, or None for any names and types. Each variable of
            an update must fit its field in the model. An update may omit any field of the model,
            and the client converts no value.
        harmless_bytes: computed; payloads up to this size exceed no other size limit.

    Raises:
        ConfigurationError: a number that no update could satisfy, or `variables` is no model.
    """

    max_depth: int = 3
    max_variable_bytes: int = MEBIBYTE
    max_context_bytes: int = MEBIBYTE
    safe_payload_bytes: int = 512 * KIBIBYTE
    max_integer: int = 2**53 - 1
    max_dialog_id_length: int = 256
    reserved_prefixes: tuple[str, ...] = ("_cognigy", "_session", "_user", "cognigy_")
    variables: type[BaseModel] | None = None
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
        if self.variables is not None:
            # Models import pydantic, which most programs do not need here.
            from .typed_variables import validate_model

            validate_model(self.variables)
        sizes = (self.max_variable_bytes, self.max_context_bytes, self.safe_payload_bytes)
        object.__setattr__(self, "harmless_bytes", min(sizes))

    @classmethod
    def cognigy_saas(cls) -> Limits:
        """Return the vendor's default limits: 60 kB a request, 65 kB a context or profile."""
        return cls(max_variable_bytes=65_000, max_context_bytes=65_000, safe_payload_bytes=60_000)

    @classmethod
    def cognigy_app(cls) -> Limits:
        """Return the vendor's limits for App: 60 kB a request, 1.5 MB a context or profile."""
        return replace(cls.cognigy_saas(), max_context_bytes=1_500_000)


DEFAULT_LIMITS = Limits()
