"""Health of a client, for the probes of an orchestrator."""

from __future__ import annotations

from dataclasses import dataclass

from cognigy_async import AsyncStateClient


@dataclass(frozen=True, slots=True)
class Health:
    """Health of a client.

    `alive` and `ready` stay True while the server is down or throttles, because restarting your
    service, or sending its requests to another instance, would not help. Alert on the metrics to
    notice such a server.

    Attributes:
        alive: True if the client is open. A closed client cannot be opened again.
        ready: True if the client is open and can accept more updates.
        pending: Number of updates that are accepted and not completed.
        in_flight: Number of requests in flight.
        paused: Number of dialogs that are paused until `resume`.
        persistence_rate: Applied updates divided by completed ones; 0.0 if none are completed.
        in_step: True if no event of the outbox is older than `max_age`, and no target has dead
            letters. Always True without an outbox.
        oldest_event: Age in seconds of the oldest event that a target has not taken; 0.0 if there
            is none.
    """

    alive: bool
    ready: bool
    pending: int
    in_flight: int
    paused: int
    persistence_rate: float
    in_step: bool = True
    oldest_event: float = 0.0


def health(
    client: AsyncStateClient, *, max_pending: int = 10_000, max_age: float = 900.0
) -> Health:
    """Return the health of the client, without a request.

    Args:
        client: Client to check.
        max_pending: Number of pending updates at which `ready` is False. Pass the `max_pending` of
            the client, or a smaller number to stop traffic earlier.
        max_age: Age in seconds from which an event that a target of the outbox has not taken makes
            `in_step` False.
    """
    # Not `snapshot`, which computes percentiles too: probes are frequent.
    metrics = client.metrics
    targets = metrics.targets
    oldest = max((target.oldest_age for target in targets), default=0.0)
    return Health(
        alive=client.is_open,
        ready=client.is_open and metrics.pending < max_pending,
        pending=metrics.pending,
        in_flight=metrics.in_flight,
        paused=metrics.paused,
        persistence_rate=metrics.persistence_rate,
        in_step=oldest <= max_age and not any(target.dead_letters for target in targets),
        oldest_event=oldest,
    )
