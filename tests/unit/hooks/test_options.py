"""The options of a callback."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.hooks.options import CallbackOptions, HookOptions


def test_the_documented_options_and_defaults_are_those_that_hold() -> None:
    documented = dict(
        re.findall(r"^\s+(\w+): .*?(?:; ([\d,]+))?\.?$", HookOptions.__doc__ or "", re.MULTILINE)
    )
    defaults = {field.name: field.default for field in fields(CallbackOptions)}
    assert set(HookOptions.__annotations__) == set(defaults)
    numbers = {name: float(text.replace(",", "")) for name, text in documented.items() if text}
    assert numbers == {name: defaults[name] for name in numbers}
    assert set(numbers) == {"timeout", "retries", "concurrency", "max_queue"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 0.0),
        ("timeout", math.inf),
        ("retries", -1),
        ("concurrency", 0),
        ("max_queue", 0),
        ("overflow", "drop"),
    ],
)
def test_an_option_out_of_its_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        CallbackOptions(**{option: value})
