"""What the server accepts: the numbers (`Limits`) and the rules for variables.

The rules are the tutorial's for the runtime API: names are identifiers without a reserved prefix,
values are JSON with at most three levels of nesting and no cycles. Integers beyond 2^53 - 1 are
refused because the platform stores JavaScript numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic_core import to_json

from ..errors import ConfigurationError, Fault

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
DEPTH_BOUND = 64
"""`Limits(max_depth=...)` stays below this: the walk over a value is recursive."""

MAX_FAULTS = 1000
"""After so many a value is not looked at any further."""

ENVELOPE = len('{"session":{},"user":{},"transition":{"nextStep":""}}')
"""What a payload takes besides its variables and its step."""

Path: TypeAlias = "str | tuple[Path, str | int]"
"""A path is written out only when something is wrong at its end."""


class TypeFault(Fault):
    """A fault of type rather than of value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes of UTF-8 JSON, lengths in characters.

    `Limits()` has the tutorial's numbers for the runtime API, `Limits.cognigy_saas()` the
    documented ones of the public REST API (docs.cognigy.com, "Quotas and Limits").

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
    """A payload of this size breaks no limit of size."""

    def __post_init__(self) -> None:
        for name in (
            "max_variable_bytes",
            "max_context_bytes",
            "safe_payload_bytes",
            "max_integer",
            "max_dialog_id_length",
            "max_depth",
        ):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise ConfigurationError(
                    f"Limits({name}={number!r}): must be an integer of at least 1"
                )
        if self.max_depth > DEPTH_BOUND:
            raise ConfigurationError(
                f"Limits(max_depth={self.max_depth!r}): must be between 1 and {DEPTH_BOUND}"
            )
        prefixes = self.reserved_prefixes
        if type(prefixes) is not tuple or not all(isinstance(text, str) for text in prefixes):
            raise ConfigurationError(
                f"Limits(reserved_prefixes={prefixes!r}): must be a tuple of strings"
            )
        sizes = (self.max_variable_bytes, self.max_context_bytes, self.safe_payload_bytes)
        object.__setattr__(self, "harmless_bytes", min(sizes))

    @classmethod
    def cognigy_saas(cls) -> Limits:
        """60 kB for a payload, 65 kB for a context."""
        return cls(max_variable_bytes=65_000, max_context_bytes=65_000, safe_payload_bytes=60_000)

    def are_plain(self, variables: Mapping[str, Any]) -> bool:
        """Whether a glance finds no fault in the variables; in most there is none."""
        for name, value in variables.items():
            kind = type(value)
            if kind is str:
                if not value.isascii() and has_surrogate(value):
                    return False
            elif kind is int:
                if not -self.max_integer <= value <= self.max_integer:
                    return False
            elif kind is dict or kind is list:
                if not self._is_plain(value, 1):
                    return False
            elif kind is not bool and not (kind is float and math.isfinite(value)):
                return False
            if type(name) is not str or not name.isidentifier():
                return False
            if name.startswith(self.reserved_prefixes):
                return False
        return True

    def _is_plain(self, container: dict[Any, Any] | list[Any], depth: int) -> bool:
        """The same for what is inside an object or a list of so many levels."""
        values: Iterable[Any] = container
        if type(container) is dict:
            if not _are_plain_keys(container):
                return False
            values = container.values()
        largest = self.max_integer
        for value in values:
            kind = type(value)
            if kind is str:
                if not value.isascii() and has_surrogate(value):
                    return False
            elif kind is int:
                if not -largest <= value <= largest:
                    return False
            elif kind is dict or kind is list:
                if depth >= self.max_depth or not self._is_plain(value, depth + 1):
                    return False
            elif kind is float:
                if not math.isfinite(value):
                    return False
            elif kind is not bool and value is not None:
                return False
        return True

    def faults_in(self, context: str, variables: Mapping[str, Any]) -> list[Fault]:
        """Everything wrong with the variables of a context, sizes aside; [] when all is well."""
        faults: list[Fault] = []
        for name, value in variables.items():
            if type(name) is not str:
                faults.append(_not_a_string(context, name))
            elif not name.isidentifier():
                problem = "a variable's name must be an identifier"
                remedy = "use letters, digits and underscores, and no digit first"
                faults.append(Fault(_path_text((context, name)), problem, remedy))
            elif name.startswith(self.reserved_prefixes):
                problem = "the name begins with a reserved prefix"
                remedy = f"choose one that does not begin with {', '.join(self.reserved_prefixes)}"
                faults.append(Fault(_path_text((context, name)), problem, remedy))
            if value is None:
                problem = "a variable cannot be None"
                remedy = 'send "", 0, False, [] or {}; None is allowed inside an object or list'
                faults.append(TypeFault(_path_text((context, name)), problem, remedy))
        self._walk(variables.items(), context, 0, faults)
        return faults

    def _walk(
        self,
        members: Iterable[tuple[str | int, Any]],
        path: Path,
        depth: int,
        faults: list[Fault],
    ) -> None:
        for key, value in members:
            if len(faults) >= MAX_FAULTS:
                return
            kind = type(value)
            if kind is str:
                if not value.isascii() and has_surrogate(value):
                    faults.append(_surrogate((path, key)))
            elif kind is bool or value is None:
                continue
            elif kind is int:
                if not -self.max_integer <= value <= self.max_integer:
                    faults.append(self._too_large_integer((path, key)))
            elif kind is float:
                if not math.isfinite(value):
                    faults.append(_not_finite((path, key)))
            else:
                self._visit(value, (path, key), depth, faults)

    def _visit(self, value: object, path: Path, depth: int, faults: list[Fault]) -> None:
        """Containers, subclasses of the plain types, and what JSON does not have."""
        if isinstance(value, Mapping | list):
            if depth >= self.max_depth:
                faults.append(self._too_deep(value, path))
            elif isinstance(value, list):
                self._walk(enumerate(value), path, depth + 1, faults)
            else:
                for key in value:
                    if not isinstance(key, str):
                        faults.append(_not_a_string(path, key))
                    elif not key.isascii() and has_surrogate(key):
                        faults.append(_surrogate((path, key)))
                self._walk(value.items(), path, depth + 1, faults)
        elif isinstance(value, int):
            if not -self.max_integer <= int(value) <= self.max_integer:
                faults.append(self._too_large_integer(path))
        elif isinstance(value, float):
            if not math.isfinite(value):
                faults.append(_not_finite(path))
        elif isinstance(value, str):
            if has_surrogate(value):
                faults.append(_surrogate(path))
        else:
            faults.append(
                TypeFault(
                    _path_text(path),
                    f"{type(value).__name__} is not a type that the server stores",
                    "use a string, integer, float, boolean, list or object",
                )
            )

    def _too_large_integer(self, path: Path) -> Fault:
        return Fault(
            _path_text(path),
            f"the integer is beyond {self.max_integer}, where the platform is no longer exact",
            "send it as a string",
        )

    def _too_deep(self, value: object, path: Path) -> Fault:
        if _contains_itself(value, self.max_depth + 1):
            return Fault(
                _path_text(path), "the value contains itself", "remove the circular reference"
            )
        return Fault(
            _path_text(path),
            f"objects and lists are nested deeper than {self.max_depth} levels",
            "flatten the value, or store the inner part as a JSON string",
        )

    def faults_of_size(
        self, payload: Mapping[str, Any], size: int, *, splittable: bool
    ) -> list[Fault]:
        """What is wrong with a payload of `size` bytes, which is not harmless."""
        faults = []
        if size > self.safe_payload_bytes and not splittable:
            problem = f"the payload takes {size} bytes, and a conditional write cannot be split"
            remedy = f"send at most {self.safe_payload_bytes} bytes, or write unconditionally"
            faults.append(Fault("update", problem, remedy))
        # What has to be split needs room for the envelope of each part.
        room = self.safe_payload_bytes - (ENVELOPE if size > self.safe_payload_bytes else 0)
        largest = min(self.max_variable_bytes, room)
        for context in ("session", "user"):
            total = 0
            for name, value in payload.get(context, {}).items():
                taken = len(encode(value)) + len(encode(name))
                total += taken + 2
                if taken > largest:
                    problem = f"the variable takes {taken} bytes, and at most {largest} can be sent"
                    remedy = "split the value over several variables, or store a reference to it"
                    faults.append(Fault(_path_text((context, name)), problem, remedy))
            if total > self.max_context_bytes:
                problem = f"its variables take {total} bytes, more than {self.max_context_bytes}"
                faults.append(Fault(context, problem, "send fewer variables in one update"))
        step = len(encode({"transition": payload.get("transition")}))
        if step > self.safe_payload_bytes:
            problem = f"takes {step} bytes, more than {self.safe_payload_bytes} bytes"
            faults.append(Fault("next_step", problem, "use the id of a node of the flow"))
        return faults


DEFAULT_LIMITS = Limits()


def encode(value: object) -> bytes:
    """The one JSON encoder of bodies and hashes: UTF-8, no white space, keys as they come."""
    return to_json(value, fallback=_plain)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _contains_itself(value: object, depth: int, above: tuple[int, ...] = ()) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    if id(value) in above:
        return True
    if depth == 0:
        return False
    inner = value if isinstance(value, list) else list(value.values())
    return any(_contains_itself(item, depth - 1, (*above, id(value))) for item in inner)


def _are_plain_keys(names: Iterable[Any]) -> bool:
    try:
        text = "".join(names)
    except TypeError:
        return False
    return text.isascii() or not has_surrogate(text)


def has_surrogate(text: str) -> bool:
    """Whether half of a character stands alone in a text, which UTF-8 cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _path_text(path: Path) -> str:
    if isinstance(path, str):
        return path
    parent, key = path
    # The index of a list; a number that has no end may only be a key that is refused.
    is_index = isinstance(key, int) and key.bit_length() < 64
    step = f"[{key}]" if is_index else f".{printable(key)}"
    return _path_text(parent) + step


def printable(name: object) -> str:
    """A name as it may stand in a message: short and printable."""
    if not isinstance(name, str):
        return f"<{type(name).__name__}>"
    short = name if len(name) <= 60 else name[:57] + "..."
    return short if short.isprintable() else ascii(short)


def _not_a_string(path: Path, key: object) -> Fault:
    return TypeFault(
        _path_text(path),
        f"a key is of type {type(key).__name__}",
        "keys of objects must be strings",
    )


def _surrogate(path: Path) -> Fault:
    return Fault(
        _path_text(path),
        "the text has a lone surrogate, which UTF-8 cannot carry",
        "decode it properly, or replace the character",
    )


def _not_finite(path: Path) -> Fault:
    return Fault(
        _path_text(path),
        "NaN and infinity are not JSON",
        "send a string, or leave the variable out",
    )
