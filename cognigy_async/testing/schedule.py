"""The schedule of one run: settings, calls and faults, all from one seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

Program: TypeAlias = Literal["client", "outbox", "job", "own"]
"""A client with callbacks, one with an outbox, a job with its journal, or a function of a user."""

FAULTS: Mapping[str, float] = {
    "refused": 0.02,
    "dropped before": 0.02,
    "dropped after": 0.03,
    "late": 0.015,
    "429": 0.015,
    "429 retry-after": 0.015,
    "429 dialog": 0.02,
    "503": 0.02,
    "503 retry-after": 0.01,
    "500": 0.015,
    "500 applied": 0.015,
    "409": 0.02,
    "competitor": 0.05,
    "revoked": 0.02,
}
"""Probability of each fault of one request, at full strength."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a schedule: `at` seconds after the start, cancelled after `patience` seconds.

    Attributes:
        moves: True if the update makes a transition.
    """

    number: int
    at: float
    kind: str
    dialog_id: str
    patience: float | None
    moves: bool

    def __str__(self) -> str:
        text = f"{self.at:10.3f}  call {self.number}: {self.kind} {self.dialog_id}"
        text += f" with next_step=s{self.number}" if self.moves else ""
        patience = self.patience if self.kind != "submit" else None
        return text + ("" if patience is None else f", cancelled after {patience:.3f} s")


@dataclass(frozen=True)
class Schedule:
    """The plan of one run.

    Attributes:
        steps: the calls; empty if a program of the user makes them.
        strength: factor for the probabilities of `FAULTS`; 0 for none.
        quiet: faults that do not happen; shrinking adds to it.
        rate: requests and seconds of the client's rate limit.
        lifetime: seconds for which a token is valid.
        token_failures: probability that the token endpoint fails.
        hook_failures: probability that one call of a callback or of a target fails.
        honours_keys: True if the server applies an idempotency key once.
        timeout: seconds of one request.
        hook_queue: `max_queue` of the callback.
        program: what runs.
        crashes: crossings of each life of the process at which it crashes; see `durable`.
        target_down_until: virtual seconds until which the targets of the outbox fail.
        wall_clock_jump: virtual second at which the clock of the machine jumps, and by how much.
    """

    seed: int
    steps: tuple[Step, ...]
    strength: float
    quiet: frozenset[str] = field(default_factory=frozenset)
    max_in_flight: int = 4
    rate: tuple[int, float] | None = None
    coalesce: bool = False
    lifetime: float = 3600.0
    token_failures: float = 0.0
    hook_failures: float = 0.0
    honours_keys: bool = False
    timeout: float = 5.0
    hook_queue: int = 10_000
    program: Program = "client"
    crashes: tuple[int, ...] = ()
    target_down_until: float = 0.0
    wall_clock_jump: tuple[float, float] = (0.0, 0.0)

    @property
    def has_program(self) -> bool:
        """True if a function of a user makes the calls."""
        return self.program == "own"

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Return the schedule of a seed."""
        rng = random.Random(f"schedule {seed}")
        dialogs = rng.choice((1, 2, 4, 8))
        weights = rng.choice(((6, 4, 3, 3, 1, 2), (2, 1, 12, 1, 1, 1), (4, 4, 1, 1, 4, 4)))
        steps: list[Step] = []
        at = 0.0
        for number in range(rng.choice((8, 16, 30, 50))):
            # Bursts, and now and then a pause in which tokens expire.
            at += 0.0 if rng.random() < 0.5 else rng.expovariate(2.0)
            if rng.random() < 0.04:
                at += rng.uniform(10, 60)
            hot = rng.random() < 0.4
            dialog_id = f"d-{0 if hot else rng.randrange(dialogs)}"
            kind = rng.choices(("update", "submit", "bulk", "modify", "strict", "read"), weights)[0]
            patience = rng.choice((rng.expovariate(0.7), rng.uniform(0.01, 0.2)))
            steps.append(
                Step(
                    number,
                    at,
                    kind,
                    dialog_id,
                    patience if rng.random() < 0.25 else None,
                    rng.random() < 0.25,
                )
            )
        schedule = cls(
            seed=seed,
            steps=tuple(steps),
            strength=rng.choice((0.0, 0.5, 1.0, 2.0)),
            max_in_flight=rng.choice((1, 2, 4, 32)),
            rate=rng.choice((None, None, None, (5, 2.0), (20, 10.0))),
            coalesce=rng.random() < 0.3,
            lifetime=rng.choice((3600.0, 20.0, 6.0)),
            token_failures=rng.choice((0.0, 0.5)),
            hook_failures=rng.choice((0.0, 0.2)),
            honours_keys=rng.random() < 0.2,
            hook_queue=rng.choice((2, 10_000, 10_000)),
        )
        # Some runs look at one thing: quota, callback slots and other faults would hide it.
        emphasis = rng.choice(("", "", "tokens", "tenant"))
        if emphasis:
            schedule = replace(schedule, rate=None, hook_queue=10_000, max_in_flight=4)
        if emphasis == "tokens":
            quiet = frozenset(FAULTS) - {"revoked", "dropped after", "competitor"}
            schedule = replace(schedule, quiet=quiet, token_failures=0.7, lifetime=8.0)
        elif emphasis == "tenant":
            schedule = replace(schedule, strength=3.0, quiet=frozenset({"429", "429 retry-after"}))
        return schedule if emphasis else schedule._durable()

    @classmethod
    def of_own_program(cls, seed: int) -> Schedule:
        """Return the settings and faults of a seed for a function of a user."""
        return replace(cls.of(seed), program="own", steps=(), crashes=(), hook_queue=10_000)

    def _durable(self) -> Schedule:
        """Return the schedule with the program of its seed; some outlive crashes."""
        rng = random.Random(f"program {self.seed}")
        programs: tuple[Program, ...] = ("client", "outbox", "job")
        program = rng.choices(programs, (3, 2, 1))[0]
        if program == "client":
            return self
        crossings = rng.choice((30, 300, 1500))
        crashes = tuple(rng.randrange(1, crossings) for _ in range(rng.choice((1, 1, 2, 3))))
        steps, max_in_flight = self.steps, self.max_in_flight
        if rng.random() < 0.6:
            # Callers who give up while their update waits for the only request.
            max_in_flight = 1
            steps = tuple(
                replace(step, patience=rng.choice((None, rng.uniform(0.0, 0.3)))) for step in steps
            )
        return replace(
            self,
            steps=steps,
            max_in_flight=max_in_flight,
            program=program,
            crashes=crashes,
            strength=min(self.strength, 1.0),
            # What one process knows of a quota and of tokens ends with it.
            rate=None,
            token_failures=0.0,
            target_down_until=rng.choice((0.0, 0.0, 0.0, 600.0, 3600.0)),
            wall_clock_jump=(rng.uniform(0, 20), rng.choice((0.0, 0.0, -86400.0, 3600.0, 86400.0))),
        )

    def fault(self, dialog_id: str, ordinal: int, *, is_read: bool) -> str:
        """Return the fault of a dialog's request by its number, or an empty string."""
        strength = self.strength * (1.5 if is_read else 1.0)
        rng = random.Random(f"fault {self.seed} {dialog_id} {ordinal}")
        drawn = rng.random()
        for name, probability in FAULTS.items():
            drawn -= probability * strength
            if drawn < 0:
                return "" if name in self.quiet else name
        return ""

    def latency(self, dialog_id: str, ordinal: int) -> float:
        """Return the seconds of one way of a request; the tail is heavy."""
        rng = random.Random(f"latency {self.seed} {dialog_id} {ordinal}")
        return min(1.5, 0.02 * rng.paretovariate(1.3))

    def describe(self) -> str:
        """Return the settings in one line."""
        rate = "no rate limit" if self.rate is None else f"{self.rate[0]} in {self.rate[1]:g} s"
        return (
            f"max_in_flight {self.max_in_flight}, {rate}, coalesce {self.coalesce}, "
            f"tokens for {self.lifetime:g} s, timeout {self.timeout:g} s, "
            f"honours_idempotency_keys {self.honours_keys}"
        )

    def without(self, *, steps: frozenset[int] = frozenset(), fault: str | None = None) -> Schedule:
        """Return a smaller schedule: without some calls, or without one kind of fault."""
        kept = tuple(step for step in self.steps if step.number not in steps)
        quiet = self.quiet if fault is None else self.quiet | {fault}
        return replace(self, steps=kept, quiet=quiet)

    def with_crashes(self, crashes: tuple[int, ...]) -> Schedule:
        """Return the schedule with other crashes."""
        return replace(self, crashes=crashes)
