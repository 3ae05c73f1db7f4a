"""The quota of a job: what earlier runs used of it counts in this one."""

from __future__ import annotations

import json

from cognigy_async import AsyncStateClient, ConfigurationError

SMALL = 2000
"""Requests in a window up to which the quota is saved with every batch of the journal."""
LARGE_EVERY = 0.5
"""Seconds between two times that a larger one is saved: that takes milliseconds."""


class QuotaKeeper:
    """Saves the window of a client's quota, and restores it."""

    def __init__(self, client: AsyncStateClient) -> None:
        self._client = client
        self._saved_at = 0.0
        self._requests = -1

    def restore(self, saved: str | None) -> None:
        """Count what an earlier run saved; what cannot be read counts as nothing."""
        if saved is not None and self._client.metrics.quota:
            try:
                self._client.restore_quota(json.loads(saved))
            except (ConfigurationError, ValueError):
                return

    def state(self, now: float) -> str | None:
        """What is to be saved now; None where nothing is, or it has not changed."""
        requests = self._client.metrics.requests
        if requests == self._requests or not self._client.is_open:
            return None
        quota = self._client.metrics.quota
        if not quota:
            return None
        if max(use.n for use in quota) > SMALL and now - self._saved_at < LARGE_EVERY:
            return None
        self._requests = requests
        self._saved_at = now
        return json.dumps(self._client.quota_state())


def utilisation(client: AsyncStateClient) -> float | None:
    """The share of the quota that was used, of the limit that is nearest; None without one."""
    quota = client.metrics.quota
    return round(max(use.utilisation for use in quota), 4) if quota else None
