"""``python -m bench``: all that is promised of speed and size, as one table: due, measured, holds.

The soak is not in it, since it takes twenty minutes: ``python -m bench.soak``.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import compare, events, growth, intake, memory, plots, rates, soak, start, web
from bench.machine import facts
from bench.processes import MeasureError, say
from bench.promises import Part, page, table

RESULTS = Path(__file__).with_name("results.md")
_PARTS = (start, compare, rates, memory, intake, growth, web, events)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="everything tiny, the soak too: shows that it works")
    if parser.parse_args().smoke:
        _smoke()
    else:
        _full()


def _full() -> None:
    """One part after the other; what was measured is written after each."""
    machine, parts = facts(), list[Part]()
    for module in _PARTS:
        parts.append(module.measure(False))
        say(table(parts[-1].lines))
        RESULTS.write_text(page(parts, machine))
    _plot(parts, plots.PLOTS)
    print(page(parts, machine))


def _smoke() -> None:
    """Side by side, since no figure counts."""
    machine = facts()
    with ThreadPoolExecutor() as pool, tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        parts = list(pool.map(lambda module: module.measure(True), (*_PARTS, soak)))
        _plot(parts, Path(name))
    print(f"Everything is tiny: this shows that it works, and no figure counts.\n\n{page(parts, machine)}")


def _plot(parts: list[Part], folder: Path) -> None:
    for part in parts:
        if part.rates:
            plots.bars(part.rates, folder / "rates.svg")


if __name__ == "__main__":
    try:
        main()
    except MeasureError as error:
        sys.exit(f"bench: {error}")
