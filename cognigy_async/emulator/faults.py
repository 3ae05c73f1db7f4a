"""Fault injection: probabilities (`Faults`), scripts, and the fault that a request meets."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any, Final, Literal, Self, TypeAlias, get_args

RandomFault: TypeAlias = Literal[
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

AppliedFault: TypeAlias = Literal[
    "error_500_applied", "error_502_applied", "error_504_applied", "hang_applied"
]

Fault: TypeAlias = RandomFault | AppliedFault | int
"""A fault that a request may meet; an integer is a status to answer without applying anything."""

Step: TypeAlias = Fault | Literal["ok", "token_failure"]
"""A step of a script: a fault, "ok" for none, or "token_failure" for the token endpoint."""

RANDOM_FAULTS: Final[tuple[RandomFault, ...]] = get_args(RandomFault)
APPLIED: Final[Mapping[RandomFault, AppliedFault]] = {
    "error_500": "error_500_applied",
    "error_502": "error_502_applied",
    "error_504": "error_504_applied",
    "hang": "hang_applied",
}
WRITES_ONLY: Final = frozenset(("conflict", "competitor"))
STEPS: Final = frozenset((*RANDOM_FAULTS, *APPLIED.values(), "ok", "token_failure"))
PROBABILITIES: Final = frozenset(
    (*RANDOM_FAULTS, "error_applies", "token_failure", "brown_out", "brown_out_errors")
)
STATUSES: Final = range(300, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities of faults, from 0 to 1 for each request, and times in seconds.

    A request meets at most one of the faults with a probability, drawn in the order of
    `RandomFault`. Reads meet neither `conflict` nor `competitor`. A PATCH stands for the POST of
    the sessions API as well. `Emulator.script` describes the bodies of the responses.

    Args:
        latency: Minimum time to a response. The emulator applies the update after half of the time.
        latency_jitter: Maximum of the additional latency, which is uniformly distributed.
        error_500, error_502, error_503, error_504: The emulator answers with the status and applies
            nothing.
        error_applies: Share of the requests with a 500, 502 or 504 (not 503) that the emulator
            applies nevertheless.
        drop_before: The connection is closed without a response; nothing is applied.
        drop_after: The request is applied, then the connection is closed without a response.
        competitor: Another client writes the dialog just before a PATCH, so that its `If-Match`
            fails. A PATCH without `If-Match` is applied.
        conflict: The emulator answers 409 to a PATCH, with or without `If-Match`, and does not
            apply it.
        throttle_tenant, throttle_dialog: A pause of `throttle_seconds` begins. The emulator answers
            429 to this request and to all requests until the end of the pause.
        throttle_seconds: Length of a pause.
        retry_after_503: `Retry-After` of a 503; None omits the header.
        token_latency: Time that the token endpoint takes.
        token_failure: The token endpoint answers 500.
        token_expiry: The request is answered 401 and its token is revoked.
        malformed: The request is applied and answered 200, with truncated JSON.
        hang: The request is never answered.
        hang_applies: True applies the requests that are never answered.
        brown_out: A brown-out begins with this request: for `brown_out_seconds` the server is slow
            and some requests fail.
        brown_out_seconds: Length of a brown-out.
        brown_out_latency: Additional latency during a brown-out.
        brown_out_errors: Share of requests that are answered 503 during a brown-out.
        fail_status: Status from 300 to 599 that answers every API request; None for no outage.

    Raises:
        ValueError: A field has an invalid value.
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
            problem = _find_problem(field.name, value)
            if problem:
                raise ValueError(f"Faults({field.name}={value!r}): {problem}")

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Self:
        """Return faults from a mapping of fields; missing ones get their default.

        Raises:
            ValueError: A field is unknown or has an invalid value.
        """
        unknown = sorted(mapping.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"Faults has no field {', '.join(map(repr, unknown))}")
        return cls(**mapping)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)


def _remedy(step: object) -> str:
    if isinstance(step, str) and step.isdecimal() and int(step) in STATUSES:
        return f"the number {int(step)}, without quotes"
    return f"{', '.join(sorted(STEPS))}, or a status from 300 to 599 as a number"


def _find_problem(name: str, value: object) -> str | None:
    if name == "hang_applies":
        return None if isinstance(value, bool) else "must be True or False"
    if name == "fail_status":
        valid = value is None or (type(value) is int and value in STATUSES)
        return None if valid else "must be a status from 300 to 599, or None"
    if name == "retry_after_503" and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return "must be a number"
    if name in PROBABILITIES:
        return None if 0 <= value <= 1 else "must be a probability between 0 and 1"
    return None if 0 <= value < math.inf else "must be a number of seconds, not negative"


class FaultInjector:
    """Decide which fault a request meets: by its script, or else by the probabilities."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._seed = seed
        self._initial = faults
        self.reset()

    def reset(self) -> None:
        """Restore the initial faults and the random seed, and forget all scripts."""
        self._random = Random(self._seed)
        self._scripts: dict[tuple[str, str | None], deque[Step]] = {}
        self._brown_out_ends = -math.inf
        self.faults = self._initial

    @property
    def faults(self) -> Faults:
        """The faults in force."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        drawn: list[tuple[RandomFault, float]] = [
            (name, getattr(faults, name)) for name in RANDOM_FAULTS if getattr(faults, name)
        ]
        self._drawn = {
            "PATCH": drawn,
            "GET": [(name, probability) for name, probability in drawn if name not in WRITES_ONLY],
        }

    def script(self, steps: tuple[Step, ...], dialog_id: str | None, method: str) -> None:
        """Append steps to the script of a dialog, or of all dialogs if it is None.

        Raises:
            ValueError: A step or the method does not exist; no step is appended.
        """
        if method not in self._drawn:
            raise ValueError(f"script(method={method!r}): must be PATCH or GET")
        for step in steps:
            known = step in STATUSES if type(step) is int else step in STEPS
            if not known:
                raise ValueError(f"no step {step!r}; use {_remedy(step)}")
        for step in steps:
            queue = ("POST", None) if step == "token_failure" else (method, dialog_id)
            self._scripts.setdefault(queue, deque()).append(step)

    def untaken_steps(self) -> dict[tuple[str, str | None], tuple[Step, ...]]:
        """Return the steps that no request has taken, by method and dialog."""
        return {queue: tuple(steps) for queue, steps in self._scripts.items()}

    def next_fault(self, method: str, dialog_id: str, now: float) -> Fault | None:
        """Return the fault that the next request with this method to this dialog meets."""
        step = self._next_step(method, dialog_id) or self._next_step(method, None)
        if step is not None:
            return None if step == "ok" or step == "token_failure" else step
        faults = self._faults
        if now >= self._brown_out_ends and self._hits(faults.brown_out):
            self._brown_out_ends = now + faults.brown_out_seconds
        if now < self._brown_out_ends and self._hits(faults.brown_out_errors):
            return "error_503"
        for name, probability in self._drawn[method]:
            if self._hits(probability):
                return APPLIED[name] if name in APPLIED and self._applies(name) else name
        return None

    def next_token_request_fails(self) -> bool:
        """Return whether the next token request fails."""
        return self._next_step("POST", None) is not None or self._hits(self._faults.token_failure)

    def delay(self, now: float) -> float:
        """Return the latency of the next response in seconds."""
        faults = self._faults
        jitter = faults.latency_jitter
        seconds = faults.latency + self._random.uniform(0, jitter) if jitter else faults.latency
        return seconds + faults.brown_out_latency if now < self._brown_out_ends else seconds

    def _next_step(self, method: str, dialog_id: str | None) -> Step | None:
        steps = self._scripts.get((method, dialog_id)) if self._scripts else None
        if steps is None:
            return None
        step = steps.popleft()
        if not steps:
            del self._scripts[method, dialog_id]
        return step

    def _applies(self, name: RandomFault) -> bool:
        if name == "hang":
            return self._faults.hang_applies
        return self._hits(self._faults.error_applies)

    def _hits(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability
