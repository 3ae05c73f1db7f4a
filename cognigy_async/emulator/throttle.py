"""Throttling of the tenant and of single dialogs, and who comes back earlier than told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal, TypeAlias

from .expiring import Expiring

RetryAfter: TypeAlias = Literal["seconds", "decimal", "date", "none"]
QuotaHeaders: TypeAlias = Literal["none", "ietf", "ietf-early", "x"]
Quota: TypeAlias = tuple[int, float]
Subject: TypeAlias = tuple[Literal["tenant", "address", "dialog", "update"], str | None]
"""Whom something is for: the tenant, a calling address, a dialog, an update by its key."""

TENANT: Subject = ("tenant", None)

TIMER_GRACE = 1e-6
"""Event loops may fire a timer a clock tick early."""
DATE_GRACE = 0.5
"""A date is of the wall clock, which is not the clock that the client waits by."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What an answer asks for: no request to `subject` before `moment` (None: it names none)."""

    subject: Subject
    moment: float | None
    headers: tuple[tuple[bytes, bytes], ...]


class Throttle:
    """Quotas in fixed windows, pauses that were begun on purpose, and the notices given.

    A window begins with the first request after the last one's end and counts each request.

    Args:
        tenant_quota, dialog_quota: (requests, seconds), for all dialogs together and for each.
        address_quota: the same for each calling address.
        quota_headers: which headers tell how the quota stands: that of the address where there is
            one, else that of the tenant.
        style: how `Retry-After` is written.
        notice: seconds after an answer in which requests may still be on their way, sent before
            the client could know; they do not count as early.
        wall_clock: seconds since the epoch, for dates.
    """

    def __init__(
        self,
        tenant_quota: Quota | None,
        dialog_quota: Quota | None,
        style: RetryAfter,
        notice: float,
        wall_clock: Callable[[], float],
        *,
        address_quota: Quota | None = None,
        quota_headers: QuotaHeaders = "none",
    ) -> None:
        for name, quota in (
            ("tenant_quota", tenant_quota),
            ("dialog_quota", dialog_quota),
            ("address_quota", address_quota),
        ):
            if quota is not None and not (quota[0] >= 1 and 0 < quota[1] < math.inf):
                raise ValueError(f"{name}={quota!r}: must be (requests, seconds), both positive")
        self._quotas = {"address": address_quota, "tenant": tenant_quota, "dialog": dialog_quota}
        self._quota_headers: QuotaHeaders = quota_headers
        self._style: RetryAfter = style
        self._notice = notice
        self._wall_clock = wall_clock
        self.reset()

    def reset(self) -> None:
        """No window begun, no pause, nothing told."""
        self._windows = Expiring[Subject, tuple[float, int]](_window_is_over)
        self._pauses: dict[Subject, float] = {}
        self._told = Expiring[Subject, list[tuple[float, float]]](_all_are_over)

    def admit(self, dialog_id: str, now: float, address: str | None = None) -> Notice | None:
        """Count a request; a notice where it is refused."""
        dialog: Subject = ("dialog", dialog_id)
        for subject in (TENANT, dialog) if self._pauses else ():
            if now < (end := self._pauses.get(subject, -math.inf)):
                return self._refusal(subject, end - now, now)
            self._pauses.pop(subject, None)
        for subject in (("address", address), TENANT, dialog):
            if (wait := self._counted(subject, now)) is not None:
                return self._refusal(subject, wait, now)
        return None

    def headers(self, address: str | None, now: float) -> tuple[tuple[bytes, bytes], ...]:
        """How the quota stands after a request, as headers of its answer."""
        subject: Subject = ("address", address) if self._quotas["address"] else TENANT
        quota = self._quotas[subject[0]]
        if quota is None or self._quota_headers == "none":
            return ()
        most, seconds = quota
        end, count = self._windows.get(subject, (now + seconds, 0))
        left = most - count if end > now else most
        # The end of a window less its beginning may be a little more than its length.
        reset = math.ceil(end - now - 1e-6) if end > now else math.ceil(seconds)
        if self._quota_headers == "ietf":
            return (
                (b"ratelimit-policy", b'"default";q=%d;w=%d' % (most, math.ceil(seconds))),
                (b"ratelimit", b'"default";r=%d;t=%d' % (left, reset)),
            )
        prefix = b"x-" if self._quota_headers == "x" else b""
        numbers = ((b"limit", most), (b"remaining", left), (b"reset", reset))
        return tuple((prefix + b"ratelimit-" + name, b"%d" % number) for name, number in numbers)

    def pause(self, dialog_id: str | None, seconds: float, now: float) -> Notice:
        """Refuse every request to the dialog (None: to all) for so long."""
        subject: Subject = TENANT if dialog_id is None else ("dialog", dialog_id)
        self._pauses[subject] = now + seconds
        return self._refusal(subject, seconds, now)

    def repeat_after(self, key: str | None, seconds: float, now: float) -> Notice:
        """Ask for a single update not to be repeated before so long."""
        headers, moment = self._written(seconds, now)
        return Notice(("update", key), moment, headers)

    def tell(self, notice: Notice, now: float) -> None:
        """The answer with this notice is on its way."""
        moment = notice.moment
        if moment is None or notice.subject == ("update", None):
            return
        told = [entry for entry in self._told.get(notice.subject, ()) if entry[1] > now]
        if not any(end >= moment for _, end in told):
            told.append((now + self._notice, moment))
        self._told.put(notice.subject, told, now)

    def is_early(self, dialog_id: str, now: float, address: str | None = None) -> bool:
        """Whether a request comes before the moment named for its tenant, address or dialog."""
        subjects: tuple[Subject, ...] = (TENANT, ("address", address), ("dialog", dialog_id))
        return bool(self._told) and any(self._is_early(subject, now) for subject in subjects)

    def repeats_early(self, key: str | None, now: float) -> bool:
        """Whether an update is repeated before the moment named for it."""
        return bool(self._told) and self._is_early(("update", key), now)

    def _is_early(self, subject: Subject, now: float) -> bool:
        return any(known < now < end for known, end in self._told.get(subject, ()))

    def _counted(self, subject: Subject, now: float) -> float | None:
        """Count a request in a window; seconds to the end of it where it does not fit."""
        quota = self._quotas[subject[0]]
        if quota is None:
            return None
        most, seconds = quota
        end, count = self._windows.get(subject, (now, 0))
        if now >= end:
            end, count = now + seconds, 0
        if count >= most:
            return end - now
        self._windows.put(subject, (end, count + 1), now)
        return None

    def _refusal(self, subject: Subject, seconds: float, now: float) -> Notice:
        headers, moment = self._written(seconds, now)
        if subject[0] != "address":
            headers += ((b"x-ratelimit-scope", subject[0].encode()),)
        return Notice(subject, moment, headers)

    def _written(
        self, seconds: float, now: float
    ) -> tuple[tuple[tuple[bytes, bytes], ...], float | None]:
        """`Retry-After` in the style chosen, rounded up, and the moment that it thereby names."""
        if self._style == "none":
            return (), None
        if self._style == "date":
            wall = self._wall_clock()
            date = math.ceil(wall + seconds)
            told = formatdate(date, usegmt=True).encode()
            today = formatdate(math.floor(wall), usegmt=True).encode()
            return ((b"retry-after", told), (b"date", today)), now + date - wall - DATE_GRACE
        if self._style == "seconds":
            whole = math.ceil(seconds)
            return ((b"retry-after", b"%d" % whole),), now + whole - TIMER_GRACE
        thousandths = math.ceil(seconds * 1000)
        text = f"{thousandths / 1000:.3f}".encode()
        return ((b"retry-after", text),), now + thousandths / 1000 - TIMER_GRACE


def _window_is_over(window: tuple[float, int], now: float) -> bool:
    return window[0] <= now


def _all_are_over(told: list[tuple[float, float]], now: float) -> bool:
    return all(end <= now for _, end in told)
