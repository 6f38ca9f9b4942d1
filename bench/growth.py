"""``python -m bench.growth``: does a record of a large batch take longer than one of a small batch?

``expunge run`` with two workers against a stub that answers at once. Two questions: a batch of a million to batches of
ten thousand; and, without the start and the end that weigh in the small ones, its last tenth to its first.
"""

from statistics import median

from bench import promises
from bench.arrivals import rate
from bench.cases import pipeline
from bench.processes import say
from bench.promises import Part, at_most

_SMALL, _LARGE = 10_000, 1_000_000  # records
_AROUND = 2  # small batches before the large one, and as many after it
_MORE = 1.1  # times the time of a record at most


def measure(smoke: bool) -> Part:
    """Small batches, the large one, small ones again."""
    small, large = (_SMALL // 100, _LARGE // 1_000) if smoke else (_SMALL, _LARGE)
    around = 0 if smoke else _AROUND
    rates = [_rate(small) for _ in range(max(1, around))]
    arrivals = pipeline(0.0, large, 2).measure()
    say(f"{large:,} records: {rate(arrivals):,.0f}/s")
    rates += [_rate(small) for _ in range(around)]
    tenth = large // 10
    first, last = rate(arrivals[:tenth]), rate(arrivals[-tenth:])
    lines = [
        at_most(f"growth: time a record, {large:,} to {small:,} records", _MORE, median(rates) / rate(arrivals)),
        at_most(f"growth: time a record, last tenth of {large:,} to its first", _MORE, first / last),
    ]
    details = [
        "| records | records/s |",
        "|---|--:|",
        f"| {small:,}, median of {len(rates)} | {median(rates):,.0f} |",
        f"| {large:,} | {rate(arrivals):,.0f} |",
        f"| the first {tenth:,} of them | {first:,.0f} |",
        f"| the last {tenth:,} of them | {last:,.0f} |",
    ]
    return Part("Growth", lines, "\n".join(details))


def _rate(records: int) -> float:
    measured = rate(pipeline(0.0, records, 2).measure())
    say(f"{records:,} records: {measured:,.0f}/s")
    return measured


if __name__ == "__main__":
    promises.alone("bench.growth", __doc__, measure)
