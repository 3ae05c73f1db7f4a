"""The options of a callback."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

from cognigy_async import ConfigurationError
from cognigy_async.hooks.options import CallbackOptions, HookOptions, validate_callback


def test_the_documented_options_and_defaults_are_those_that_hold() -> None:
    option = re.compile(r"^\s+(\w+): .*?(?:; ([\d,]+) by default)?\.?$", re.MULTILINE)
    documented = dict(option.findall(HookOptions.__doc__ or ""))
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


class Crm:
    def save(self, event: object) -> None: ...

    def save_for(self, tenant: str, event: object) -> None: ...

    async def __call__(self, event: object, tenant: str = "t", *, retry: bool = True) -> None: ...


def nothing() -> None: ...


def keyword_only(*, event: object) -> None: ...


def generator(event: object) -> Iterator[object]:
    yield event


async def async_generator(event: object) -> AsyncIterator[object]:
    yield event


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Crm().save, "Crm.save"),
        (Crm(), "Crm"),
        (Crm.save.__get__(Crm()), "Crm.save"),
        (functools.partial(Crm().save_for, "t"), "partial"),
        ([].append, "list.append"),
        (print, "print"),
        (dict.fromkeys([]).get, "dict.get"),
        (lambda *events: events, "<lambda>"),
    ],
)
def test_what_takes_one_argument_is_accepted(function: Callable[..., Any], name: str) -> None:
    assert validate_callback("a callback", function, "the event").endswith(name)
    assert CallbackOptions(on_dead_letter=function).on_dead_letter is function


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (nothing, r"nothing does not take that \(too many positional arguments\)"),
        (keyword_only, "keyword_only does not take that"),
        (Crm.save, r"Crm.save does not take that \(missing a required argument: 'event'\)"),
        (Crm().save_for, r"Crm.save_for does not take that \(missing a required argument: 'event'"),
        (functools.partial(Crm().save, "e"), "partial does not take that"),
        (generator, "generator is a generator function"),
        (async_generator, "async_generator is a generator function"),
        ("print", "must be callable, not str"),
    ],
)
def test_what_does_not_take_one_argument_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=f"^a callback .*{problem}"):
        validate_callback("a callback", function, "the event")
    with pytest.raises(TypeError, match=f"^on_dead_letter .*{problem}"):
        CallbackOptions(on_dead_letter=function)
