"""``python -m bench``: this pipeline against the code a user would write, and against the most one process can do.

All in one run on one machine, repeated and interleaved, so that a busy minute hits every case alike.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from bench import intake, memory, rates
from bench.cases import FULL, SMOKE, Case, Kind, cases
from bench.machine import facts
from bench.processes import MeasureError

RESULTS = Path(__file__).with_name("results.md")
_HEAD = (
    "| upstream answers in | who deletes | records | records/s | min to max | of (c), per process | times best (b) |",
    "|---|---|--:|--:|--:|--:|--:|",
)


def main() -> None:
    options = _options()
    latencies, processes, size = ((0.005,), (2,), SMOKE) if options.smoke else ((0.0, 0.05), (1, 2), FULL)
    chosen = [case for latency in latencies for case in cases(latency, processes, size)]
    machine = facts()
    measured = _measure(chosen, 1 if options.smoke else options.repeat)
    text = _page(chosen, measured, machine, latencies)
    print(text)
    if options.write:
        RESULTS.write_text(text)
    if options.smoke:
        _smoke_the_rest()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each case (default 3)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULTS.name} as well")
    parser.add_argument("--smoke", action="store_true", help="everything tiny, once: shows that it works, no figures")
    return parser.parse_args()


def _measure(chosen: list[Case], repeat: int) -> dict[Case, list[float]]:
    """Rates by case; the runs of one case are spread over the whole time."""
    measured: dict[Case, list[float]] = {case: [] for case in chosen}
    for turn in range(repeat):
        for case in chosen:
            began = time.monotonic()
            measured[case].append(case.measure())
            _say(
                f"{turn + 1}/{repeat} {case.latency * 1000:.0f} ms {case.name}: {measured[case][-1]:,.0f}/s "
                f"({time.monotonic() - began:.1f} s in all)"
            )
    return measured


def _page(chosen: list[Case], measured: dict[Case, list[float]], machine: str, latencies: tuple[float, ...]) -> str:
    medians = {case: median(measured[case]) for case in chosen}
    ceilings = {latency: _best(medians, latency, Kind.CEILING) for latency in latencies}
    rivals = {latency: _best(medians, latency, Kind.RIVAL) for latency in latencies}
    lines = [*_HEAD]
    for case in chosen:
        rate, runs = medians[case], measured[case]
        lines.append(
            f"| {case.latency * 1000:.0f} ms | {case.name} | {case.records:,} | {rate:,.0f} "
            f"| {min(runs):,.0f} to {max(runs):,.0f} | {rate / case.processes / ceilings[case.latency]:.2f} "
            f"| {rate / rivals[case.latency]:.1f} |"
        )
    runs_each = len(measured[chosen[0]])
    return "\n".join([*lines, "", f"{runs_each} runs of each, interleaved. Measured on {machine}.", ""])


def _best(medians: dict[Case, float], latency: float, kind: Kind) -> float:
    return max(rate for case, rate in medians.items() if case.latency == latency and case.kind is kind)


def _smoke_the_rest() -> None:
    """Side by side, since their figures do not count."""
    with ThreadPoolExecutor() as pool:
        tiny = ["--records", "1000"]
        for ended in [
            pool.submit(memory.main, tiny),
            pool.submit(intake.main, tiny),
            pool.submit(rates.main, ["--smoke"]),
        ]:
            ended.result()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except MeasureError as error:
        sys.exit(f"bench: {error}")
