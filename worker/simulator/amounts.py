"""How a scenario writes durations and rates: ``50ms``, ``20ms..80ms``, ``100/s``."""

import math
import re
from typing import NamedTuple

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m)?\s*")
_RATE = re.compile(r"\s*(\d+)\s*/\s*(s|m)\s*")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Latency(NamedTuple):
    """A duration in seconds, drawn evenly from ``low`` to ``high``."""

    low: float
    high: float


class Rate(NamedTuple):
    """At most so many ``requests`` in any window of ``seconds``."""

    requests: int
    seconds: float


def parse_latency(value: object) -> Latency:
    """Read ``50ms``, ``1.5s``, ``20ms..80ms`` or a number of seconds; anything else is a ValueError that says so."""
    if isinstance(value, Latency):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        ends = [float(value)]
    else:
        ends = [_seconds(part) for part in str(value).split("..", 1)]
    low, high = ends[0], ends[-1]
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"latency {value!r} is not a duration such as 50ms, 1.5s or 20ms..80ms")
    return Latency(low, high)


def parse_rate(value: object) -> Rate:
    """Read ``100/s`` or ``1000/m``; anything else is a ValueError that says so."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(str(value))
    if match is None or int(match[1]) == 0:
        raise ValueError(f"rate_limit {value!r} is not a rate such as 100/s or 1000/m")
    return Rate(int(match[1]), _SECONDS[match[2]])


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    return math.nan if match is None else float(match[1]) * _SECONDS[match[2] or "s"]
