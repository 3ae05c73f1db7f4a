"""Throttling of the tenant, of addresses and of dialogs, and detection of early requests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Literal, TypeAlias

from cognigy_async._utils.purging import ExpiringDict

from .rules import Throttling

Header: TypeAlias = tuple[bytes, bytes]
Subject: TypeAlias = tuple[Literal["tenant", "address", "dialog", "update"], str | None]
"""The tenant, a calling address, a dialog, or an update by its key."""

TENANT: Subject = ("tenant", None)

TIMER_GRACE = 1e-6
"""Seconds. An event loop may fire a timer one clock tick too early."""
DATE_GRACE = 0.5
"""Seconds. A date uses the wall clock, but the client waits by another clock."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A ban on requests to `subject` before `moment` (None if no time is named)."""

    subject: Subject
    moment: float | None
    headers: tuple[Header, ...]


class Throttle:
    """Quota windows, injected pauses, and the notices sent to clients."""

    def __init__(self, config: Throttling) -> None:
        self._config = config
        self._quotas = {
            "address": config.address_quota,
            "tenant": config.tenant_quota,
            "dialog": config.dialog_quota,
        }
        self.reset()

    def reset(self) -> None:
        """Forget all windows, pauses and notices."""
        self._windows = ExpiringDict[Subject, tuple[float, int]](_window_is_over)
        self._pauses: dict[Subject, float] = {}
        self._notices = ExpiringDict[Subject, list[tuple[float, float]]](_notices_are_over)

    def admit(self, dialog_id: str, now: float, address: str | None = None) -> Notice | None:
        """Count a request; return a notice if it is refused."""
        subjects: tuple[Subject, ...] = (("address", address), TENANT, ("dialog", dialog_id))
        for subject in subjects if self._pauses else ():
            if now < (end := self._pauses.get(subject, -math.inf)):
                return self._refuse(subject, end - now, now)
            self._pauses.pop(subject, None)
        for subject in subjects:
            if (wait := self._count(subject, now)) is not None:
                notice = self._refuse(subject, wait, now)
                if notice.moment is None and subject == self._announced(address):
                    # The quota headers name the moment.
                    return replace(notice, moment=now + math.ceil(wait - 1e-6) - TIMER_GRACE)
                return notice
        return None

    def _announced(self, address: str | None) -> Subject | None:
        """Return the subject whose quota the headers announce."""
        if self._config.quota_headers == "none":
            return None
        return ("address", address) if self._quotas["address"] else TENANT

    def quota_headers(self, address: str | None, now: float) -> tuple[Header, ...]:
        """Return the headers that announce the quota of the address, or else of the tenant."""
        subject = self._announced(address)
        if subject is None:
            return ()
        quota, style = self._quotas[subject[0]], self._config.quota_headers
        if quota is None:
            return ()
        most, seconds = quota
        end, count = self._windows.get(subject, (now, 0))
        if end <= now:
            end, count = now + seconds, 0
        # `(now + seconds) - now` may exceed `seconds` by a rounding error.
        left, reset = most - count, math.ceil(end - now - 1e-6)
        if style == "ietf":
            return (
                (b"ratelimit-policy", b'"default";q=%d;w=%d' % (most, math.ceil(seconds))),
                (b"ratelimit", b'"default";r=%d;t=%d' % (left, reset)),
            )
        prefix = b"x-ratelimit-" if style == "x" else b"ratelimit-"
        numbers = ((b"limit", most), (b"remaining", left), (b"reset", reset))
        return tuple((prefix + name, b"%d" % number) for name, number in numbers)

    def date_headers(self, notice: Notice | None) -> tuple[Header, ...]:
        """Return the `Date` of a response, unless it has none or the notice has it."""
        if not self._config.dates or (notice is not None and self._config.retry_after == "date"):
            return ()
        return ((b"date", _date(self._config.wall_clock())),)

    def pause(self, dialog_id: str | None, seconds: float, now: float) -> Notice:
        """Refuse all requests to a dialog (None: to the tenant) for some seconds."""
        subject: Subject = TENANT if dialog_id is None else ("dialog", dialog_id)
        self._pauses[subject] = now + seconds
        return self._refuse(subject, seconds, now)

    def delay_repeat(self, key: str | None, seconds: float, now: float) -> Notice:
        """Return a notice that the update with this key must not be repeated for some seconds."""
        return Notice(("update", key), *self._retry_after(seconds, now))

    def record(self, notice: Notice, now: float) -> None:
        """Record that the response with this notice is sent."""
        moment = notice.moment
        if moment is None or notice.subject == ("update", None):
            return
        sent = [each for each in self._notices.get(notice.subject, ()) if each[1] > now]
        if not any(end >= moment for _, end in sent):
            sent.append((now + self._config.notice, moment))
        self._notices.put(notice.subject, sent, now)

    def is_early(self, dialog_id: str, now: float, address: str | None = None) -> bool:
        """Return whether a request ignores a notice to its tenant, address or dialog."""
        subjects: tuple[Subject, ...] = (TENANT, ("address", address), ("dialog", dialog_id))
        return bool(self._notices) and any(self._ignores(subject, now) for subject in subjects)

    def is_early_repeat(self, key: str | None, now: float) -> bool:
        """Return whether an update ignores a notice not to repeat it yet."""
        return bool(self._notices) and self._ignores(("update", key), now)

    def _ignores(self, subject: Subject, now: float) -> bool:
        return any(known < now < end for known, end in self._notices.get(subject, ()))

    def _count(self, subject: Subject, now: float) -> float | None:
        """Count a request in its window; return the seconds to wait if it does not fit."""
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

    def _refuse(self, subject: Subject, seconds: float, now: float) -> Notice:
        moment, headers = self._retry_after(seconds, now)
        if subject[0] != "address":
            headers += ((b"x-ratelimit-scope", subject[0].encode()),)
        return Notice(subject, moment, headers)

    def _retry_after(self, seconds: float, now: float) -> tuple[float | None, tuple[Header, ...]]:
        """Return the moment that `Retry-After` names, and the header in the configured format."""
        style = self._config.retry_after
        if style == "none":
            return None, ()
        if style == "date":
            wall = self._config.wall_clock()
            date = math.ceil(wall + seconds)
            headers = ((b"retry-after", _date(date)), (b"date", _date(wall)))
            return now + date - wall - DATE_GRACE, headers
        if style == "seconds":
            whole = math.ceil(seconds)
            return now + whole - TIMER_GRACE, ((b"retry-after", b"%d" % whole),)
        rounded = math.ceil(seconds * 1000) / 1000
        return now + rounded - TIMER_GRACE, ((b"retry-after", f"{rounded:.3f}".encode()),)


def _date(seconds: float) -> bytes:
    return formatdate(math.floor(seconds), usegmt=True).encode()


def _window_is_over(window: tuple[float, int], now: float) -> bool:
    return window[0] <= now


def _notices_are_over(notices: list[tuple[float, float]], now: float) -> bool:
    return all(end <= now for _, end in notices)
