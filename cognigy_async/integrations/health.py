"""What an orchestrator asks of a service, from the state of the client and its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from cognigy_async import AsyncStateClient


@dataclass(frozen=True, slots=True)
class Health:
    """How a client does.

    A server that is away or throttles makes neither false: restarting the service, or sending its
    requests to another one, would not help. Alert on the metrics for that.

    Attributes:
        alive: the client is open; when it is not, it will never be again.
        ready: it is alive, and has room for more updates.
        pending: updates accepted and unsettled. in_flight: requests under way.
        paused: dialogs that wait for `resume`.
        persistence_rate: applied over settled updates, 0.0 when none settled.
    """

    alive: bool
    ready: bool
    pending: int
    in_flight: int
    paused: int
    persistence_rate: float


def health(client: AsyncStateClient, *, max_pending: int = 10_000) -> Health:
    """How the client does at this moment; makes no request.

    Args:
        client: the client.
        max_pending: with so many updates unsettled it is not ready. Give the client's own
            `max_pending`, or less to be spared requests earlier.
    """
    # A snapshot would work out percentiles as well, and probes are frequent.
    metrics = client.metrics
    return Health(
        alive=client.is_open,
        ready=client.is_open and metrics.pending < max_pending,
        pending=metrics.pending,
        in_flight=metrics.in_flight,
        paused=metrics.paused,
        persistence_rate=metrics.persistence_rate,
    )
