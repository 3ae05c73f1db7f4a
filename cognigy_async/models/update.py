"""`StateUpdate`: what is asked for, checked and encoded.

An update is encoded when it is made and keeps nothing else of its variables. What is sent is that
encoding, so nothing that happens to the caller's objects afterwards changes an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pydantic_core import PydanticCustomError, core_schema, from_json

from ..errors import Fault, UpdateValidationError, VariableTypeError
from .identifiers import NO_METADATA, faults_of_identifiers, faults_of_owner, read_metadata
from .limits import DEFAULT_LIMITS, Limits, TypeFault, encode, printable

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

FIELDS = (
    "dialog_id",
    "session",
    "user",
    "next_step",
    "if_match",
    "update_id",
    "user_id",
    "profile_id",
    "metadata",
)


class StateUpdate:
    """An assignment of variables to one dialog, and perhaps a transition of it.

    It cannot be changed. Each variable named in `session` or `user` is replaced whole; the others
    stay as they are. It serves as a field or a body type in pydantic models and FastAPI.

    Args:
        dialog_id: the dialog; any text, it is percent-encoded on its way.
        session, user: variables by name; JSON values, `None` only inside objects and lists.
        next_step: the flow node to go to.
        if_match: write only if the state still has this etag.
        update_id: names the update in logs and results and is its `Idempotency-Key`: visible ASCII,
            unique. The client makes one where there is none.
        user_id: who the session belongs to, for `SessionsApi`.
        profile_id: the contact profile that `user` is written to, for `SessionsApi`.
        metadata: texts by name, for callbacks and the audit; never sent. At most 32, of at most
            1,024 characters.

    Raises:
        UpdateValidationError: with every fault of the input. An update made here is checked against
            `Limits()`, and again against the client's own limits where those differ.
    """

    __slots__ = (
        "_body",
        "_dialog_id",
        "_if_match",
        "_limits",
        "_metadata",
        "_next_step",
        "_profile_id",
        "_update_id",
        "_user_id",
    )

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
    ) -> None:
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
        )

    @classmethod
    def from_fields(cls, limits: Limits, fields: Mapping[str, Any]) -> Self:
        """An update from a mapping of its arguments, checked against other limits.

        Raises:
            UpdateValidationError: with every fault of the input.
        """
        if not fields.keys() <= _KNOWN or "dialog_id" not in fields:
            raise _refused(_faults_of_keys(fields), fields.get("dialog_id"))
        return cls.from_values(limits, *map(fields.get, FIELDS))

    @classmethod
    def from_values(cls, limits: Limits, *values: Any) -> Self:
        """An update from its arguments, in the order of `FIELDS`, checked against other limits.

        Raises:
            UpdateValidationError: with every fault of the input.
        """
        update = cls.__new__(cls)
        update._fill(limits, *values)
        return update

    def with_limits(self, limits: Limits) -> Self:
        """This update, checked against other limits.

        Raises:
            UpdateValidationError: it breaks one of them.
        """
        if limits is self._limits or limits == self._limits:
            return self
        return self.from_fields(limits, self.fields())

    def replace(self, **changes: Any) -> Self:
        """A copy with some arguments changed, checked like any other.

        Raises:
            UpdateValidationError: with every fault of it.
        """
        return self.from_fields(self._limits, self.fields() | changes)

    @property
    def dialog_id(self) -> str:
        """The dialog."""
        return self._dialog_id

    @property
    def session(self) -> dict[str, Any]:
        """Session variables by name, as they are sent. A new copy at each access."""
        session: dict[str, Any] = from_json(self._body).get("session", {})
        return session

    @property
    def user(self) -> dict[str, Any]:
        """User variables by name, as they are sent. A new copy at each access."""
        user: dict[str, Any] = from_json(self._body).get("user", {})
        return user

    @property
    def next_step(self) -> str | None:
        """The flow node to go to."""
        return self._next_step

    @property
    def if_match(self) -> str | None:
        """The etag that the state must still have."""
        return self._if_match

    @property
    def update_id(self) -> str | None:
        """The name that the caller gave it."""
        return self._update_id

    @property
    def user_id(self) -> str | None:
        """Who the session belongs to."""
        return self._user_id

    @property
    def profile_id(self) -> str | None:
        """The contact profile that `user` is written to."""
        return self._profile_id

    @property
    def metadata(self) -> dict[str, str]:
        """What the caller says about it. A new copy at each access."""
        return dict(self._metadata)

    def payload(self) -> dict[str, Any]:
        """The object that goes over the wire: `session`, `user` and `transition` where they carry
        something. A new copy at each call.
        """
        payload: dict[str, Any] = from_json(self._body)
        return payload

    def fields(self) -> dict[str, Any]:
        """The arguments that make this update, without those that carry nothing."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in fields.items() if value not in (None, {})}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateUpdate) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        told = frozenset(self._metadata.items())
        people = (self._user_id, self._profile_id)
        return (self._dialog_id, self._body, self._if_match, self._update_id, people, told)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"StateUpdate({told})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_fields, (self._limits, self.fields())

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
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
        return {
            "title": "StateUpdate",
            "type": "object",
            "properties": {name: kinds.get(name, text) for name in FIELDS},
            "required": ["dialog_id"],
            "additionalProperties": False,
        }

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("state_update", "a mapping of its arguments is needed")
        try:
            return cls.from_fields(DEFAULT_LIMITS, value)
        except UpdateValidationError as error:
            raise PydanticCustomError("state_update", "{faults}", {"faults": str(error)}) from error

    def _fill(
        self,
        limits: Limits,
        dialog_id: Any,
        session: Any,
        user: Any,
        next_step: Any,
        if_match: Any,
        update_id: Any,
        user_id: Any,
        profile_id: Any,
        metadata: Any,
    ) -> None:
        self._metadata = NO_METADATA
        # This runs for every update, and most are plain: a glance, and a closer look at the others.
        if not (
            (session is None or (type(session) is dict and limits.are_plain(session)))
            and (user is None or (type(user) is dict and limits.are_plain(user)))
            and type(dialog_id) is str
            and 0 < len(dialog_id) <= limits.max_dialog_id_length
            and dialog_id.isascii()
            and not dialog_id.isspace()
            and next_step is None
            and if_match is None
            and update_id is None
            and user_id is None
            and profile_id is None
            and metadata is None
        ):
            faults = faults_of_identifiers(limits, dialog_id, next_step, if_match, update_id)
            faults += faults_of_owner(user_id, profile_id)
            if metadata is not None:
                self._metadata, more = read_metadata(metadata)
                faults += more
            faults += _faults_in(limits, "session", session) + _faults_in(limits, "user", user)
            if faults:
                raise _refused(faults, dialog_id)
            # A subclass may format itself as something else: an enum tells its name.
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
        if not wire:
            problem, remedy = "the update carries nothing", "name a variable, or next_step"
            raise _refused([Fault("update", problem, remedy)], dialog_id)
        try:
            body = encode(wire)
        except Exception as error:
            raise _refused([_unreadable("update", error)], dialog_id) from None
        if len(body) > limits.harmless_bytes:
            faults = limits.faults_of_size(wire, len(body), splittable=if_match is None)
            if faults:
                raise _refused(faults, dialog_id)
        self._dialog_id: str = dialog_id
        self._next_step: str | None = next_step
        self._if_match: str | None = if_match
        self._update_id: str | None = update_id
        self._user_id: str | None = user_id
        self._profile_id: str | None = profile_id
        self._body = body
        self._limits = limits


_KNOWN = frozenset(FIELDS)


def _faults_of_keys(fields: Mapping[str, Any]) -> list[Fault]:
    remedy = f"the parts are {', '.join(FIELDS)}"
    faults = [
        Fault(printable(name), "is not a part of an update", remedy)
        for name in fields
        if name not in _KNOWN
    ]
    if "dialog_id" not in fields:
        faults.append(Fault("dialog_id", "is missing", "every update names its dialog"))
    return faults


def _plain_text(text: str | None) -> str | None:
    return text if text is None else str.__str__(text)


def _faults_in(limits: Limits, context: str, variables: Any) -> list[Fault]:
    if variables is None:
        return []
    if isinstance(variables, Mapping):
        try:
            return limits.faults_in(context, variables)
        except Exception as error:
            return [_unreadable(context, error)]
    kind = type(variables).__name__
    return [TypeFault(context, f"is of type {kind}", "use a mapping from names to values")]


def _unreadable(path: str, error: Exception) -> Fault:
    # What an object of the caller's raises may name values, so only its kind is told.
    return Fault(path, f"reading it raised {type(error).__name__}", "pass plain dicts and lists")


def _refused(faults: list[Fault], dialog_id: object) -> UpdateValidationError:
    named = None
    if isinstance(dialog_id, str) and dialog_id.isprintable():
        named = dialog_id[:80] or None
    kind = VariableTypeError if isinstance(faults[0], TypeFault) else UpdateValidationError
    return kind(tuple(faults), dialog_id=named)


Row: TypeAlias = StateUpdate | Mapping[str, Any]
"""An update, or a mapping of its arguments."""


def parsed(row: Row, limits: Limits) -> StateUpdate:
    """A valid update from a row, or an `UpdateValidationError`."""
    if isinstance(row, StateUpdate):
        return row.with_limits(limits)
    return StateUpdate.from_fields(limits, _mapping(row))


def _mapping(row: Any) -> Mapping[str, Any]:
    if type(row) is dict:
        return row
    if isinstance(row, Mapping):
        try:
            return dict(row)
        except Exception as error:
            problem = f"reading it raised {type(error).__name__}"
            remedy = "pass a mapping that can be read"
            raise UpdateValidationError((Fault("update", problem, remedy),)) from error
    problem = f"is of type {type(row).__name__}"
    remedy = "pass a StateUpdate, or a mapping of its arguments"
    raise VariableTypeError((Fault("update", problem, remedy),))
