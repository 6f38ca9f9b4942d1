"""``python -m bench.intake``: how fast a large file is read and a large report written, and in how much memory.

Each measurement runs in a process of its own, so that its peak is its own (issue 2: a million rows in 200 MB).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
import uvloop
from pydantic import SecretStr

from bench import filling
from bench.customers import write_csv
from bench.machine import facts, peak_memory
from bench.processes import ROOT, MeasureError, module, started
from worker.cli.report import format_of, write_out
from worker.domain.customer_ids import IdRule
from worker.embedded import embedded_server
from worker.intake.csv_file import CsvFile
from worker.settings import Settings
from worker.wiring import open_store

_TIME_LIMIT = 900.0
_MOST = 1 << 30  # rows
_ACTS = ("inspect", "read", "accept", "finish", "report")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.act:
        _act(options.act, options.file, options.redis)
        return
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, embedded_server(Path(name) / "home") as url:
        path = Path(name) / "customers.csv"
        write_csv(path, options.records)
        results = {act: _in_a_process(act, path, url) for act in _ACTS}
    print(_table(results, options.records))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.intake", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--act", choices=_ACTS, help=argparse.SUPPRESS)  # in the process that is measured
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _in_a_process(act: str, path: Path, redis_url: str) -> tuple[float, int]:
    """Seconds, and bytes at the peak."""
    command = module("bench.intake", "--act", act, "--file", str(path), "--redis", redis_url)
    with started(command, path.parent, cwd=ROOT) as child:
        child.wait(_TIME_LIMIT)
        told = orjson.loads(child.log.read_bytes().splitlines()[-1])
    return told["seconds"], told["peak"]


def _act(act: str, path: Path, redis_url: str) -> None:
    seconds = _read(path, check_only=act == "inspect") if act in ("inspect", "read") else _store(act, path, redis_url)
    print(orjson.dumps({"seconds": seconds, "peak": peak_memory()}).decode(), flush=True)


def _read(path: Path, *, check_only: bool) -> float:
    began = time.perf_counter()
    with CsvFile.open(path, rule=IdRule.of(), max_rows=_MOST) as file:
        file.inspect()
        if not check_only:
            for _ in file.rows():
                pass
    return time.perf_counter() - began


def _store(act: str, path: Path, redis_url: str) -> float:
    settings = Settings(redis_url=SecretStr(redis_url), merchant_id="bench", _env_file=None)

    async def work() -> float:
        async with open_store(settings) as store:
            if act == "accept":
                return await filling.timed(lambda: filling.take_in(store, path))
            (batch,) = await store.batches.recent(1)
            if act == "finish":
                return await filling.timed(lambda: filling.finish(store, batch.id))
            out = str(path.with_suffix(".report.csv"))
            with CsvFile.open(path, rule=IdRule.of(), max_rows=_MOST) as file:
                seconds = await filling.timed(lambda: write_out(store, batch, file, out, format_of(out)))
            _check_lines(Path(out), batch.description.rows)
            return seconds

    return uvloop.run(work())


def _check_lines(report: Path, rows: int) -> None:
    with report.open("rb") as lines:
        count = sum(1 for _ in lines) - 1
    if count != rows:
        raise MeasureError(f"the report has {count} rows, not {rows}")


_NAMES = {
    "inspect": "check a CSV (`plan`)",
    "read": "check a CSV and read it again",
    "accept": "accept a CSV into the store",
    "finish": "record outcomes, one process (no upstream)",
    "report": "write the report, joined with the CSV",
}


def _table(results: dict[str, tuple[float, int]], records: int) -> str:
    lines = ["| what | rows/s | seconds | peak memory of the process |", "|---|--:|--:|--:|"]
    for act, (seconds, peak) in results.items():
        lines.append(f"| {_NAMES[act]} | {records / seconds:,.0f} | {seconds:.1f} | {peak / 1e6:,.0f} MB |")
    return "\n".join([*lines, "", f"{records:,} rows. {facts()}", ""])


if __name__ == "__main__":
    main()
