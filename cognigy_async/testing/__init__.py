"""Deterministic simulation: a client under faults, in virtual time, checked by an oracle.

    python -m cognigy_async.testing 42

One seed is one exact run on asyncio. On trio the same scenario runs, and tasks take turns by
chance.
"""

from __future__ import annotations

from .facts import Breach
from .oracle import check
from .schedule import Schedule
from .simulation import Report, Violation, simulate

__all__ = ["Breach", "Report", "Schedule", "Violation", "check", "simulate"]
