"""``python -m bench.intake``: how fast a large file is read and a large report written, and in how much memory.

Each act runs in a process of its own; its peak is what ``/usr/bin/time -v`` calls the maximum resident set size.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench import promises
from bench.acts import Done, do
from bench.customers import write_csv
from bench.processes import say
from bench.promises import Line, Part, at_least, at_most
from worker.embedded import embedded_server

_FEW, _MANY, _MOST = 10_000, 1_000_000, 10_000_000  # rows
_TINY = 1_000  # times fewer of each
_REPEAT_EVERY = 1_000  # rows, of which the last is a duplicate
_FLAT = 1.1  # times the memory for a hundred times the rows
_NAMES = {
    "inspect": "check a CSV (`plan`)",
    "read": "check a CSV and read it again",
    "accept": "accept a CSV into the store",
    "finish": "record outcomes, one process (no upstream)",
    "report": "write the report, joined with the CSV",
}

_Results = dict[tuple[int, str], Done]


def measure(smoke: bool) -> Part:
    """All acts on few and many rows; of the most, only what must take them in."""
    few, many, most = (rows // (_TINY if smoke else 1) for rows in (_FEW, _MANY, _MOST))
    results = _do(few, _NAMES) | _do(many, _NAMES) | _do(most, ("accept",))
    accepted, report = results[many, "accept"], results[many, "report"]
    lines = [
        at_least(f"intake: rows/s, {many:,} rows", 150_000, many / accepted.seconds, "{:,.0f}"),
        at_most(f"intake: memory, {many:,} rows", 150, accepted.peak / 1e6, "{:,.0f} MB"),
        at_most(f"intake: memory, {most:,} rows", 700, results[most, "accept"].peak / 1e6, "{:,.0f} MB"),
        *(_duplicates(rows, results[rows, "accept"]) for rows in (many, most)),
        at_least(f"report: rows/s, {many:,} rows", 150_000, many / report.seconds, "{:,.0f}"),
        at_most(
            f"report: memory, {many:,} rows to {few:,}",
            _FLAT,
            report.peak / results[few, "report"].peak,
            "{:.2f} times",
        ),
    ]
    return Part("Reading and writing files", lines, _table(results))


def _do(rows: int, names: Iterable[str]) -> _Results:
    results: _Results = {}
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, embedded_server(Path(name) / "home") as url:
        path = Path(name) / "customers.csv"
        write_csv(path, rows, _REPEAT_EVERY)
        for act in names:
            results[rows, act] = do(act, path, url)
            say(f"{act} {rows:,}: {results[rows, act].seconds:.1f} s")
    return results


def _duplicates(rows: int, accepted: Done) -> Line:
    due, found = rows // _REPEAT_EVERY, accepted.duplicates
    return Line(f"intake: duplicates found in {rows:,} rows", f"{due:,}", f"{found:,}", found == due)


def _table(results: _Results) -> str:
    lines = ["| what | rows | rows/s | seconds | peak memory of the process |", "|---|--:|--:|--:|--:|"]
    for (rows, act), done in results.items():
        rate = f"{rows / done.seconds:,.0f}"
        lines.append(f"| {_NAMES[act]} | {rows:,} | {rate} | {done.seconds:.2f} | {done.peak / 1e6:,.0f} MB |")
    return "\n".join([*lines, "", f"One row in {_REPEAT_EVERY:,} repeats an earlier one."])


if __name__ == "__main__":
    promises.alone("bench.intake", __doc__, measure)
