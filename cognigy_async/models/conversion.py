"""Values that JSON lacks: their conversion by pydantic's JSON mode, and the remedy for each type.

Types of other libraries are recognised by name, so that none of these libraries is imported.
"""

from __future__ import annotations

import builtins
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from pydantic_core import to_json, to_jsonable_python

from ..errors import ConfigurationError
from .limits import DEPTH_BOUND

Encode: TypeAlias = Literal["json"]
"""Conversion of values: ``"json"`` is the JSON mode of pydantic."""

OR_ENCODE = ', or set encode="json"'
JSON_TYPES = "use a string, integer, float, boolean, list or object"
_LEAVE_OUT = "leave the variable out, or send None inside an object or list"
_BYTES = "send value.decode() if it is text, else base64.b64encode(value).decode()"
_AS_LIST = "send list(value)"
_TO_LIST = "send value.tolist()"
_AS_TEXT = "send str(value)"
_SECRET = "send value.get_secret_value() if the dialog may know it"

# The remedy by library and class; a subclass has that of its nearest base.
REMEDIES = {
    "datetime.datetime": "send value.isoformat()" + OR_ENCODE,
    "datetime.date": "send value.isoformat()" + OR_ENCODE,
    "datetime.time": "send value.isoformat()" + OR_ENCODE,
    "datetime.timedelta": "send value.total_seconds()" + OR_ENCODE,
    "decimal.Decimal": "send float(value), or str(value) to keep each digit" + OR_ENCODE,
    "fractions.Fraction": "send float(value)",
    "uuid.UUID": _AS_TEXT + OR_ENCODE,
    "enum.Enum": "send value.value" + OR_ENCODE,
    "pathlib.PurePath": _AS_TEXT,
    "pathlib.Path": _AS_TEXT + OR_ENCODE,
    "ipaddress._IPAddressBase": _AS_TEXT + OR_ENCODE,
    "builtins.set": _AS_LIST + OR_ENCODE,
    "builtins.frozenset": _AS_LIST + OR_ENCODE,
    "builtins.bytes": _BYTES,
    "builtins.bytearray": _BYTES,
    "builtins.memoryview": "send base64.b64encode(value).decode()",
    "builtins.complex": "send [value.real, value.imag]",
    "builtins.range": _AS_LIST,
    "builtins.generator": _AS_LIST + OR_ENCODE,
    "builtins.dict_keys": _AS_LIST,
    "builtins.dict_values": _AS_LIST,
    "collections.deque": _AS_LIST + OR_ENCODE,
    "builtins.coroutine": "await it, and send the result",
    "builtins.function": "call it, and send the result",
    "builtins.method": "call it, and send the result",
    "pydantic.BaseModel": 'send value.model_dump(mode="json", by_alias=True)' + OR_ENCODE,
    "pydantic.Secret": _SECRET,
    "pydantic.SecretStr": _SECRET,
    "pydantic.SecretBytes": "send value.get_secret_value().decode() if the dialog may know it",
    "numpy.generic": "send value.item()",
    "numpy.complexfloating": "send [value.real.item(), value.imag.item()]",
    "numpy.longdouble": "send float(value)",
    "numpy.datetime64": _AS_TEXT,
    "numpy.timedelta64": _AS_TEXT,
    "numpy.ndarray": _TO_LIST,
    "pandas.NAType": _LEAVE_OUT,
    "pandas.NaTType": _LEAVE_OUT,
    "pandas.Series": _TO_LIST,
    "pandas.Index": _TO_LIST,
    "pandas.ExtensionArray": _TO_LIST,
    "pandas.DataFrame": 'send value.to_dict("records")',
    "pandas.Period": _AS_TEXT,
    "pandas.Interval": _AS_TEXT,
    "polars.Series": "send value.to_list()",
    "polars.DataFrame": "send value.to_dicts()",
    "pyarrow.Scalar": "send value.as_py()",
    "pyarrow.Array": "send value.to_pylist()",
    "pyarrow.Table": "send value.to_pylist()",
    "torch.Tensor": _TO_LIST,
    "bson.ObjectId": _AS_TEXT,
}


def remedy_for(value: object) -> str:
    """Return what to send in place of a value that JSON lacks."""
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        remedy = REMEDIES.get(f"{library}.{kind.__name__}")
        if remedy is not None:
            return remedy
    if hasattr(type(value), "__dataclass_fields__"):
        return "send dataclasses.asdict(value)" + OR_ENCODE
    if hasattr(type(value), "__attrs_attrs__"):
        return "send attrs.asdict(value)"
    return JSON_TYPES


def rows_of(table: object) -> str | None:
    """Return how to get the rows of a table of another library; None for other objects."""
    is_table = type(table).__name__ in ("DataFrame", "Table")
    return remedy_for(table).replace("send", "pass") if is_table else None


def type_name(value: object) -> str:
    """Return the name of a value's type; with its library if a builtin has the same name."""
    kind = type(value)
    if kind.__module__ != "builtins" and hasattr(builtins, kind.__name__):
        return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    return kind.__name__


def validate_encode(encode: object) -> None:
    """Raise `ConfigurationError` unless `encode` is None or a known conversion."""
    if encode is not None and encode != "json":
        raise ConfigurationError(f'encode={encode!r}: must be "json" or None')


class MergedKey:
    """Key of an object that has the same text as another key of the object."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


MASK = "*" * 10
"""Text that the JSON mode writes in place of a secret."""


def to_json_values(value: Any) -> Any:
    """Return a copy of a value as pydantic's JSON mode converts it.

    A part that it cannot convert without loss stays as it is, so that validation names its place
    and remedy: also a secret, and two keys that become one (`MergedKey`).
    """
    if value is None:
        return None
    try:
        return _convert(value)
    except Exception:
        pass
    try:
        return _convert_parts(value, ())
    except Exception:
        return value  # Validation will fail to read it as well.


def _convert(value: Any) -> Any:
    """Convert a value, or raise an exception if a part of it cannot be converted."""
    converted = to_jsonable_python(value)
    # The text has keys that are equal twice, and the converted object has them once.
    text = to_json(value)
    if len(text) != len(to_json(converted)):
        merged: list[MergedKey] = []
        from_text = json.loads(text, object_pairs_hook=partial(_object, merged=merged))
        if merged:
            return from_text
    if MASK.encode() in text:
        secret = next(_secrets_in(value), None)
        if secret is not None:
            return _unmask(converted, secret)
    return converted


def _object(pairs: Iterable[tuple[Any, Any]], merged: list[MergedKey]) -> dict[Any, Any]:
    """Return an object with a `MergedKey` in place of each name that occurs more than once."""
    pairs = list(pairs)
    made = dict(pairs)
    if len(made) < len(pairs):
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                merged.append(MergedKey(name))
                made[merged[-1]] = made.pop(name)
    return made


def _secrets_in(value: Any) -> Iterator[Any]:
    if hasattr(value, "get_secret_value"):
        yield value
    elif isinstance(value, str | bytes | int | float | None):
        return
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif hasattr(value, "__pydantic_fields__"):
        yield from _secrets_in([value.__dict__, getattr(value, "__pydantic_extra__", None)])
    elif is_dataclass(value):
        for field in fields(value):
            yield from _secrets_in(getattr(value, field.name, None))
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _secrets_in(inner)


def _unmask(converted: Any, secret: Any) -> Any:
    """Return converted values with a secret in each place that was masked."""
    if isinstance(converted, dict):
        return {name: _unmask(inner, secret) for name, inner in converted.items()}
    if isinstance(converted, list):
        return [_unmask(inner, secret) for inner in converted]
    return secret if converted == MASK else converted


def _convert_parts(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) in above or len(above) > DEPTH_BOUND:
            return value
        above = (*above, id(value))
        if not isinstance(value, Mapping):
            return [_convert_parts(inner, above) for inner in value]
        pairs = (
            (
                name if type(name) is str else _convert_name(name),
                _convert_parts(inner, above),
            )
            for name, inner in value.items()
        )
        return _object(pairs, [])
    try:
        return _convert(value)
    except Exception:
        return value


def _convert_name(name: Any) -> Any:
    try:
        [converted] = to_jsonable_python({name: None})
    except Exception:
        return name
    return converted
