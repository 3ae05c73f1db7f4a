"""Values that JSON lacks: their conversion by pydantic's JSON mode, and the remedy for each type.

Types of other libraries are recognised by name, so that none of these libraries is imported.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic_core import to_jsonable_python

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
    "pydantic.BaseModel": 'send value.model_dump(mode="json")' + OR_ENCODE,
    "pydantic.Secret": "send value.get_secret_value() if the dialog may know it",
    "pydantic.SecretStr": "send value.get_secret_value() if the dialog may know it",
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


def to_json_values(value: Any) -> Any:
    """Return a copy of a value as pydantic's JSON mode converts it.

    A part that it cannot convert stays as it is, so that validation names its place and remedy.
    """
    if value is None:
        return None
    try:
        return to_jsonable_python(value)
    except Exception:
        pass
    try:
        return _convert_parts(value, ())
    except Exception:
        return value  # Validation will fail to read it as well.


def _convert_parts(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) in above or len(above) > DEPTH_BOUND:
            return value
        above = (*above, id(value))
        if not isinstance(value, Mapping):
            return [_convert_parts(inner, above) for inner in value]
        return {
            name if type(name) is str else _convert_name(name): _convert_parts(inner, above)
            for name, inner in value.items()
        }
    try:
        return to_jsonable_python(value)
    except Exception:
        return value


def _convert_name(name: Any) -> Any:
    try:
        [converted] = to_jsonable_python({name: None})
    except Exception:
        return name
    return converted
