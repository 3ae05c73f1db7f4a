"""The report of a benchmark: an introduction, a table of results, and JSON."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .._options import format_rate
from .runner import BenchOptions, Row, format_per_second, format_retries

BUSY = 0.9
"""Share of a core. Below it, the CPU does not limit the client."""
HEADINGS = "in flight,updates/s,lowest,highest,CPU us,p50 ms,p95 ms,p99 ms,memory MB"


def intro(options: BenchOptions) -> Iterator[str]:
    """Yield lines that describe the benchmark before it starts."""
    load, cores = options.load, options.cores
    if options.target == "tenant":
        yield f"Target: {options.client_arguments['base_url']}."
    else:
        where = f"core {cores.server}, client on core {cores.client}" if cores else "shared cores"
        yield f"Target: emulator on {where}. Use --target tenant for the server of your settings."
    length = f"{load.seconds:g} s" if load.count is None else _counted(load.count, "update")
    rate = format_rate(options.client_arguments["rate_limit"])
    yield (
        f"Load: {options.mode} over {options.transport} on {options.loop}, bodies of "
        f"{load.payload_bytes:,} bytes, {_counted(len(load.dialogs), 'dialog')}, "
        f"{_counted(options.rounds, 'round')} of {length}, each after a warm-up"
        f"{f', rate limit {rate}' if rate else ''}."
    )
    if (most := max(options.levels)) > len(load.dialogs):
        yield (
            f"At most {len(load.dialogs):,} of {most:,} requests will be in flight, because a "
            "dialog has one request at a time. Use more --dialogs."
        )


def result_lines(options: BenchOptions, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table, followed by remarks on its rows and on the machine."""
    cells = [HEADINGS.split(","), *(list(_cells(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    for row in rows:
        yield from (f"{row['in_flight']} in flight: {remark}" for remark in _remarks(row))
    versions, machine = _environment(options).values()
    yield ", ".join(f"{name} {number}" for name, number in versions.items())
    yield f"{machine['system']}, {machine['cores']} cores, load {machine['load']}"
    idle = any(row["cpu_share"] < BUSY and not row["quota_utilisation"] for row in rows)
    if options.target == "emulator" and idle:
        yield (
            "The emulator or other load on this machine was the bottleneck, not the client. "
            "Compare the CPU time of an update instead."
        )


def as_json(options: BenchOptions, rows: Sequence[Row], interrupted: bool) -> dict[str, Any]:
    """Return the options, the machine and the rows."""
    load, cores = options.load, options.cores
    return {
        "target": options.target,
        "base_url": options.client_arguments["base_url"],
        "mode": options.mode,
        "transport": options.transport,
        "loop": options.loop,
        "dialogs": len(load.dialogs),
        "payload_bytes": load.payload_bytes,
        "count": load.count,
        "seconds": load.seconds,
        "rounds": options.rounds,
        "rate": format_rate(options.client_arguments["rate_limit"]),
        "cores": cores and cores._asdict(),
        "interrupted": interrupted,
        **_environment(options),
        "rows": rows,
    }


def _cells(row: Row) -> Iterator[str]:
    yield f"{row['in_flight']:,}"
    for name in ("per_second", "per_second_lowest", "per_second_highest"):
        yield format_per_second(row[name])
    yield f"{row['cpu_us']:,.1f}"
    yield from (f"{1000 * row['latency'][name]:,.2f}" for name in ("p50", "p95", "p99"))
    yield "-" if row["memory_growth"] is None else f"{row['memory_growth'] / 1e6:+.1f}"


def _remarks(row: Row) -> Iterator[str]:
    if row["retries"]:
        yield format_retries(row["retries_by_reason"])
    if row["quota_utilisation"] is not None:
        yield f"{row['quota_utilisation']:.1%} of the quota was used"
    if error := row["first_error"]:
        yield (
            f"{row['succeeded']:,} applied, {row['failed']:,} failed, {row['ambiguous']:,} "
            f"ambiguous; first error: {error['type']}: {error['message']}"
        )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _environment(options: BenchOptions) -> dict[str, dict[str, Any]]:
    versions = {"python": platform.python_version()}
    for package in ("cognigy-async", "anyio", "pydantic", options.transport, options.loop):
        with suppress(PackageNotFoundError):
            if package not in sys.stdlib_module_names:
                versions[str(package)] = version(package)
    machine = {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    return {"versions": versions, "machine": machine}
