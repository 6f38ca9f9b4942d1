"""What the pages show of a batch, as plain values: no clock, no store, no HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.domain.batches import Batch, BatchState, StateReason, Tally
from worker.domain.brakes import BAD, WELL, Despite
from worker.domain.deadlines import expected_end, is_on_time
from worker.domain.errors import RefusedError
from worker.domain.outcomes import Actor, Outcome
from worker.domain.people import Act, Person
from worker.reports.columns import ReportFormat
from worker.reports.formats import is_installed, is_made_over_http

WIDTH = 100.0
"""Of a drawing, in units of its own."""
_THINNEST = 0.6
_COLUMNS = 60
OFTEN, SELDOM = 5, 15
"""Seconds after which the page of a batch asks anew: of one that gets on by itself, and of one that waits."""

LABELS: Mapping[Outcome, str] = {
    Outcome.DELETED: "deleted at the payments API",
    Outcome.ABSENT: "absent",
    Outcome.REJECTED: "rejected",
    Outcome.FAILED: "failed",
    Outcome.UNKNOWN: "unknown",
    Outcome.SKIPPED: "skipped",
    Outcome.PENDING: "pending",
}
WHO: Mapping[Actor, str] = {
    Actor.UPLOADER: "Whoever made the file",
    Actor.OPERATOR: "Whoever runs Expunge",
    Actor.UPSTREAM: "The provider of the payments API",
    Actor.NOBODY: "Nothing is to be done",
}
FAILED = (Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN)
"""What was sent and is not known to be gone."""
UNPROCESSED = (Outcome.SKIPPED, Outcome.PENDING)
"""What was not sent, or not to its end."""
_EXTRA_FORMATS = {ReportFormat.XLSX: "Excel", ReportFormat.PARQUET: "Parquet"}
DESPITE: Mapping[Despite, str] = {
    Despite.CANARY: "The first records were no fair sample. Both shares are looked at again when 100 are done.",
    Despite.FAILURE_THRESHOLD: "The rest is to be sent although most of it fails. This brake does not ask again.",
    Despite.MOSTLY_NOT_FOUND: "Merchant, environment and file are right all the same. This brake does not ask again.",
}
"""What somebody answers for who lets a batch go on."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar."""

    outcome: str
    count: int
    x: float
    width: float


def segments(tally: Tally) -> list[Segment]:
    """The tally as a bar of ``WIDTH``: every outcome that occurs can be seen, and what is pending comes last."""
    shown = [(outcome.value, tally[outcome]) for outcome in Outcome if tally[outcome]]
    widths = [max(_THINNEST, WIDTH * count / tally.total) for _, count in shown]
    scale, bar, x = WIDTH / (sum(widths) or 1.0), list[Segment](), 0.0
    for (outcome, count), width in zip(shown, widths, strict=True):
        bar.append(Segment(outcome, count, round(x, 3), round(width * scale, 3)))
        x += width * scale
    return bar


@dataclass(frozen=True, slots=True)
class Count:
    """A line of the tally."""

    outcome: str
    label: str
    meaning: str
    count: int
    share: float
    """Of all records, in per cent."""


def counts(tally: Tally) -> list[Count]:
    """Every outcome that occurs."""
    total = tally.total or 1
    return [
        Count(outcome.value, LABELS[outcome], outcome.meaning, tally[outcome], 100 * tally[outcome] / total)
        for outcome in Outcome
        if tally[outcome]
    ]


def in_words(tally: Tally) -> str:
    """The tally for somebody who does not see the bar."""
    return ", ".join(f"{each.count:,} {each.label}" for each in counts(tally)) or "nothing yet"


@dataclass(frozen=True, slots=True)
class ReasonLine:
    """How many records ended with a reason."""

    reason: str
    outcome: str
    count: int
    next_step: str


@dataclass(frozen=True, slots=True)
class Group:
    """The reasons on which one party acts."""

    who: str
    count: int
    lines: list[ReasonLine]


def groups(tally: Tally) -> list[Group]:
    """The reasons that occur by who acts on them, the most frequent first; where nothing is to be done, last."""
    found = []
    for actor, who in WHO.items():
        lines = [
            ReasonLine(reason.text, reason.outcome.value, count, reason.next_step)
            for reason, count in sorted(tally.reasons.items(), key=lambda item: -item[1])
            if count and reason.actor is actor
        ]
        if lines:
            found.append(Group(who, sum(line.count for line in lines), lines))
    return found


def state_of(batch: Batch) -> str:
    """The state in words."""
    if batch.state is BatchState.CANCELLED and batch.ended_at is None:
        return "being cancelled"
    if batch.state_reason is StateReason.CIRCUIT_OPEN:
        return "waiting for the payments API"
    return batch.state.value.replace("_", " ")


def stage(batch: Batch) -> str:
    """Changes whenever the page must offer something else than before."""
    if batch.ended_at is not None:
        return f"{batch.state.value}-ended"
    return f"{batch.state.value}-{batch.state_reason.value}" if batch.state_reason else batch.state.value


def look_again(batch: Batch) -> int | None:
    """After how many seconds the page asks anew; ``None``: nothing changes any more."""
    if batch.ended_at is not None:
        return None
    return OFTEN if batch.goes_on else SELDOM


class Row(NamedTuple):
    """A batch in the list."""

    batch: Batch
    state: str
    segments: list[Segment]
    in_words: str
    age: float
    """Seconds since it was submitted."""
    on_time: str


def row_of(batch: Batch, rate: float, now: float) -> Row:
    """A batch as it stands ``now``, in seconds since the epoch; ``rate`` is the limit in records a second."""
    return Row(
        batch,
        state_of(batch),
        segments(batch.tally),
        in_words(batch.tally),
        max(0.0, now - batch.created_at),
        punctuality(batch, expected_end(batch, rate, now)),
    )


def may(person: Person, act: Act, batch: Batch) -> bool:
    """Whether the act on this batch is theirs."""
    try:
        person.check(act, batch)
    except RefusedError:
        return False
    return True


_FROM: Mapping[Act, frozenset[BatchState]] = {
    Act.APPROVE: frozenset({BatchState.AWAITING_APPROVAL}),
    Act.PAUSE: frozenset({BatchState.RUNNING}),
    Act.RESUME: frozenset({BatchState.PAUSED}),
    Act.CANCEL: frozenset({BatchState.AWAITING_APPROVAL, BatchState.RUNNING, BatchState.PAUSED}),
}


def offered(person: Person, batch: Batch) -> frozenset[str]:
    """What the person can do with the batch as it stands: words of acts, ``retry``, ``refuse`` (cancel another's)."""
    found = {act.value for act, states in _FROM.items() if batch.state in states and may(person, act, batch)}
    if {"approve", "cancel"} <= found:
        found = found - {"cancel"} | {"refuse"}
    if retryable(batch) and may(person, Act.SUBMIT, batch):
        found.add("retry")
    return frozenset(found)


def retryable(batch: Batch) -> int:
    """How many records a retry would send; 0 if there can be none now."""
    if batch.ended_at is None or batch.retried_by is not None:
        return 0
    return sum(count for reason, count in batch.tally.reasons.items() if reason.retryable)


def punctuality(batch: Batch, expected: float | None) -> str:
    """Whether the deadline is met as things stand; empty without one."""
    on_time = is_on_time(batch, expected)
    if on_time is None:
        return ""
    if expected is None:
        return "not in time as things stand, since it does not go on by itself"
    if batch.ended_at is not None:
        return "done in time" if on_time else "done too late"
    return "in time at the present pace" if on_time else "too late at the present pace"


SENT = frozenset(BAD + WELL)
"""The reasons of records that were sent, and so count for the rate."""


@dataclass(frozen=True, slots=True)
class RateChart:
    """Records that ended, over time."""

    columns: tuple[tuple[float, float, float], ...]
    """Left end, width and height of each, in units of a drawing ``WIDTH`` wide and high."""
    peak: float
    """Records a second in the highest column."""
    mean: float
    begin: float
    """Seconds since the epoch, as the next."""
    end: float
    sampled: int | None
    """From how many records it is estimated; ``None``: from all."""


def rate_chart(times: Sequence[int], sent: int | None) -> RateChart | None:
    """From when records ended, in seconds since the epoch; of a sample, ``sent`` is how many there are in all."""
    if not times:
        return None
    begin, end = min(times), max(times) + 1
    number = min(_COLUMNS, end - begin)
    seconds = (end - begin) / number
    heights = _histogram(times, begin, seconds, number)
    weight = 1.0 if sent is None else sent / len(times)
    highest = max(heights)
    width = WIDTH / number
    return RateChart(
        columns=tuple(
            (round(at * width, 3), round(width, 3), round(WIDTH * height / highest, 3))
            for at, height in enumerate(heights)
        ),
        peak=highest * weight / seconds,
        mean=len(times) * weight / (end - begin),
        begin=float(begin),
        end=float(end),
        sampled=None if sent is None else len(times),
    )


def _histogram(times: Iterable[int], begin: int, seconds: float, number: int) -> list[int]:
    heights = [0] * number
    for time in times:
        heights[min(number - 1, int((time - begin) / seconds))] += 1
    return heights


def sent_of(tally: Tally) -> int:
    """How many records were sent and have their outcome."""
    return sum(count for reason, count in tally.reasons.items() if reason in SENT)


def inert(text: str, most: int = 120) -> str:
    """A text of somebody else's on one line: nothing in it moves the cursor or turns the writing around."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: most + 1])
    return shown if len(text) <= most else shown[:most] + "…"


def extra_formats(rows: int) -> list[tuple[str, str]]:
    """The optional formats that a report of so many rows can be had in: the word in an address, and the name."""
    return [
        (word.value, name)
        for word, name in _EXTRA_FORMATS.items()
        if is_installed(word) and is_made_over_http(word, rows)
    ]
