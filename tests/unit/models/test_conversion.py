"""Conversion by pydantic's JSON mode, and the remedy that the refusal of each type names."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import math
import pathlib
import subprocess
import sys
import uuid
from collections import deque
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, Secret, SecretBytes, SecretStr

from cognigy_async import (
    ApiKey,
    AsyncStateClient,
    ConfigurationError,
    StateUpdate,
    UpdateValidationError,
    VariableTypeError,
    plan,
)
from cognigy_async.models.conversion import remedy_for, to_json_values, type_name
from tests.unit._builders import CANARY
from tests.unit._inputs import Broken


class Colour(enum.Enum):
    RED = CANARY
    HIDDEN = "**********"


@dataclasses.dataclass
class Item:
    name: str = CANARY


class Cart(BaseModel):
    total: decimal.Decimal = decimal.Decimal("1.50")


async def coroutine() -> None: ...


def _coroutine() -> Any:
    made = coroutine()
    made.close()
    return made


DAY = datetime.datetime(2025, 2, 3, 4, 5)
TYPES: list[tuple[Any, str, Any]] = [
    # A value, its remedy, and the value that encode="json" sends; `...` if it is refused too.
    (DAY, "value.isoformat()", "2025-02-03T04:05:00"),
    (DAY.date(), "value.isoformat()", "2025-02-03"),
    (DAY.time(), "value.isoformat()", "04:05:00"),
    (datetime.timedelta(seconds=90), "value.total_seconds()", "PT1M30S"),
    (decimal.Decimal("1.50"), "float(value)", "1.50"),
    (uuid.UUID(int=1), "str(value)", str(uuid.UUID(int=1))),
    (Colour.RED, "value.value", CANARY),
    ({CANARY}, "list(value)", [CANARY]),
    (frozenset({CANARY}), "list(value)", [CANARY]),
    (deque([1]), "list(value)", [1]),
    (range(3), "list(value)", ...),
    (CANARY.encode(), "base64.b64encode(value).decode()", CANARY),
    (b"\xff" + CANARY.encode(), "base64.b64encode(value).decode()", ...),
    (bytearray(b"a"), "value.decode()", "a"),
    (memoryview(b"a"), "base64.b64encode(value).decode()", ...),
    (Item(), "dataclasses.asdict(value)", {"name": CANARY}),
    (Cart(), 'value.model_dump(mode="json", by_alias=True)', {"total": "1.50"}),
    (SecretStr(CANARY), "value.get_secret_value()", ...),
    (SecretBytes(CANARY.encode()), "value.get_secret_value().decode()", ...),
    (Secret[str](CANARY), "value.get_secret_value()", ...),
    (pathlib.Path("a"), "str(value)", "a"),
    (ipaddress.ip_address("::1"), "str(value)", "::1"),
    (_coroutine(), "await it", ...),
    (lambda: CANARY, "call it", ...),
    (object(), "use a string, integer", ...),
]


@pytest.mark.parametrize(
    ("value", "remedy", "sent"), [pytest.param(*row, id=type(row[0]).__name__) for row in TYPES]
)
def test_a_refusal_names_the_remedy_for_the_type_and_never_the_value(
    value: Any, remedy: str, sent: Any
) -> None:
    with pytest.raises(VariableTypeError) as caught:
        StateUpdate("d-1", session={"a": {"b": [value]}})
    [fault] = caught.value.faults
    assert fault.path == "session.a.b[0]"
    assert remedy in fault.remedy
    assert CANARY not in str(caught.value)
    if sent is ...:
        with pytest.raises(VariableTypeError) as caught:
            StateUpdate("d-1", session={"a": {"b": [value]}}, encode="json")
        assert caught.value.faults == (fault,)
    else:
        update = StateUpdate("d-1", session={"a": value}, user={"b": [value]}, encode="json")
        assert (update.session, update.user) == ({"a": sent}, {"b": [sent]})


def test_the_remedies_that_name_the_conversion_are_those_of_types_that_it_takes() -> None:
    for value, _, sent in TYPES:
        if 'encode="json"' in remedy_for(value):
            assert sent is not ..., type(value)


def test_scalars_and_arrays_of_numpy() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    remedies = {
        "value.item()": [numpy.bool_(True), numpy.int64(3), numpy.float32(0.5)],
        "value.tolist()": [numpy.array([1, 2]), numpy.array(1.5)],
        "send str(value)": [numpy.datetime64("2025-02-03"), numpy.timedelta64(3, "s")],
        "float(value)": [numpy.longdouble(1.5)],
        "value.real.item()": [numpy.complex64(1)],
    }
    for remedy, values in remedies.items():
        for value in values:
            with pytest.raises(VariableTypeError) as caught:
                StateUpdate("d-1", session={"a": value})
            assert remedy in str(caught.value), value
    with pytest.raises(VariableTypeError, match=r"numpy\.bool_? is not a type"):
        StateUpdate("d-1", session={"a": numpy.bool_(True)})
    assert StateUpdate("d-1", session={"a": numpy.bool_(True).item()}).session == {"a": True}
    # These are subclasses of float and of str.
    update = StateUpdate("d-1", session={"a": numpy.float64(1.5), "b": numpy.str_("x")})
    assert update.session == {"a": 1.5, "b": "x"}
    with pytest.raises(UpdateValidationError, match="NaN and infinity"):
        StateUpdate("d-1", session={"a": numpy.float64("nan")})


def test_scalars_and_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    remedies = {
        "leave the variable out": [pandas.NA, pandas.NaT],
        "value.isoformat()": [pandas.Timestamp("2025-02-03")],
        "value.total_seconds()": [pandas.Timedelta(seconds=3)],
        "value.tolist()": [pandas.Series([1]), pandas.Index([1]), pandas.array([1])],
        'value.to_dict("records")': [pandas.DataFrame({"a": [1]})],
        "send str(value)": [pandas.Period("2025")],
    }
    for remedy, values in remedies.items():
        for value in values:
            with pytest.raises(VariableTypeError) as caught:
                StateUpdate("d-1", session={"a": value})
            assert remedy in str(caught.value), type(value)
    for missing in (pandas.NA, pandas.NaT):
        with pytest.raises(VariableTypeError, match="leave the variable out"):
            StateUpdate("d-1", session={"a": missing}, encode="json")
    update = StateUpdate("d-1", session={"a": pandas.Timestamp("2025-02-03")}, encode="json")
    assert update.session == {"a": "2025-02-03T00:00:00"}


@pytest.mark.parametrize(
    ("library", "name", "remedy"),
    [
        ("pandas.core.frame", "DataFrame", 'pass value.to_dict("records")'),
        ("polars.dataframe.frame", "DataFrame", "pass value.to_dicts()"),
        ("pyarrow.lib", "Table", "pass value.to_pylist()"),
    ],
)
def test_a_table_in_place_of_rows_says_how_to_get_its_rows(
    library: str, name: str, remedy: str
) -> None:
    table: Any = type(name, (list,), {"__module__": library})(["a column"])
    client = AsyncStateClient("https://api.example", auth=ApiKey("key"))
    for function in (client.update_many, plan):
        with pytest.raises(TypeError) as caught:
            function(table)
        assert f"takes an iterable of updates, not {name}; {remedy}" in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], Item(name=math.nan)])  # type: ignore[arg-type]
def test_the_conversion_does_not_let_numbers_through_that_json_lacks(value: Any) -> None:
    with pytest.raises(UpdateValidationError, match=r"session\.a.*NaN and infinity are not JSON"):
        StateUpdate("d-1", session={"a": value}, encode="json")


def test_a_model_is_a_mapping_of_variables_by_conversion_only() -> None:
    model: Any = Cart()
    assert StateUpdate("d-1", session=model, encode="json").session == {"total": "1.50"}
    with pytest.raises(VariableTypeError, match=r"session: is of type Cart; send .*model_dump"):
        StateUpdate("d-1", session=model)


def test_what_cannot_be_converted_keeps_its_place_and_its_remedy() -> None:
    session = {"a": MappingProxyType({"b": (DAY, object())}), "c": {7: Colour.RED}}
    assert to_json_values(session)["c"] == {"7": CANARY}
    with pytest.raises(VariableTypeError) as caught:
        StateUpdate("d-1", session=session, encode="json")
    [fault] = caught.value.faults
    assert fault.path == "session.a.b[1]"


def test_what_cannot_be_read_or_contains_itself_is_refused_as_without_conversion() -> None:
    ring: list[Any] = [{1}]
    ring.append(ring)
    for value, problem in [(ring, "contains itself"), (Broken(a={1}), "reading it raised")]:
        with pytest.raises(UpdateValidationError, match=problem) as caught:
            StateUpdate("d-1", session={"a": value}, encode="json")
        assert CANARY not in str(caught.value)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Account(BaseModel):
    keys: dict[int | str, int] = {}
    password: SecretStr = Field(default=SecretStr(""), serialization_alias="passWord")
    ratio: float = 0.0


@dataclasses.dataclass(slots=True)
class Owner:
    account: Account


@pytest.mark.parametrize(
    ("session", "path"),
    [
        ({"a": {1: "a", "1": "b"}}, "session.a.1"),
        ({"a": {"1": "b", 1: "a"}}, "session.a.1"),
        ({"a": [{True: "a", "true": "b"}]}, "session.a[0].true"),
        ({"a": {None: 1, "None": 2}}, "session.a.None"),
        ({"a": {DAY: 1, DAY.isoformat(): 2}}, "session.a.2025-02-03T04:05:00"),
        ({uuid.UUID(int=1): 1, str(uuid.UUID(int=1)): 2}, f"session.{uuid.UUID(int=1)}"),
        ({"a": Account(keys={1: 1, "1": 2})}, "session.a.keys.1"),
        ({"a": Owner(Account(keys={1: 1, "1": 2}, ratio=math.nan))}, "session.a.account.keys.1"),
    ],
)
def test_two_keys_that_become_one_are_refused(session: dict[Any, Any], path: str) -> None:
    with pytest.raises(UpdateValidationError, match="two keys are the same text") as caught:
        StateUpdate("d-1", session=session, encode="json")
    assert caught.value.path == path
    # The same where another part cannot be converted.
    with pytest.raises(UpdateValidationError, match="two keys are the same text") as caught:
        StateUpdate("d-1", session={**session, "b": object()}, encode="json")
    assert path in {fault.path for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("session", "path"),
    [
        ({"a": Account(password=SecretStr(CANARY))}, "session.a.passWord"),
        (Account(password=SecretStr(CANARY)), "session.passWord"),
        ({"a": Owner(Account(password=SecretStr(CANARY)))}, "session.a.account.passWord"),
        ({"a": Open(b=SecretStr(CANARY))}, "session.a.b"),  # type: ignore[call-arg]
        ({"a": {"b": deque([SecretStr(CANARY)])}}, "session.a.b[0]"),
    ],
)
def test_a_secret_is_refused_and_never_sent_as_a_mask(session: Any, path: str) -> None:
    with pytest.raises(VariableTypeError, match=r"SecretStr is not .*get_secret_value") as caught:
        StateUpdate("d-1", session=session, encode="json")
    assert [fault.path for fault in caught.value.faults] == [path]
    assert CANARY not in str(caught.value)


def test_a_text_of_asterisks_is_a_text() -> None:
    day = (each for each in [DAY])
    session = {"a": "**********", "b": [Cart(), Item(name="**********"), Colour.HIDDEN], "c": day}
    sent = StateUpdate("d-1", session=session, encode="json").session
    assert (sent["a"], sent["b"][1:]) == ("**********", [{"name": "**********"}, "**********"])
    assert sent["c"] == ["2025-02-03T04:05:00"]


def test_the_remedy_for_a_model_sends_the_names_that_the_conversion_sends() -> None:
    model = Account(keys={7: 1})
    remedy = remedy_for(model).removeprefix("send ").partition(", or ")[0]
    assert eval(remedy, {"value": model}) == to_json_values(model)
    assert "passWord" in to_json_values(model)


def test_the_conversion_copies() -> None:
    inner = [DAY]
    update = StateUpdate("d-1", session={"a": inner}, encode="json")
    inner.append(DAY)
    assert update.session == {"a": ["2025-02-03T04:05:00"]}


def test_changes_of_an_update_are_converted_on_request() -> None:
    update = StateUpdate("d-1", session={"a": 1})
    assert update.replace(session={"a": DAY}, encode="json").session["a"].startswith("2025-02-03")
    with pytest.raises(VariableTypeError, match="isoformat"):
        update.replace(session={"a": DAY})


def test_an_unknown_conversion_is_refused() -> None:
    wrong: Any = "yaml"
    with pytest.raises(ConfigurationError, match="encode='yaml': must be \"json\" or None"):
        StateUpdate("d-1", session={"a": 1}, encode=wrong)


def test_a_type_has_its_library_where_a_builtin_has_the_same_name() -> None:
    assert type_name(type("bool", (), {"__module__": "numpy.core"})()) == "numpy.bool"
    assert (type_name(DAY), type_name(True)) == ("datetime", "bool")


def test_no_library_is_imported_to_name_a_remedy() -> None:
    program = (
        "import sys, datetime\n"
        "from cognigy_async import StateUpdate, UpdateValidationError\n"
        "try: StateUpdate('d', session={'a': datetime.date.today()})\n"
        "except UpdateValidationError: pass\n"
        "print(sorted({'numpy', 'pandas', 'polars', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
