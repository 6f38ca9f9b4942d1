"""What this process counts, for Prometheus: no name, ID or address is in it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import Scope

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counts requests by route, method and status, events, and who follows batches."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "expunge_http_requests",
            "Requests that were answered",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "expunge_http_request_seconds",
            "Seconds from a request to the end of its answer",
            ["route", "method"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._events = Counter(
            "expunge_events", "Events that were taken over HTTP", ["answer"], registry=self._registry
        )
        self.followers = Gauge("expunge_followers", "Streams of events that are open", registry=self._registry)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request whose answer has ended; 499 is one whose sender went away before there was any."""
        route = getattr(scope.get("route"), "path", None) or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._requests.labels(route, method, status or 499).inc()
        self._seconds.labels(route, method).observe(seconds)

    def count_events(self, taken: int, repeated: int) -> None:
        """Count events of one request, of which so many were known; what was refused is a request of that status."""
        self._events.labels("accepted").inc(taken - repeated)
        self._events.labels("repeated").inc(repeated)

    def shown(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
