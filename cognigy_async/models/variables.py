"""Validation of variables: their names, values, nesting and sizes.

The rules are the tutorial's for the runtime API: names are identifiers without a reserved prefix,
values are JSON with at most three levels of nesting and no cycles. The vendor documents no such
rules for the sessions API, where they apply as well. Tuples are lists. Integers beyond 2^53 - 1 are
rejected because the platform stores JavaScript numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pydantic_core import to_json

from ..errors import Fault
from .conversion import MergedKey, remedy_for, type_name
from .limits import Limits

MAX_FAULTS = 1000
"""Number of faults after which the validation of a context stops."""
ENVELOPE = len('{"session":{},"user":{},"transition":{"nextStep":""}}')
"""Bytes of a payload besides its variables and its step."""

Path: TypeAlias = "str | tuple[Path, str | int]"
"""Location of a value as a chain of keys; formatted only to report a fault."""

# Problem and remedy of faults.
SURROGATE = (
    "has a lone surrogate, which UTF-8 cannot encode",
    "decode it properly, or replace the character",
)
NOT_FINITE = ("NaN and infinity are not JSON", "send a string, or leave the variable out")
CIRCULAR = ("the value contains itself", "remove the circular reference")


class TypeFault(Fault):
    """A fault of type rather than of value."""

    __slots__ = ()


def are_plain(limits: Limits, variables: Mapping[str, Any]) -> bool:
    """Return True if a fast check finds no faults, as for most variables."""
    for name, value in variables.items():
        if type(name) is not str or not name.isidentifier() or value is None:
            return False
        if name.startswith(limits.reserved_prefixes):
            return False
    return _are_plain_values(limits, variables.values(), 0)


def _are_plain_values(limits: Limits, values: Iterable[Any], depth: int) -> bool:
    largest = limits.max_integer
    for value in values:
        kind = type(value)
        if kind is str:
            if not value.isascii() and has_surrogate(value):
                return False
        elif kind is int:
            if not -largest <= value <= largest:
                return False
        elif kind is dict:
            if depth >= limits.max_depth or not _are_plain_keys(value):
                return False
            if not _are_plain_values(limits, value.values(), depth + 1):
                return False
        elif kind is list:
            if depth >= limits.max_depth or not _are_plain_values(limits, value, depth + 1):
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is not bool and value is not None:
            if kind is not tuple:
                return False
            if depth >= limits.max_depth or not _are_plain_values(limits, value, depth + 1):
                return False
    return True


def faults_in(limits: Limits, context: str, variables: Mapping[str, Any]) -> list[Fault]:
    """Return all faults of the variables of a context, except faults of size."""
    faults: list[Fault] = []
    for name, value in variables.items():
        if len(faults) >= MAX_FAULTS:
            break
        if type(name) is not str:
            faults.append(_key_fault(context, name))
        elif not name.isidentifier():
            problem = "a variable's name must be an identifier"
            remedy = "use letters, digits and underscores, and no digit first"
            faults.append(Fault(text_of_path((context, name)), problem, remedy))
        elif name.startswith(limits.reserved_prefixes):
            problem = "the name begins with a reserved prefix"
            remedy = f"choose one that does not begin with {', '.join(limits.reserved_prefixes)}"
            faults.append(Fault(text_of_path((context, name)), problem, remedy))
        if value is None:
            problem = "a variable cannot be None"
            remedy = 'send "", 0, False, [] or {}; None is allowed inside an object or list'
            faults.append(TypeFault(text_of_path((context, name)), problem, remedy))
    _walk(limits, variables.items(), context, 0, faults)
    return faults


def faults_of_json(limits: Limits, path: str, members: Mapping[str, Any]) -> list[Fault]:
    """Return the faults of the values of an object, which may have any names."""
    faults: list[Fault] = []
    _walk(limits, members.items(), path, 0, faults)
    return faults


def _walk(
    limits: Limits,
    members: Iterable[tuple[str | int, Any]],
    path: Path,
    depth: int,
    faults: list[Fault],
) -> None:
    """Add the faults of the values inside a container on level `depth`."""
    for key, value in members:
        if len(faults) >= MAX_FAULTS:
            return
        if isinstance(value, str):
            if not value.isascii() and has_surrogate(value):
                faults.append(Fault(text_of_path((path, key)), *SURROGATE))
        elif value is None:
            continue
        elif isinstance(value, int):
            if not -limits.max_integer <= int(value) <= limits.max_integer:
                limit = limits.max_integer
                problem = f"the integer is beyond {limit}, where the platform is not exact"
                faults.append(Fault(text_of_path((path, key)), problem, "send it as a string"))
        elif isinstance(value, float):
            if not math.isfinite(value):
                faults.append(Fault(text_of_path((path, key)), *NOT_FINITE))
        elif not isinstance(value, Mapping | list | tuple):
            problem = f"{type_name(value)} is not a type that the server stores"
            faults.append(TypeFault(text_of_path((path, key)), problem, remedy_for(value)))
        elif depth >= limits.max_depth:
            faults.append(_too_deep(limits, value, (path, key)))
        elif isinstance(value, list | tuple):
            _walk(limits, enumerate(value), (path, key), depth + 1, faults)
        else:
            at = (path, key)
            for name in value:
                if not isinstance(name, str):
                    faults.append(_key_fault(at, name))
                elif not name.isascii() and has_surrogate(name):
                    faults.append(Fault(text_of_path((at, name)), *SURROGATE))
            _walk(limits, value.items(), at, depth + 1, faults)


def _too_deep(limits: Limits, value: object, path: Path) -> Fault:
    if _contains_itself(value, limits.max_depth + 1):
        return Fault(text_of_path(path), *CIRCULAR)
    problem = f"objects and lists are nested deeper than {limits.max_depth} levels"
    remedy = "flatten the value, or store the inner part as a JSON string"
    return Fault(text_of_path(path), problem, remedy)


def faults_of_size(
    limits: Limits, payload: Mapping[str, Any], size: int, *, splittable: bool
) -> list[Fault]:
    """Return the faults of size of a payload with more than `harmless_bytes`.

    Args:
        payload: the object to send.
        size: its bytes as JSON.
        splittable: False if it must fit into one request.
    """
    faults = []
    if size > limits.safe_payload_bytes and not splittable:
        problem = f"the payload takes {size} bytes, and a conditional write cannot be split"
        remedy = f"send at most {limits.safe_payload_bytes} bytes, or write unconditionally"
        faults.append(Fault("update", problem, remedy))
    # Each part of a split payload has an envelope of its own.
    space = limits.safe_payload_bytes - (ENVELOPE if size > limits.safe_payload_bytes else 0)
    largest = min(limits.max_variable_bytes, space)
    for context in ("session", "user"):
        total = 0
        for name, value in payload.get(context, {}).items():
            taken = len(encode(value)) + len(encode(name))
            total += taken + 2
            if taken > largest:
                problem = f"the variable takes {taken} bytes, and at most {largest} can be sent"
                remedy = "split the value over several variables, or store a reference to it"
                faults.append(Fault(text_of_path((context, name)), problem, remedy))
        if total > limits.max_context_bytes:
            problem = f"the variables take {total} bytes, more than {limits.max_context_bytes}"
            remedy = (
                "send fewer variables in one update, or raise Limits(max_context_bytes=...) if "
                "your tenant allows more"
            )
            faults.append(Fault(context, problem, remedy))
    step = len(encode({"transition": payload.get("transition")}))
    if step > limits.safe_payload_bytes:
        problem = f"takes {step} bytes, more than {limits.safe_payload_bytes} bytes"
        faults.append(
            Fault("next_step", problem, "use the id of a node, or the name of a state, of the flow")
        )
    return faults


def encode(value: object) -> bytes:
    """Return compact UTF-8 JSON with the keys in their order, for bodies and hashes."""
    return to_json(value, fallback=_plain)


def _plain(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _contains_itself(value: object, depth: int, above: tuple[int, ...] = ()) -> bool:
    if not isinstance(value, Mapping | list | tuple):
        return False
    if id(value) in above:
        return True
    if depth == 0:
        return False
    inner = list(value.values()) if isinstance(value, Mapping) else value
    return any(_contains_itself(item, depth - 1, (*above, id(value))) for item in inner)


def _are_plain_keys(names: Iterable[Any]) -> bool:
    try:
        text = "".join(names)
    except TypeError:
        return False
    return text.isascii() or not has_surrogate(text)


def has_surrogate(text: str) -> bool:
    """Return whether a text has a lone surrogate, which UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def text_of_path(path: Path) -> str:
    """Return a path as faults show it, for example ``session.cart.items[3]``."""
    if isinstance(path, str):
        return path
    parent, key = path
    # A larger integer is a rejected key, not an index, and may have too many digits to print.
    is_index = isinstance(key, int) and key.bit_length() < 64
    step = f"[{key}]" if is_index else f".{printable(key)}"
    return text_of_path(parent) + step


def printable(name: object) -> str:
    """Return a name as messages show it: short and printable."""
    if not isinstance(name, str):
        return f"<{type(name).__name__}>"
    short = name if len(name) <= 60 else name[:57] + "..."
    return short if short.isprintable() else ascii(short)


def _key_fault(path: Path, key: object) -> Fault:
    if isinstance(key, MergedKey):
        problem = "two keys are the same text in JSON"
        return Fault(text_of_path((path, key.text)), problem, "use keys whose texts differ")
    problem = f"a key is of type {type(key).__name__}"
    return TypeFault(text_of_path(path), problem, "keys of objects must be strings")
