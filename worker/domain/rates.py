"""Rate limits as people write them: ``50/s``, ``1000/m``, several joined by a comma (SPEC 7)."""

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_WINDOW = re.compile(r"([1-9][0-9]{0,6})/(s|m|h)")


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``limit`` requests in any ``seconds``."""

    limit: int
    seconds: int

    @property
    def per_second(self) -> float:
        """The average rate it allows."""
        return self.limit / self.seconds

    def __str__(self) -> str:
        unit = {seconds: letter for letter, seconds in _SECONDS.items()}[self.seconds]
        return f"{self.limit}/{unit}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Several windows that hold at once; the first is the one with the highest rate, and it sets the pace."""

    windows: tuple[Window, ...]

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read ``50/s,1000/m``; raises ``ValueError`` that says how a rate is written."""
        windows = []
        for part in text.split(","):
            match = _WINDOW.fullmatch(part.strip())
            if match is None:
                raise ValueError(
                    "a rate is a number per s, m or h, such as 50/s; several are joined by a comma: 50/s,1000/m"
                )
            windows.append(Window(int(match[1]), _SECONDS[match[2]]))
        return cls(tuple(sorted(windows, key=lambda window: (-window.per_second, window.seconds))))

    @property
    def sustained(self) -> float:
        """Requests per second that all windows together allow in the long run."""
        return min(window.per_second for window in self.windows)

    def __str__(self) -> str:
        return ",".join(map(str, self.windows))
