"""Tables of what is refused and of what is taken, and the odd objects that they are made of."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from cognigy_async import StateUpdate, UpdateValidationError, VariableTypeError

from ._builders import CANARY, levels

BEYOND = 2**53
SURROGATE = "\ud800"


def ring_of_lists() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def ring_of_objects() -> dict[str, Any]:
    ring: dict[str, Any] = {}
    ring["k"] = [ring]
    return ring


def long_ring() -> list[Any]:
    """A cycle that is longer than any depth that a walk may look into."""
    ring: list[Any] = []
    inner = ring
    for _ in range(500):
        inner.append([])
        inner = inner[0]
    inner.append(ring)
    return ring


class Blank:
    def __repr__(self) -> str:
        return CANARY


class Truthless:
    """What an array of numpy does when it is asked whether it is true."""

    def __bool__(self) -> bool:
        raise ValueError(CANARY)


class Broken(UserDict[Any, Any]):
    """A mapping that cannot be read, as one over a closed connection."""

    def __iter__(self) -> Any:
        raise RuntimeError(CANARY)


class Hiding(dict[str, Any]):
    """What is checked is not what is encoded."""

    def items(self) -> Any:
        return {}.items()


class Point(NamedTuple):
    x: int
    y: int


class Money(decimal.Decimal):
    pass


class BigInt(int):
    pass


class Odd(float):
    pass


class Text(str):
    __slots__ = ()


PREFIX = "choose one that does not begin with _cognigy, _session, _user, cognigy_"
IDENTIFIER = "use letters, digits and underscores, and no digit first"
NO_NONE = "None is allowed inside an object or list"
KINDS = "use a string, integer, float, boolean, list or object"
INTEGER = "send it as a string"
FINITE = "send a string, or leave the variable out"
FLATTEN = "flatten the value, or store the inner part as a JSON string"
CIRCLE = "remove the circular reference"
DECODE = "decode it properly, or replace the character"
STRING_KEYS = "keys of objects must be strings"
ASCII = "use 1 to 512 visible ASCII characters, no spaces"
TEXT = "pass a str"
MAPPING = "use a mapping from names to values"
NOT_EMPTY = "pass a text, or leave it out if it is optional"
GIVEN_ID = "pass the id that the server gave the dialog"
ISO = 'send value.isoformat(), or set encode="json"'
DIALOG = "use the id that the server gave the dialog"
ONE = {"session": {"a": 1}}

Value = UpdateValidationError
Type = VariableTypeError

BAD: list[tuple[str, dict[str, Any], str, type[UpdateValidationError], str]] = [
    # names
    ("name empty", {"session": {"": 1}}, "session.", Value, IDENTIFIER),
    ("name with digit first", {"session": {"1a": 1}}, "session.1a", Value, IDENTIFIER),
    ("name with dash", {"user": {"first-name": 1}}, "user.first-name", Value, IDENTIFIER),
    ("name with dot", {"session": {"a.b": 1}}, "session.a.b", Value, IDENTIFIER),
    ("name with space", {"session": {"a b": 1}}, "session.a b", Value, IDENTIFIER),
    ("name with newline", {"session": {"a\nb": 1}}, r"session.'a\nb'", Value, IDENTIFIER),
    ("name with surrogate", {"session": {SURROGATE: 1}}, r"session.'\ud800'", Value, IDENTIFIER),
    ("name very long", {"session": {"-" * 99: 1}}, f"session.{'-' * 57}...", Value, IDENTIFIER),
    ("name reserved 1", {"session": {"_cognigyX": 1}}, "session._cognigyX", Value, PREFIX),
    ("name reserved 2", {"session": {"_session": 1}}, "session._session", Value, PREFIX),
    ("name reserved 3", {"user": {"_user_id": 1}}, "user._user_id", Value, PREFIX),
    ("name reserved 4", {"user": {"cognigy_": 1}}, "user.cognigy_", Value, PREFIX),
    ("name an integer", {"session": {1: 1}}, "session", Type, STRING_KEYS),
    ("name None", {"session": {None: 1}}, "session", Type, STRING_KEYS),
    ("name bytes", {"session": {b"a": 1}}, "session", Type, STRING_KEYS),
    # kinds of values
    ("None", {"session": {"a": None}}, "session.a", Type, NO_NONE),
    ("bytes", {"session": {"a": b"x"}}, "session.a", Type, "base64.b64encode(value)"),
    ("bytearray", {"session": {"a": bytearray(b"x")}}, "session.a", Type, "value.decode()"),
    ("set", {"session": {"a": {1}}}, "session.a", Type, "send list(value)"),
    ("generator", {"session": {"a": (n for n in "ab")}}, "session.a", Type, "list(value)"),
    ("decimal", {"session": {"a": decimal.Decimal("1.5")}}, "session.a", Type, "float(value)"),
    ("subclass of decimal", {"user": {"a": Money("1.5")}}, "user.a", Type, "float(value)"),
    ("complex", {"session": {"a": 1j}}, "session.a", Type, "[value.real, value.imag]"),
    ("datetime", {"user": {"a": datetime.datetime(2025, 1, 1)}}, "user.a", Type, ISO),
    ("date", {"session": {"a": [datetime.date(2025, 1, 1)]}}, "session.a[0]", Type, ISO),
    ("in a tuple", {"session": {"a": ("x", {1})}}, "session.a[1]", Type, "send list(value)"),
    ("object", {"session": {"a": {"b": object()}}}, "session.a.b", Type, KINDS),
    ("class", {"session": {"a": int}}, "session.a", Type, KINDS),
    ("function", {"session": {"a": [1, [len]]}}, "session.a[1][0]", Type, KINDS),
    ("namespace", {"session": {"a": SimpleNamespace(b=1)}}, "session.a", Type, KINDS),
    ("update", {"session": {"a": StateUpdate("d", next_step="s")}}, "session.a", Type, "asdict"),
    # numbers
    ("NaN", {"session": {"a": math.nan}}, "session.a", Value, FINITE),
    ("infinity", {"session": {"a": [0.0, math.inf]}}, "session.a[1]", Value, FINITE),
    ("minus infinity", {"user": {"a": {"b": -math.inf}}}, "user.a.b", Value, FINITE),
    ("NaN of a subclass", {"session": {"a": Odd("nan")}}, "session.a", Value, FINITE),
    ("integer beyond", {"session": {"a": BEYOND}}, "session.a", Value, INTEGER),
    ("negative beyond", {"session": {"a": [-BEYOND]}}, "session.a[0]", Value, INTEGER),
    ("integer without end", {"session": {"a": 10**5000}}, "session.a", Value, INTEGER),
    ("subclass beyond", {"session": {"a": BigInt(BEYOND)}}, "session.a", Value, INTEGER),
    # texts
    ("surrogate", {"session": {"a": SURROGATE}}, "session.a", Value, DECODE),
    ("surrogate inside", {"user": {"a": {"b": ["x\udfff"]}}}, "user.a.b[0]", Value, DECODE),
    ("surrogate of a subclass", {"session": {"a": Text(SURROGATE)}}, "session.a", Value, DECODE),
    (
        "surrogate in a key",
        {"session": {"a": {SURROGATE: 1}}},
        r"session.a.'\ud800'",
        Value,
        DECODE,
    ),
    # containers
    ("key an integer", {"session": {"a": {1: 2}}}, "session.a", Type, STRING_KEYS),
    ("key None", {"session": {"a": [{None: 2}]}}, "session.a[0]", Type, STRING_KEYS),
    ("four lists", {"session": {"a": levels(4)}}, "session.a[0][0][0]", Value, FLATTEN),
    ("four tuples", {"session": {"a": ((((),),),)}}, "session.a[0][0][0]", Value, FLATTEN),
    ("four objects", {"user": {"a": levels(4, of=dict)}}, "user.a.k.k.k", Value, FLATTEN),
    ("empty at level 4", {"session": {"a": levels(3, [])}}, "session.a[0][0][0]", Value, FLATTEN),
    ("mixed levels", {"session": {"a": {"b": [{"c": {}}]}}}, "session.a.b[0].c", Value, FLATTEN),
    ("list in itself", {"session": {"a": ring_of_lists()}}, "session.a[0][0][0]", Value, CIRCLE),
    ("object in itself", {"user": {"a": ring_of_objects()}}, "user.a.k[0].k", Value, CIRCLE),
    ("long cycle", {"session": {"a": long_ring()}}, "session.a[0][0][0]", Value, FLATTEN),
    # contexts
    ("session a list", {"session": [("a", 1)]}, "session", Type, MAPPING),
    ("session an empty list", {"session": []}, "session", Type, MAPPING),
    ("session a text", {"session": "a=1"}, "session", Type, MAPPING),
    ("session a number", {"session": 0}, "session", Type, MAPPING),
    ("user false", {"user": False}, "user", Type, MAPPING),
    ("user an object", {"user": Blank()}, "user", Type, MAPPING),
    # the other parts
    ("nothing", {}, "update", Value, "set a variable, next_step, inject or notify"),
    ("empty contexts", {"session": {}, "user": {}}, "update", Value, "set a variable"),
    ("unknown field", {**ONE, "sesion": {}}, "sesion", Value, "the fields are dialog_id, session"),
    ("unknown field with newline", {**ONE, "a\nb": 1}, r"'a\nb'", Value, "the fields are"),
    ("unknown field very long", {**ONE, "x" * 99: 1}, f"{'x' * 57}...", Value, "the fields are"),
    ("step empty", {"next_step": ""}, "next_step", Value, NOT_EMPTY),
    (
        "step too long",
        {"next_step": "x" * 1025},
        "next_step",
        Value,
        "use the id of a node, or the name of a state, of the flow",
    ),
    ("step a number", {"next_step": 5}, "next_step", Type, TEXT),
    ("step with surrogate", {"next_step": SURROGATE}, "next_step", Value, DECODE),
    ("step blank", {"next_step": " "}, "next_step", Value, NOT_EMPTY),
    ("no dialog", {"dialog_id": ..., **ONE}, "dialog_id", Value, "add the id of the dialog"),
    ("dialog empty", {"dialog_id": "", **ONE}, "dialog_id", Value, GIVEN_ID),
    ("dialog blank", {"dialog_id": " \t", **ONE}, "dialog_id", Value, GIVEN_ID),
    ("dialog too long", {"dialog_id": "d" * 257, **ONE}, "dialog_id", Value, DIALOG),
    ("dialog None", {"dialog_id": None, **ONE}, "dialog_id", Type, TEXT),
    ("dialog a number", {"dialog_id": 17, **ONE}, "dialog_id", Type, TEXT),
    ("dialog bytes", {"dialog_id": b"d", **ONE}, "dialog_id", Type, TEXT),
    ("dialog surrogate", {"dialog_id": "d\udc80", **ONE}, "dialog_id", Value, DECODE),
    # headers
    ("etag with line break", {**ONE, "if_match": '"7"\r\nx: y'}, "if_match", Value, ASCII),
    ("etag with newline last", {**ONE, "if_match": '"7"\n'}, "if_match", Value, ASCII),
    ("etag with space", {**ONE, "if_match": '"7 8"'}, "if_match", Value, ASCII),
    ("etag not ASCII", {**ONE, "if_match": "é"}, "if_match", Value, ASCII),
    ("etag empty", {**ONE, "if_match": ""}, "if_match", Value, ASCII),
    ("etag too long", {**ONE, "if_match": "x" * 513}, "if_match", Value, ASCII),
    ("etag a number", {**ONE, "if_match": 7}, "if_match", Type, TEXT),
    ("update id line break", {**ONE, "update_id": "a\r\nx: y"}, "update_id", Value, ASCII),
    ("update id NUL", {**ONE, "update_id": "a\0"}, "update_id", Value, ASCII),
    ("update id DEL", {**ONE, "update_id": "a\x7f"}, "update_id", Value, ASCII),
    ("update id empty", {**ONE, "update_id": ""}, "update_id", Value, ASCII),
    ("update id bytes", {**ONE, "update_id": b"a"}, "update_id", Type, TEXT),
]


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


GOOD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("empty text", {"a": ""}, {"a": ""}),
    ("empty list and object", {"a": [], "b": {}}, {"a": [], "b": {}}),
    ("tuples", {"a": (1, ("x", ()))}, {"a": [1, ["x", []]]}),
    ("a tuple with names", {"a": Point(1, 2)}, {"a": [1, 2]}),
    ("false and zero", {"a": False, "b": 0, "c": 0.0}, {"a": False, "b": 0, "c": 0.0}),
    ("largest integers", {"a": BEYOND - 1, "b": 1 - BEYOND}, {"a": BEYOND - 1, "b": 1 - BEYOND}),
    ("largest float", {"a": 1.7976931348623157e308}, {"a": 1.7976931348623157e308}),
    ("three lists of scalars", {"a": [[[1, "x", None]]]}, {"a": [[[1, "x", None]]]}),
    ("three objects", {"a": levels(3, None, of=dict)}, {"a": {"k": {"k": {"k": None}}}}),
    ("empty at level 3", {"a": [[[]]], "b": [{"c": {}}]}, {"a": [[[]]], "b": [{"c": {}}]}),
    ("None inside", {"a": [None, {"b": None}]}, {"a": [None, {"b": None}]}),
    (
        "free names inside",
        {"a": {"": 1, "1 -": 2, "_user": 3}},
        {"a": {"": 1, "1 -": 2, "_user": 3}},
    ),
    ("unicode name", {"größe": 1, "変数": 2}, {"größe": 1, "変数": 2}),
    ("nearly reserved", {"cognigy": 1, "user_": 2, "_a": 3}, {"cognigy": 1, "user_": 2, "_a": 3}),
    ("keyword", {"class": 1, "None": 2}, {"class": 1, "None": 2}),
    ("unicode and NUL", {"a": "\0 é 😀 \u202e"}, {"a": "\0 é 😀 \u202e"}),
    ("enums", {"a": Colour.RED, "b": Level.HIGH, "c": Access(3)}, {"a": "red", "b": 3, "c": 3}),
    ("subclasses", {"a": Text("x"), "b": BigInt(7), "c": Odd(0.5)}, {"a": "x", "b": 7, "c": 0.5}),
    ("enum as key inside", {"a": {Colour.RED: 1}}, {"a": {"red": 1}}),
    ("defaultdict", {"a": defaultdict(int, b=1)}, {"a": {"b": 1}}),
    ("ordered", {"a": OrderedDict(z=1, b=2)}, {"a": {"z": 1, "b": 2}}),
    ("proxy", {"a": MappingProxyType({"b": [MappingProxyType({})]})}, {"a": {"b": [{}]}}),
    ("user dict", {"a": UserDict(b=1)}, {"a": {"b": 1}}),
    ("chain", {"a": ChainMap({"b": 1}, {"c": 2})}, {"a": {"c": 2, "b": 1}}),
    (
        "the same list twice",
        {"a": (twice := [1]), "b": [twice, twice]},
        {"a": [1], "b": [[1], [1]]},
    ),
]
