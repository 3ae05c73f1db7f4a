"""`StateUpdate`: a validated and encoded assignment to the state of one dialog.

An update is encoded when it is created and keeps only the encoding of its variables. So changes to
the caller's objects never change the request.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import Field, field, make_dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    Required,
    Self,
    TypeAlias,
    TypedDict,
    final,
)

from pydantic_core import (
    InitErrorDetails,
    PydanticCustomError,
    ValidationError,
    core_schema,
    from_json,
)

from ..errors import Fault, UpdateValidationError, VariableTypeError
from .conversion import JSON_TYPES, Encode, remedy_for, rows_of, to_json_values, validate_encode
from .identifiers import NO_METADATA, faults_of_identifiers, faults_of_owner, read_metadata
from .limits import DEFAULT_LIMITS, Limits
from .message import Receiver, read_message
from .variables import TypeFault, are_plain, encode, faults_in, faults_of_size, printable

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


class UpdateFields(TypedDict, total=False):
    """The arguments of a `StateUpdate` as a mapping, for example a row of `update_many`."""

    dialog_id: Required[str]
    session: Mapping[str, Any] | None
    user: Mapping[str, Any] | None
    next_step: str | None
    if_match: str | None
    update_id: str | None
    user_id: str | None
    profile_id: str | None
    metadata: Mapping[str, str] | None
    inject: Mapping[str, Any] | None
    notify: Mapping[str, Any] | None


FIELD_NAMES = tuple(UpdateFields.__annotations__)

_AS_DATACLASS: Any = make_dataclass(
    "StateUpdate",
    [
        (name, kind) if name == "dialog_id" else (name, kind, field(default=None, kw_only=True))
        for name, kind in UpdateFields.__annotations__.items()
    ],
    init=False,
    repr=False,
    eq=False,
)


class StateUpdate:
    """An immutable assignment of variables to one dialog, with an optional transition.

    The runtime API replaces each variable named in `session` or `user` as a whole, and other
    variables keep their values (the tutorial). What the sessions API does is not documented; see
    `SessionsApi`. `StateUpdate` works as a field of pydantic models, as a body type in FastAPI, and
    with the functions of `dataclasses`.

    Args:
        dialog_id: Id of the dialog, at most 256 characters, without white space or invisible
            characters at its ends. The client percent-encodes the id in URLs.
        session, user: Variables by name. Values are JSON values. A tuple is sent as a list. None
            is allowed only inside objects and lists. Names and sizes follow `Limits`.
        next_step: Id of the flow node to go to; with `SessionsApi`, name of the state to set.
        if_match: Etag of a state. The server writes only if the state still has this etag.
        update_id: Id in logs, results and the `Idempotency-Key` header: 1 to 512 visible ASCII
            characters, unique. By default the client generates one.
        user_id: Owner of the session; for `SessionsApi`, and with `inject` and `notify`.
        profile_id: Contact profile that `user` is written to; `SessionsApi` only.
        metadata: Texts by name for callbacks and the audit log, never sent to the server. At most
            32 entries of at most 1,024 characters.
        inject: Message to the flow as user input, sent after the variables: ``text``, a text, and
            ``data``, an object. Needs a client with an `Endpoint`.
        notify: Message to the user, sent after the variables: ``text``, ``data``, and
            ``attachments``, a list of objects. An update has either `inject` or `notify`, and then
            neither `next_step` nor `if_match`: send those as an update of their own.
        encode: ``"json"`` converts variables and messages as pydantic's JSON mode does: dates,
            UUIDs, decimals, enums, sets, dataclasses, models and more. By default they are refused.

    Raises:
        UpdateValidationError: The input is invalid; `faults` has every fault. The constructor
            applies `Limits()`; the client applies its own limits when the update is submitted.
        ConfigurationError: `encode` is neither ``"json"`` nor None.

    Example::

        StateUpdate("d-1", session={"cart_total": 149.99}, next_step="process_checkout")
    """

    __slots__ = (
        "_body",
        "_dialog_id",
        "_if_match",
        "_limits",
        "_message",
        "_metadata",
        "_next_step",
        "_profile_id",
        "_update_id",
        "_user_id",
    )
    # The protocol of dataclasses: by it FastAPI tells the type of a body from that of a parameter.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]] = _AS_DATACLASS.__dataclass_fields__
    __dataclass_params__: ClassVar[Any] = _AS_DATACLASS.__dataclass_params__

    def __init__(
        self,
        dialog_id: str,
        *,
        session: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        next_step: str | None = None,
        if_match: str | None = None,
        update_id: str | None = None,
        user_id: str | None = None,
        profile_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        inject: Mapping[str, Any] | None = None,
        notify: Mapping[str, Any] | None = None,
        encode: Encode | None = None,
    ) -> None:
        if encode is not None:
            session, user = _encoded(encode, session), _encoded(encode, user)
            inject, notify = _encoded(encode, inject), _encoded(encode, notify)
        self._fill(
            DEFAULT_LIMITS,
            dialog_id,
            session,
            user,
            next_step,
            if_match,
            update_id,
            user_id,
            profile_id,
            metadata,
            inject,
            notify,
        )

    @classmethod
    def from_fields(
        cls, limits: Limits, fields: Mapping[str, Any], encode: Encode | None = None
    ) -> Self:
        """Create an update from a mapping of its arguments, validated against `limits`.

        Raises:
            UpdateValidationError: The input is invalid; `faults` has every fault.
        """
        if not fields.keys() <= _KNOWN_NAMES or "dialog_id" not in fields:
            raise _validation_error(_faults_of_keys(fields), fields.get("dialog_id"))
        if encode is not None:
            return cls.from_converted_values(encode, limits, *map(fields.get, FIELD_NAMES))
        update = cls.__new__(cls)
        update._fill(limits, **fields)
        return update

    @classmethod
    def from_values(cls, limits: Limits, *values: Any) -> Self:
        """Create an update from all arguments in the order of `UpdateFields`; see `from_fields`."""
        update = cls.__new__(cls)
        update._fill(limits, *values)
        return update

    @classmethod
    def from_converted_values(
        cls, encode: Encode, limits: Limits, dialog_id: Any, session: Any, user: Any, *others: Any
    ) -> Self:
        """Create an update like `from_values`, with variables and messages converted."""
        session, user = _encoded(encode, session), _encoded(encode, user)
        *texts, inject, notify = others
        messages = _encoded(encode, inject), _encoded(encode, notify)
        return cls.from_values(limits, dialog_id, session, user, *texts, *messages)

    def with_limits(self, limits: Limits) -> Self:
        """Return this update validated against `limits`, or raise `UpdateValidationError`."""
        if limits is self._limits or limits == self._limits:
            return self
        return self.from_fields(limits, self.fields())

    def replace(self, *, encode: Encode | None = None, **changes: Any) -> Self:
        """Return a copy with the arguments in `changes` replaced, validated like any update."""
        return self.from_fields(self._limits, self.fields() | changes, encode)

    @property
    def dialog_id(self) -> str:
        """Id of the dialog."""
        return self._dialog_id

    @property
    def session(self) -> dict[str, Any]:
        """Session variables by name, as sent; a new copy at each access."""
        session: dict[str, Any] = from_json(self._body).get("session", {})
        return session

    @property
    def user(self) -> dict[str, Any]:
        """User variables by name, as sent; a new copy at each access."""
        user: dict[str, Any] = from_json(self._body).get("user", {})
        return user

    @property
    def next_step(self) -> str | None:
        """Id of the flow node to go to."""
        return self._next_step

    @property
    def if_match(self) -> str | None:
        """Etag that the state must still have."""
        return self._if_match

    @property
    def update_id(self) -> str | None:
        """Id given by the caller; None if the client is to generate one."""
        return self._update_id

    @property
    def user_id(self) -> str | None:
        """Owner of the session."""
        return self._user_id

    @property
    def profile_id(self) -> str | None:
        """Contact profile that `user` is written to."""
        return self._profile_id

    @property
    def metadata(self) -> dict[str, str]:
        """Texts for callbacks and the audit log; a new copy at each access."""
        return dict(self._metadata)

    @property
    def inject(self) -> dict[str, Any]:
        """Message to the flow, as sent; a new copy at each access."""
        return self._message_to("inject")

    @property
    def notify(self) -> dict[str, Any]:
        """Message to the user, as sent; a new copy at each access."""
        return self._message_to("notify")

    @property
    def repeatable(self) -> bool:
        """True if applying the update twice in a row is as good as once: it has only variables."""
        return self._next_step is None and self._message is None

    def _message_to(self, receiver: Receiver) -> dict[str, Any]:
        messages: dict[str, dict[str, Any]] = from_json(self._message or b"{}")
        return messages.get(receiver, {})

    def payload(self) -> dict[str, Any]:
        """Return a copy of the JSON object to send; for its members see `UpdateEvent.payload`."""
        payload: dict[str, Any] = from_json(self._body)
        if self._message is not None:
            payload |= from_json(self._message)
        return payload

    def fields(self) -> dict[str, Any]:
        """Return the arguments that create this update, without empty ones."""
        fields = {name: getattr(self, name) for name in FIELD_NAMES}
        return {name: value for name, value in fields.items() if value not in (None, {})}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateUpdate) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        owner = (self._user_id, self._profile_id)
        metadata = frozenset(self._metadata.items())
        # The order of the members of an object has no meaning.
        body = json.dumps(self.payload(), sort_keys=True)
        return (self._dialog_id, body, self._if_match, self._update_id, owner, metadata)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"StateUpdate({arguments})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_fields, (self._limits, self.fields())

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            ref=f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",  # a definition in JSON schemas
            serialization=core_schema.plain_serializer_function_ser_schema(cls.fields),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        variables = {"type": "object", "description": "variables by name"}
        texts = {"type": "object", "additionalProperties": {"type": "string"}}
        kinds = {"session": variables, "user": variables, "metadata": texts}
        message = {
            "type": "object",
            "properties": {"text": {"type": "string"}, "data": {"type": "object"}},
        }
        kinds |= {"inject": message, "notify": message}
        return {
            "title": "StateUpdate",
            "type": "object",
            "properties": {name: kinds.get(name, text) for name in FIELD_NAMES},
            "required": ["dialog_id"],
            "additionalProperties": False,
        }

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        faults = 'give a mapping of the arguments of StateUpdate, such as {"dialog_id": "d-1"}'
        if isinstance(value, Mapping):
            try:
                return cls.from_fields(DEFAULT_LIMITS, value)
            except UpdateValidationError as error:
                faults = str(error)
        # An error raised as it is would show the input, which has the values of variables.
        line = InitErrorDetails(
            type=PydanticCustomError("state_update", "{faults}", {"faults": faults}),
            input="hidden",
        )
        raise ValidationError.from_exception_data(cls.__name__, [line])

    def _fill(
        self,
        limits: Limits,
        dialog_id: Any,
        session: Any = None,
        user: Any = None,
        next_step: Any = None,
        if_match: Any = None,
        update_id: Any = None,
        user_id: Any = None,
        profile_id: Any = None,
        metadata: Any = None,
        inject: Any = None,
        notify: Any = None,
    ) -> None:
        """Validate and encode the values; each constructor ends here."""
        self._metadata = NO_METADATA
        self._message: bytes | None = None
        """JSON object with the member `inject` or `notify`."""
        # Most updates are plain: one quick check accepts them. Only the others are fully checked.
        if not (
            (session is None or (type(session) is dict and are_plain(limits, session)))
            and (user is None or (type(user) is dict and are_plain(limits, user)))
            and type(dialog_id) is str
            and 0 < len(dialog_id) <= limits.max_dialog_id_length
            and dialog_id.isprintable()
            and " " not in dialog_id
            and next_step is None
            and if_match is None
            and update_id is None
            and user_id is None
            and profile_id is None
            and metadata is None
            and inject is None
            and notify is None
        ):
            faults = faults_of_identifiers(limits, dialog_id, next_step, if_match, update_id)
            faults += faults_of_owner(user_id, profile_id)
            if metadata is not None:
                self._metadata, more = read_metadata(metadata)
                faults += more
            faults += faults_of_variables(limits, "session", session)
            faults += faults_of_variables(limits, "user", user)
            # No message, as `fields` of dataclasses have it, like no variables.
            inject, notify = (None if each == {} else each for each in (inject, notify))
            others = {"next_step": next_step, "if_match": if_match}
            if inject is not None:
                others["notify"] = notify
                self._message, more = _encode_message(limits, "inject", inject, others)
                faults += more
            elif notify is not None:
                self._message, more = _encode_message(limits, "notify", notify, others)
                faults += more
            if faults:
                raise _validation_error(faults, dialog_id, session, user)
            # A subclass of str may format as another text, as an enum does.
            dialog_id, next_step, if_match, update_id, user_id, profile_id = map(
                _plain_text, (dialog_id, next_step, if_match, update_id, user_id, profile_id)
            )
        wire: dict[str, Any] = {}
        if session:
            wire["session"] = session
        if user:
            wire["user"] = user
        if next_step is not None:
            wire["transition"] = {"nextStep": next_step}
        if not wire and self._message is None:
            problem = "the update carries nothing"
            remedy = "set a variable, next_step, inject or notify"
            raise _validation_error([Fault("update", problem, remedy)], dialog_id, session, user)
        if limits.variables is not None and session:
            from .typed_variables import faults_of_model

            if faults := faults_of_model(limits.variables, session):
                raise _validation_error(faults, dialog_id, session, user)
        try:
            body = encode(wire)
        except Exception as error:
            raise _validation_error(
                [_unreadable("update", error)], dialog_id, session, user
            ) from None
        if len(body) > limits.harmless_bytes:
            faults = faults_of_size(limits, wire, len(body), splittable=if_match is None)
            if faults:
                raise _validation_error(faults, dialog_id, session, user)
        self._dialog_id: str = dialog_id
        self._next_step: str | None = next_step
        self._if_match: str | None = if_match
        self._update_id: str | None = update_id
        self._user_id: str | None = user_id
        self._profile_id: str | None = profile_id
        self._body = body
        self._limits = limits


_KNOWN_NAMES = frozenset(FIELD_NAMES)


def _faults_of_keys(fields: Mapping[str, Any]) -> list[Fault]:
    remedy = f"the fields are {', '.join(FIELD_NAMES)}"
    faults = [
        Fault(printable(name), "is not a field of an update", remedy)
        for name in fields
        if name not in _KNOWN_NAMES
    ]
    if "dialog_id" not in fields:
        faults.append(Fault("dialog_id", "is missing", "add the id of the dialog"))
    return faults


def _encoded(encode: Encode, variables: Any) -> Any:
    validate_encode(encode)
    return to_json_values(variables)


def _encode_message(
    limits: Limits, receiver: Receiver, message: Any, others: Mapping[str, Any]
) -> tuple[bytes | None, list[Fault]]:
    """Return the JSON of a message, and its faults.

    Args:
        others: Values by name that an update with a message must not have: only its last request
            may be one that must not be repeated.
    """
    read, faults = read_message(limits, receiver, message)
    remedy = "send two updates of the dialog; they are applied in their order"
    faults += [
        Fault(receiver, f"cannot be in one update with {name}", remedy)
        for name, value in others.items()
        if value is not None
    ]
    if faults:
        return None, faults
    try:
        encoded = encode({receiver: read})
    except Exception as error:
        return None, [_unreadable(receiver, error)]
    if len(encoded) > limits.safe_payload_bytes:
        problem = f"takes {len(encoded)} bytes, more than {limits.safe_payload_bytes}"
        return None, [Fault(receiver, problem, "send a reference to the data instead")]
    return encoded, []


def _plain_text(text: str | None) -> str | None:
    return text if text is None else str.__str__(text)


def faults_of_variables(limits: Limits, context: str, variables: Any) -> list[Fault]:
    """Return the faults of what was passed for a context, except faults of size."""
    if variables is None:
        return []
    if isinstance(variables, Mapping):
        try:
            return faults_in(limits, context, variables)
        except Exception as error:
            return [_unreadable(context, error)]
    kind = type(variables).__name__
    remedy = remedy_for(variables)
    if remedy == JSON_TYPES:
        remedy = "use a mapping from names to values"
    return [TypeFault(context, f"is of type {kind}", remedy)]


def _unreadable(path: str, error: Exception) -> Fault:
    # The text of the exception may contain values, so the message names its class only.
    return Fault(path, f"reading it raised {type(error).__name__}", "pass plain dicts and lists")


def _validation_error(
    faults: list[Fault], dialog_id: object, session: object = None, user: object = None
) -> UpdateValidationError:
    shown = None
    if isinstance(dialog_id, str) and dialog_id.isprintable():
        shown = dialog_id[:80] or None
    kind = VariableTypeError if isinstance(faults[0], TypeFault) else UpdateValidationError
    names = frozenset(
        f"{context}.{name}"
        for context, variables in (("session", session), ("user", user))
        if isinstance(variables, dict)
        for name in variables
        if type(name) is str
    )
    return kind(tuple(faults), dialog_id=shown, names=names)


class TypedRow(Protocol):
    """Any `TypedDict`. Type checkers recognise it by an attribute that no other type has."""

    __required_keys__: ClassVar[frozenset[str]]


@final
class _AnyValue:
    """A type without values: of other mappings only those with values of type Any match."""


MYPY = False
"""mypy treats this name as True."""

if MYPY:
    # mypy infers a type that matches no TypedDict for rows that are built before the call.
    UpdateInput: TypeAlias = (  # pyright: ignore[reportRedeclaration]
        StateUpdate | UpdateFields | TypedRow | Mapping[str, Any]
    )
else:
    UpdateInput: TypeAlias = (  # pyright: ignore[reportRedeclaration]
        StateUpdate | UpdateFields | TypedRow | Mapping[str, _AnyValue]
    )
"""An update, or a mapping of its arguments."""


class DatedUpdate(NamedTuple):
    """An input of `update_many` with a deadline of its own, in seconds of the client's clock."""

    update: StateUpdate
    deadline: float


def parse_update(given: UpdateInput, limits: Limits, encode: Encode | None = None) -> StateUpdate:
    """Return an update validated against `limits`, or raise `UpdateValidationError`."""
    if isinstance(given, StateUpdate):
        return given.with_limits(limits)
    return StateUpdate.from_fields(limits, _plain_mapping(given), encode)


def check_iterable(function: str, updates: Any) -> None:
    """Raise `TypeError` for an object that is no iterable of updates."""
    remedy = rows_of(updates)
    if remedy is None:
        if isinstance(updates, Iterable) and not isinstance(updates, str | bytes | Mapping):
            return
        remedy = "pass a list or a generator of them"
    kind = type(updates).__name__
    raise TypeError(f"{function} takes an iterable of updates, not {kind}; {remedy}")


def _plain_mapping(given: Any) -> Mapping[str, Any]:
    if type(given) is dict:
        return given
    if isinstance(given, Mapping):
        try:
            return dict(given)
        except Exception as error:
            raise UpdateValidationError((_unreadable("update", error),)) from error
    problem = f"is of type {type(given).__name__}"
    remedy = "pass a StateUpdate, or a mapping of its arguments"
    raise VariableTypeError((Fault("update", problem, remedy),))
