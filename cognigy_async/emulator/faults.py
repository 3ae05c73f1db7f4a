"""What goes wrong: probabilities (`Faults`), scripts, and which fault a request meets."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, get_args

Chance: TypeAlias = Literal[
    "throttle_tenant",
    "throttle_dialog",
    "token_expiry",
    "error_500",
    "error_502",
    "error_503",
    "error_504",
    "drop_before",
    "hang",
    "conflict",
    "competitor",
    "drop_after",
    "malformed",
]
"""Faults with a probability of their own, in the order in which they are drawn."""

Fault: TypeAlias = (
    Chance
    | Literal["error_500_applied", "error_502_applied", "error_504_applied", "hang_applied"]
    | int
)
"""What may happen to a request; a number answers with that status and applies nothing."""

Step: TypeAlias = Fault | Literal["ok", "token_failure"]
"""What a script may hold: also "ok" for no fault, and "token_failure" for the token endpoint."""

CHANCES: Final[tuple[Chance, ...]] = get_args(Chance)
WRITES_ONLY: Final = frozenset(("conflict", "competitor"))
NAMES: Final = frozenset(
    (
        *CHANCES,
        "error_500_applied",
        "error_502_applied",
        "error_504_applied",
        "hang_applied",
        "ok",
        "token_failure",
    )
)
PROBABILITIES: Final = frozenset(
    (*CHANCES, "error_applies", "token_failure", "brown_out", "brown_out_errors")
)
STATUSES: Final = range(300, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults on demand: probabilities for each request between 0 and 1, times in seconds.

    A request meets at most one of the faults that have a probability. They are drawn in the order
    of `Chance`; reads meet neither `conflict` nor `competitor`. Where PATCH is named, the POST of
    the sessions API is meant as well.

    Args:
        latency: how long each answer takes at least, half of it before the update is applied.
        latency_jitter: up to this much more, evenly distributed.
        error_500, error_502, error_503, error_504: answered so, and not applied.
        error_applies: the share of 500, 502 and 504 (not of 503) that are applied all the same.
        drop_before: the connection is closed without an answer; nothing is applied.
        drop_after: applied, then the connection is closed without an answer.
        competitor: somebody else writes the dialog just before a PATCH, so that `If-Match` fails.
            A PATCH without `If-Match` is applied.
        conflict: a PATCH is answered 409, with or without `If-Match`, and not applied.
        throttle_tenant, throttle_dialog: a pause of `throttle_seconds` begins; this request and
            those that come before its end are answered 429.
        throttle_seconds: length of such a pause.
        retry_after_503: what a 503 names in `Retry-After`; None sends none.
        token_latency: how long the token endpoint takes.
        token_failure: the token endpoint answers 500.
        token_expiry: the request is answered 401 and its token is valid no longer.
        malformed: applied and answered 200, with JSON that is cut off.
        hang: never answered.
        hang_applies: whether a request that is never answered is applied.
        brown_out: a brown-out begins: for `brown_out_seconds` the server is slow and fails now and
            then. The request that begins it is the first to meet it.
        brown_out_seconds: how long it lasts.
        brown_out_latency: how much longer each answer takes meanwhile.
        brown_out_errors: the share of requests that are answered 503 meanwhile.
        fail_status: every request to the API is answered with this status, from 300 to 599; None
            for no such outage.

    Raises:
        ValueError: a number out of its range; the message names the field.
    """

    latency: float = 0.0
    latency_jitter: float = 0.0
    error_500: float = 0.0
    error_502: float = 0.0
    error_503: float = 0.0
    error_504: float = 0.0
    error_applies: float = 0.0
    drop_before: float = 0.0
    drop_after: float = 0.0
    competitor: float = 0.0
    conflict: float = 0.0
    throttle_tenant: float = 0.0
    throttle_dialog: float = 0.0
    throttle_seconds: float = 1.0
    retry_after_503: float | None = None
    token_latency: float = 0.0
    token_failure: float = 0.0
    token_expiry: float = 0.0
    malformed: float = 0.0
    hang: float = 0.0
    hang_applies: bool = False
    brown_out: float = 0.0
    brown_out_seconds: float = 5.0
    brown_out_latency: float = 1.0
    brown_out_errors: float = 0.5
    fail_status: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            problem = _problem(field.name, value)
            if problem:
                raise ValueError(f"Faults({field.name}={value!r}): {problem}")

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """Faults from a mapping of their fields; what is not named takes its default.

        Raises:
            ValueError: an unknown field, or a value out of its range.
        """
        unknown = sorted(mapping.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"Faults has no field {', '.join(map(repr, unknown))}")
        return cls(**mapping)

    def as_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def _problem(name: str, value: object) -> str | None:
    if name == "hang_applies":
        return None if isinstance(value, bool) else "must be True or False"
    if name == "fail_status":
        fits = value is None or (type(value) is int and value in STATUSES)
        return None if fits else "must be a status from 300 to 599, or None"
    if name == "retry_after_503" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return "must be a number"
    if name in PROBABILITIES:
        return None if 0 <= value <= 1 else "must be a probability between 0 and 1"
    return None if 0 <= value < math.inf else "must be a number of seconds, not negative"


class FaultSource:
    """Decides which fault a request meets: first what a script says, else by the probabilities."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._seed = seed
        self._initial = faults
        self.reset()

    def reset(self) -> None:
        """As at the beginning: no scripts, the first faults, the seed's first number."""
        self._random = Random(self._seed)
        self._scripts: dict[tuple[str, str | None], deque[Step]] = {}
        self._brown_out_ends = -math.inf
        self.faults = self._initial

    @property
    def faults(self) -> Faults:
        """The probabilities in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        chances: list[tuple[Chance, float]] = [
            (name, getattr(faults, name)) for name in CHANCES if getattr(faults, name)
        ]
        self._chances: dict[str, list[tuple[Chance, float]]] = {
            "PATCH": chances,
            "GET": [(name, chance) for name, chance in chances if name not in WRITES_ONLY],
        }

    def script(self, steps: tuple[Step, ...], dialog_id: str | None, method: str) -> None:
        """Append steps to the queue of a dialog, or of all dialogs where it is None.

        Raises:
            ValueError: there is no such step or method.
        """
        if method not in self._chances:
            raise ValueError(f"script(method={method!r}): must be PATCH or GET")
        for step in steps:
            known = step in STATUSES if type(step) is int else step in NAMES
            if not known:
                names = ", ".join(sorted(NAMES))
                raise ValueError(f"no step {step!r}; there are {names}, and statuses 300 to 599")
        for step in steps:
            queue = ("POST", None) if step == "token_failure" else (method, dialog_id)
            self._scripts.setdefault(queue, deque()).append(step)

    def of(self, method: str, dialog_id: str, now: float) -> Fault | None:
        """The fault that the next request with this method to this dialog meets."""
        step = self._next(method, dialog_id) or self._next(method, None)
        if step is None:
            if self._browned_out(now) and self._hits(self._faults.brown_out_errors):
                return "error_503"
            return self._drawn(method)
        return None if step == "ok" or step == "token_failure" else step

    def of_token(self) -> bool:
        """Whether the next token request fails."""
        return self._next("POST", None) is not None or self._hits(self._faults.token_failure)

    def delay(self, now: float) -> float:
        """Seconds that the next answer takes."""
        faults = self._faults
        jitter = faults.latency_jitter
        seconds = faults.latency + self._random.uniform(0, jitter) if jitter else faults.latency
        return seconds + faults.brown_out_latency if now < self._brown_out_ends else seconds

    def _browned_out(self, now: float) -> bool:
        """Whether a brown-out lasts; it may begin now."""
        faults = self._faults
        if now >= self._brown_out_ends and self._hits(faults.brown_out):
            self._brown_out_ends = now + faults.brown_out_seconds
        return now < self._brown_out_ends

    def _next(self, method: str, dialog_id: str | None) -> Step | None:
        if not self._scripts:
            return None
        steps = self._scripts.get((method, dialog_id))
        if steps is None:
            return None
        step = steps.popleft()
        if not steps:
            del self._scripts[method, dialog_id]
        return step

    def _drawn(self, method: str) -> Fault | None:
        for name, chance in self._chances[method]:
            if self._hits(chance):
                return self._variant(name)
        return None

    def _variant(self, name: Chance) -> Fault:
        if name == "hang":
            return "hang_applied" if self._faults.hang_applies else "hang"
        if name in ("error_500", "error_502", "error_504") and self._hits(
            self._faults.error_applies
        ):
            return f"{name}_applied"  # type: ignore[return-value]
        return name

    def _hits(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance
