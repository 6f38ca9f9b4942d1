"""``python -m bench.compare``: this pipeline against the code a user would write, and the most one process can do.

All in one run on one machine, repeated and interleaved, so that a busy minute hits every case alike. Every promise is
the median of ratios of runs that were made one after the other.
"""

import time
from collections.abc import Sequence
from statistics import median

from bench import promises
from bench.arrivals import rate
from bench.cases import FULL, SMOKE, Case, Kind, cases
from bench.client import CONCURRENCY
from bench.processes import say
from bench.promises import Line, Part, at_least

LATENCIES = (0.0, 0.05)
"""Seconds."""
_TURNS = 3
_RIVALS = (Kind.CELERY, Kind.JOBS)
_HEAD = (
    "| upstream answers in | who deletes | records | records/s | min to max | of (c), per process | times best (b) |",
    "|---|---|--:|--:|--:|--:|--:|",
)


class Measured(dict[Case, list[float]]):
    """Rates by case, a rate for each turn."""

    def of(self, latency: float, kind: Kind, processes: int = 1, how: str = "") -> list[Case]:
        """The cases that are such; any pool or library if ``how`` is not given."""
        return [
            case
            for case in self
            if (case.latency, case.kind, case.processes) == (latency, kind, processes) and how in ("", case.how)
        ]

    def ratio(self, above: list[Case], below: list[Case]) -> float:
        """Median over the turns of the best of ``above`` to the best of ``below``."""
        return median(
            over / under for over, under in zip(self._best_by_turn(above), self._best_by_turn(below), strict=True)
        )

    def _best_by_turn(self, some: list[Case]) -> list[float]:
        return [max(rates) for rates in zip(*(self[case] for case in some), strict=True)]


def measure(smoke: bool) -> Part:
    """Every case as often as asked; tiny, once, and at 50 ms the pipeline only, to show that it works."""
    chosen = [case for latency in LATENCIES for case in cases(latency, SMOKE if smoke else FULL)]
    if smoke:
        chosen = [case for case in chosen if not case.latency or case.kind is Kind.PIPELINE]
    measured = _measure(chosen, 1 if smoke else _TURNS)
    lines = [*_cost(measured), *_rivals(measured), *_hidden(measured)]
    rates = {
        f"upstream answers in {latency * 1000:.0f} ms": {
            case.name.replace("`", ""): median(measured[case]) for case in measured if case.latency == latency
        }
        for latency in LATENCIES
    }
    return Part("Against what else one would write", lines, _details(measured), rates)


def _measure(chosen: Sequence[Case], turns: int) -> Measured:
    """The runs of one case are spread over the whole time."""
    measured = Measured({case: [] for case in chosen})
    for turn in range(turns):
        for case in chosen:
            began = time.monotonic()
            measured[case].append(rate(case.measure()))
            say(
                f"{turn + 1}/{turns} {case.latency * 1000:.0f} ms {case.name}: {measured[case][-1]:,.0f}/s "
                f"({time.monotonic() - began:.1f} s in all)"
            )
    return measured


def _cost(measured: Measured) -> list[Line]:
    one, two = (measured.of(0.0, Kind.PIPELINE, processes) for processes in (1, 2))
    ceiling = measured.of(0.0, Kind.CEILING)
    return [
        at_least("cost of a record: one process to a bare asyncio loop", 0.85, measured.ratio(one, ceiling)),
        at_least("two processes to one", 1.8, measured.ratio(two, one)),
    ]


def _rivals(measured: Measured) -> list[Line]:
    one, two = (measured.of(0.0, Kind.PIPELINE, processes) for processes in (1, 2))
    celery = measured.of(0.0, Kind.CELERY)
    prefork = measured.of(0.0, Kind.CELERY, 2)
    times = [
        at_least("times Celery with a task a customer, one process, best pool", 3.5, measured.ratio(one, celery)),
        at_least("times Celery with a task a customer, two processes", 3.5, measured.ratio(two, prefork)),
    ]
    for library in ("arq", "saq"):
        rival = measured.of(0.0, Kind.JOBS, how=library)
        times.append(at_least(f"times {library} with a job a customer", 2.5, measured.ratio(one, rival)))
    return times


def _hidden(measured: Measured) -> list[Line]:
    lines = []
    for case in measured:
        if case.latency and case.kind is Kind.PIPELINE:
            possible = case.processes * CONCURRENCY / case.latency
            what = f"latency hidden: of {possible:,.0f}/s at {case.latency * 1000:.0f} ms, processes: {case.processes}"
            lines.append(at_least(what, 0.95, median(measured[case]) / possible))
    return lines


def _details(measured: Measured) -> str:
    lines = [*_HEAD]
    for case, rates in measured.items():
        ceilings = measured.of(case.latency, Kind.CEILING)
        rivals = [rival for rival in measured if rival.latency == case.latency and rival.kind in _RIVALS]
        to_ceiling = f"{measured.ratio([case], ceilings) / case.processes:.2f}" if ceilings else ""
        to_rivals = f"{measured.ratio([case], rivals):.1f}" if rivals else ""
        lines.append(
            f"| {case.latency * 1000:.0f} ms | {case.name} | {case.records:,} | {median(rates):,.0f} "
            f"| {min(rates):,.0f} to {max(rates):,.0f} | {to_ceiling} | {to_rivals} |"
        )
    turns = max(map(len, measured.values()))
    return "\n".join([*lines, "", f"Runs of each: {turns}, interleaved."])


if __name__ == "__main__":
    promises.alone("bench.compare", __doc__, measure)
