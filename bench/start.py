"""``python -m bench.start``: how long the shortest commands take, start and end of the processes included."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench import promises
from bench.customers import write_csv
from bench.processes import expunge, started, stub
from bench.promises import Part, at_most

_TIME_LIMIT = 60.0
_ROWS = 10


def measure(smoke: bool) -> Part:
    """The median counts, since a first run also fills the page cache."""
    run, help_ = (1, 1) if smoke else (7, 21)
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        folder = Path(name)
        runs = {
            f"start: `expunge run` of {_ROWS} rows, seconds": (2.5, _times(run, lambda: _run(folder))),
            "start: `expunge --help`, seconds": (0.4, _times(help_, lambda: _seconds(["--help"], folder))),
        }
    lines = [at_most(what, due, median(seconds)) for what, (due, seconds) in runs.items()]
    details = ["| what | runs | least | median | most |", "|---|--:|--:|--:|--:|"]
    details += [
        f"| {what} | {len(seconds)} | {min(seconds):.2f} | {median(seconds):.2f} | {max(seconds):.2f} |"
        for what, (_, seconds) in runs.items()
    ]
    return Part("Start", lines, "\n".join(details))


def _times(count: int, seconds: Callable[[], float]) -> list[float]:
    return [seconds() for _ in range(count)]


def _run(folder: Path) -> float:
    """With the embedded server, which it starts and stops; the stub answers at once."""
    write_csv(folder / "customers.csv", _ROWS)
    with stub(0.0, folder) as upstream:
        env = {"EXPUNGE_HOME": str(folder / "home"), "EXPUNGE_UPSTREAM_URL": upstream.url}
        return _seconds(["run", "customers.csv", "--merchant", "bench"], folder, env)


def _seconds(arguments: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    with started(expunge(*arguments), folder, env or {}) as child:
        child.wait(_TIME_LIMIT)
        return time.perf_counter() - began


if __name__ == "__main__":
    promises.alone("bench.start", __doc__, measure)
