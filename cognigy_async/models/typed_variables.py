"""Check session variables against a pydantic model.

An update assigns some of the variables, so each is checked alone: fields that it does not name are
not required, and validators of the whole model do not run. The rules are those of strict JSON: a
text is not a number, and a date is a text in ISO 8601. Values are sent as given, not as converted.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import (
    ErrorDetails,
    SchemaError,
    SchemaValidator,
    ValidationError,
    core_schema,
)

from ..errors import ConfigurationError, Fault
from .variables import MAX_FAULTS, Path, encode, printable, text_of_path

MOST_NAMES = 12
"""Number of names that a message lists."""

VALUE_FREE = frozenset(
    (
        *("bool_type", "bytes_type", "date_type", "datetime_type", "decimal_type", "dict_type"),
        *("float_type", "frozen_set_type", "int_type", "list_type", "mapping_type", "model_type"),
        *("set_type", "string_type", "time_delta_type", "time_type", "tuple_type", "url_type"),
        *("uuid_type", "dataclass_type", "none_required", "int_from_float", "finite_number"),
        *(
            "string_too_short",
            "string_too_long",
            "string_pattern_mismatch",
            "too_short",
            "too_long",
        ),
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"),
        *("literal_error", "enum", "union_tag_not_found", "url_scheme", "extra_forbidden"),
        *("date_parsing", "datetime_parsing", "time_parsing", "time_delta_parsing"),
        *("datetime_from_date_parsing", "date_from_datetime_parsing", "date_past", "date_future"),
        *("too_long", "datetime_past", "datetime_future", "timezone_naive", "timezone_aware"),
        *("decimal_parsing", "decimal_max_digits", "decimal_max_places", "decimal_whole_digits"),
    )
)
"""Types of pydantic's errors whose texts quote the model, and never the value."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a model.

    Attributes:
        read_from: Paths from which the model reads the field: its aliases, or its name.
        written_as: Name in the JSON of an instance.
    """

    name: str
    read_from: tuple[tuple[str | int, ...], ...]
    written_as: str


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A model, ready to check single variables."""

    validator: SchemaValidator
    fields: tuple[_Field, ...]


def validate_model(model: Any) -> None:
    """Raise `ConfigurationError` unless `model` can describe session variables."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError("variables: must be a class of pydantic's BaseModel, or None")
    _compile(model)


def faults_of_model(model: type[BaseModel], session: Mapping[str, Any]) -> list[Fault]:
    """Return the faults of session variables that are valid JSON without a model."""
    compiled = _compile(model)
    try:
        compiled.validator.validate_json(encode(session), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [_fault(model, compiled, session, line) for line in found[:MAX_FAULTS]]
    except Exception as error:
        # A validator of the model has failed. Its text may have values, so name its class only.
        problem = f"a validator of {model.__name__} raised {type(error).__name__}"
        return [Fault("session", problem, "raise ValueError for a value that does not fit")]
    return []


@lru_cache(maxsize=64)
def _compile(model: type[BaseModel]) -> _Compiled:
    """Return a validator of the fields that are given.

    Raises:
        ConfigurationError: The model is not complete, or its fields cannot be checked alone.
    """
    try:
        if not model.__pydantic_complete__:
            model.model_rebuild()
        schema: Any = model.__pydantic_core_schema__
        definitions: list[Any] = []
        if schema["type"] == "definitions":
            definitions, schema = schema["definitions"], schema["schema"]
        config: core_schema.CoreConfig = {}
        while schema["type"] != "model-fields":
            if schema["type"] == "definition-ref":
                schema = next(one for one in definitions if one["ref"] == schema["schema_ref"])
                continue
            # Validators of the whole model are wrapped around its fields.
            config = schema.get("config", config)
            schema = schema["schema"]
    except Exception as error:
        raise ConfigurationError(
            f"variables: {model.__name__} has no fields that can be checked "
            f"({type(error).__name__}); use a model with fields whose types are all defined"
        ) from error
    fields: dict[str, core_schema.TypedDictField] = {}
    read: list[_Field] = []
    for name, field in schema["fields"].items():
        inner = field["schema"]
        alias = field.get("validation_alias")
        fields[name] = core_schema.typed_dict_field(
            # A default is not sent.
            inner["schema"] if inner["type"] == "default" else inner,
            required=False,
            validation_alias=alias,
        )
        read.append(
            _Field(name, _paths_of(name, alias, config), field.get("serialization_alias", name))
        )
    allows = config.get("extra_fields_behavior") == "allow"
    checked: core_schema.CoreSchema = core_schema.typed_dict_schema(
        fields,
        extra_behavior="allow" if allows else "forbid",
        extras_schema=schema.get("extras_schema"),
        config=config,
    )
    if definitions:
        checked = core_schema.definitions_schema(checked, definitions)
    try:
        return _Compiled(SchemaValidator(checked), tuple(read))
    except SchemaError as error:
        raise ConfigurationError(
            f"variables: pydantic cannot check the fields of {model.__name__} without the whole "
            "model; use a model whose fields can be checked alone"
        ) from error


def _paths_of(
    name: str, alias: Any, config: Mapping[str, Any]
) -> tuple[tuple[str | int, ...], ...]:
    """Return the paths from which a model reads a field, in the order in which it looks."""
    paths: list[Any] = []
    if alias is not None and config.get("validate_by_alias") is not False:
        paths = [[alias]] if isinstance(alias, str) else alias
        if not isinstance(paths[0], list):
            paths = [paths]
    if not paths or config.get("validate_by_name") or config.get("populate_by_name"):
        paths = [*paths, [name]]
    return tuple(map(tuple, paths))


def _fault(
    model: type[BaseModel], compiled: _Compiled, session: Mapping[str, Any], line: ErrorDetails
) -> Fault:
    kind, location = line["type"], line["loc"]
    path = _path(session, location)
    if kind == "extra_forbidden" and len(location) == 1:
        return Fault(path, *_fault_of_name(model, compiled.fields, session, str(location[0])))
    remedy = f"send what {model.__name__} declares"
    if kind == "missing":
        return Fault(path, f"{printable(location[-1])} is missing", remedy)
    if kind in VALUE_FREE:
        text = line["msg"]
        return Fault(path, f"does not fit: {text[:1].lower()}{text[1:]}", remedy)
    return Fault(path, f"does not fit its type ({kind})", remedy)


def _fault_of_name(
    model: type[BaseModel], fields: tuple[_Field, ...], session: Mapping[str, Any], name: str
) -> tuple[str, str]:
    """Return the problem with a name that the model did not read, and its remedy."""
    for field in fields:
        for path in field.read_from:
            if path[0] != name:
                continue
            for other, *_ in field.read_from:
                if other != name and other in session:
                    same = text_of_path(("session", other))
                    return f"{same} is the same variable of {model.__name__}", "send one of the two"
            place = _text_of_keys(path)
            problem = f"{model.__name__} reads {field.name} from {place}, which is missing"
            return problem, f"send {place}, or leave the variable out"
    for field in fields:
        place = _text_of_keys(field.read_from[0])
        if name == field.written_as:
            problem = f"{model.__name__} writes this name, but reads {place}"
            return problem, f"send {place}, or give the field one alias for both"
    problem = f"{model.__name__} has no variable of this name"
    for field in fields:
        if name == field.name:
            return problem, f"did you mean {_text_of_keys(field.read_from[0])}?"
    names = list(dict.fromkeys(str(path[0]) for field in fields for path in field.read_from))
    if near := difflib.get_close_matches(name, names, 1):
        return problem, f"did you mean {printable(near[0])}?"
    shown = ", ".join(map(printable, names[:MOST_NAMES])) or "none"
    more = ", ..." if len(names) > MOST_NAMES else ""
    return problem, f'its names are {shown}{more}; with extra="allow" it takes others as well'


def _text_of_keys(keys: tuple[str | int, ...]) -> str:
    path: Path = "session"
    for key in keys:
        path = (path, key)
    return text_of_path(path).removeprefix("session.")


def _path(session: Mapping[str, Any], location: tuple[int | str, ...]) -> str:
    """Return the path of the value; a location also names the members of unions, for example."""
    path: Path = "session"
    value: Any = session
    for step in location:
        try:
            value = value[step]
        except (TypeError, LookupError):
            continue
        path = (path, step)
    return text_of_path(path)
