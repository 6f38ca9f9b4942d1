"""What the upstream's own log says: seconds, in order, at which each DELETE came."""

from collections.abc import Sequence


def rate(arrivals: Sequence[float]) -> float:
    """Requests per second from the first to the last, so that no start-up is in it."""
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) if len(arrivals) > 1 else 0.0


def most_in_a_second(arrivals: Sequence[float]) -> int:
    """The largest number of requests in any second, wherever it begins."""
    most = first = 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most
