"""What the numbers of a benchmark depend on: where it wrote to, with what, and on which machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ._options import LoopName, format_rate
from .bench_machine import Cores, machine, versions
from .bench_report import Row
from .bench_run import Bench
from .bench_target import Target

PACKAGES = ("cognigy-async", "anyio", "pydantic")
BUSY = 0.9
"""Of a core: a client that uses less has to wait for others."""


@dataclass(frozen=True)
class Setting:
    """Everything but what was measured."""

    target: Target
    running: Bench
    loop: LoopName
    cores: Cores | None

    def lines(self) -> Iterator[str]:
        """What is told before it begins."""
        running, load, cores = self.running, self.running.load, self.cores
        if self.target is Target.TENANT:
            yield f"To {running.arguments['base_url']}."
        else:
            where = (
                f"on core {cores.server}, this client on core {cores.client}"
                if cores
                else "which shares the cores with this client, so that each may slow the other"
            )
            yield (
                f"To an emulator in a process of its own, {where}. --target tenant writes to the "
                "server of your settings."
            )
        length = f"{load.seconds:g} s" if load.count is None else _counted(load.count, "update")
        rounds = _counted(running.rounds, "round")
        rate = format_rate(running.arguments["rate_limit"])
        yield (
            f"By {load.mode.value} over {running.transport.value} on {self.loop.value}: bodies of "
            f"{load.payload_bytes:,} bytes, {_counted(len(load.dialogs), 'dialog')}, {rounds} "
            f"of {length}, each after a warm-up{f', quota {rate}' if rate else ''}."
        )
        if (most := max(running.levels)) > len(load.dialogs):
            yield (
                f"Of {most:,} in flight no more than {len(load.dialogs):,} will be: each dialog "
                "has one request at a time. More --dialogs allow more."
            )

    def remarks(self, rows: Sequence[Row]) -> Iterator[str]:
        """What is told after the table."""
        if not rows:
            return
        told = machine()
        yield ", ".join(f"{name} {version}" for name, version in self._versions().items())
        yield f"{told['system']}, {told['cores']} cores, load {told['load']}"
        if self.target is Target.EMULATOR and any(
            row.busy < BUSY and not row.quota for row in rows
        ):
            yield (
                "The client did not use its core all the time: the emulator, or what else this "
                "machine does, sets the rate. What an update costs the client is its CPU time."
            )

    def record(self) -> dict[str, Any]:
        """As JSON."""
        running, load, cores = self.running, self.running.load, self.cores
        return {
            "target": self.target.value,
            "base_url": running.arguments["base_url"],
            "mode": load.mode.value,
            "transport": running.transport.value,
            "loop": self.loop.value,
            "dialogs": len(load.dialogs),
            "payload_bytes": load.payload_bytes,
            "count": load.count,
            "seconds": None if load.count is not None else load.seconds,
            "rounds": running.rounds,
            "rate": format_rate(running.arguments["rate_limit"]),
            "cores": None if cores is None else {"server": cores.server, "client": cores.client},
            "interrupted": running.interrupted,
            "versions": self._versions(),
            "machine": machine(),
        }

    def _versions(self) -> dict[str, str]:
        chosen = (self.running.transport.value, self.loop.value)
        return versions(
            *PACKAGES, *(name for name in chosen if name not in sys.stdlib_module_names)
        )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
