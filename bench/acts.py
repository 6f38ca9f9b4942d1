"""One act on a large file, in a process of its own, so that its peak of memory is its own.

``python -m bench.acts ACT FILE REDIS_URL`` does it and prints seconds, bytes at the peak, and duplicates found.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import uvloop
from pydantic import SecretStr

from bench import filling
from bench.machine import peak_memory
from bench.processes import ROOT, MeasureError, module, started
from worker.cli.report import format_of, write_out
from worker.domain.customer_ids import IdRule
from worker.domain.outcomes import Reason
from worker.intake.csv_file import CsvFile
from worker.settings import Settings
from worker.wiring import Store, open_store

_TIME_LIMIT = 900.0
_MOST = 1 << 30  # rows


@dataclass(frozen=True, slots=True)
class Done:
    """What an act took, and found."""

    seconds: float
    peak: int
    """Bytes."""
    duplicates: int


def do(act: str, path: Path, redis_url: str) -> Done:
    """Do it in a process of its own; raises ``MeasureError`` if it fails."""
    with started(module("bench.acts", act, str(path), redis_url), path.parent, cwd=ROOT) as child:
        child.wait(_TIME_LIMIT)
        return Done(**orjson.loads(child.log.read_bytes().splitlines()[-1]))


def _main(act: str, path: Path, redis_url: str) -> None:
    seconds, duplicates = _ACTS[act](path, redis_url)
    print(orjson.dumps(asdict(Done(seconds, peak_memory(), duplicates))).decode(), flush=True)


def _read(path: Path, check_only: bool) -> tuple[float, int]:
    began = time.perf_counter()
    with CsvFile.open(path, rule=IdRule.of(), max_rows=_MOST) as file:
        inspection = file.inspect()
        if not check_only:
            for _ in file.rows():
                pass
    return time.perf_counter() - began, inspection.duplicates


def _store(act: str, path: Path, redis_url: str) -> tuple[float, int]:
    settings = Settings(redis_url=SecretStr(redis_url), merchant_id="bench", _env_file=None)

    async def work() -> tuple[float, int]:
        async with open_store(settings) as store:
            if act == "accept":
                seconds = await filling.timed(lambda: filling.take_in(store, path))
            (batch,) = await store.batches.recent(1)
            if act == "finish":
                seconds = await filling.timed(lambda: filling.finish(store, batch.id))
            if act == "report":
                seconds = await _report(store, path)
            return seconds, batch.tally.reasons.get(Reason.DUPLICATE, 0)

    return uvloop.run(work())


async def _report(store: Store, path: Path) -> float:
    (batch,) = await store.batches.recent(1)
    out = path.with_suffix(".report.csv")
    with CsvFile.open(path, rule=IdRule.of(), max_rows=_MOST) as file:
        seconds = await filling.timed(lambda: write_out(store, batch, file, str(out), format_of(str(out))))
    with out.open("rb") as lines:
        count = sum(1 for _ in lines) - 1
    if count != batch.description.rows:
        raise MeasureError(f"the report has {count} rows, not {batch.description.rows}")
    return seconds


_ACTS: dict[str, Callable[[Path, str], tuple[float, int]]] = {
    "inspect": lambda path, _: _read(path, check_only=True),
    "read": lambda path, _: _read(path, check_only=False),
    "accept": lambda path, redis_url: _store("accept", path, redis_url),
    "finish": lambda path, redis_url: _store("finish", path, redis_url),
    "report": lambda path, redis_url: _store("report", path, redis_url),
}


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
