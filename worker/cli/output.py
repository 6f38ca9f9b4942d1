"""What people and programs read: lines and progress on stderr, JSON on stdout."""

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from worker.domain.batches import Batch, BatchState, Tally
from worker.domain.outcomes import Outcome
from worker.reports.advice import duration

PLAIN_EVERY = 5.0
"""Seconds between two lines of progress where there is no terminal."""


def say(line: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def state_of(batch: Batch) -> str:
    """The state, with its reason if there is one."""
    return f"{batch.state.value} ({batch.state_reason.value})" if batch.state_reason else batch.state.value


def awaits(batch: Batch) -> str:
    """What a batch waits for that needs approval."""
    who = batch.description.submitted_by
    return f"nothing is sent before somebody other than {who} approves it: expunge approve {batch.id} --as NAME"


def to_go_on(batch: Batch, *, simulate: bool = False) -> str:
    """The command that lets a paused batch go on."""
    despite = f" --despite {batch.tripped.ways_on[0].value}" if batch.tripped else ""
    return f"expunge resume {batch.id}{despite}{' --simulate' if simulate else ''}"


def counts(tally: Tally) -> str:
    """The outcomes that occur, on one line."""
    return ", ".join(f"{outcome.value} {tally[outcome]:,}" for outcome in Outcome if tally[outcome]) or "nothing"


def tally_lines(tally: Tally) -> list[str]:
    """The tally as a table: every outcome that occurs, with its reasons below it."""
    lines = []
    for outcome in Outcome:
        if tally[outcome]:
            lines.append(f"  {outcome.value:<10}{tally[outcome]:>10,}  {outcome.meaning}")
        for reason, count in sorted(tally.reasons.items(), key=lambda item: -item[1]):
            if count and reason.outcome is outcome:
                lines.append(f"    {reason.text:<26}{count:>10,}")
    return lines


def _console() -> Console:
    return Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))


def reading_bar() -> Progress:
    """A bar for rows that are read, on a terminal only."""
    console = _console()
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class ProgressDisplay:
    """Shows how far a batch is: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        console = _console()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"), console=console, transient=True
            )
            self._task = self._bar.add_task("", total=None, rest="")
        self._started: tuple[float, int] | None = None
        self._next_line = 0.0

    def show(self, batch: Batch) -> None:
        """Show the batch as it stands; rate and time left are those since it last began to run."""
        now, tally = time.monotonic(), batch.tally
        if batch.state is BatchState.RUNNING:
            self._started = self._started or (now, tally.done)
            rest = self._rest(now, tally)
        else:
            self._started = None
            rest = f"{state_of(batch)}  {counts(tally)}"
        if self._bar is not None:
            self._bar.update(self._task, total=tally.total, completed=tally.done, rest=rest)
        elif now >= self._next_line:
            self._next_line = now + PLAIN_EVERY
            say(f"{tally.done:,}/{tally.total:,}  {rest}")

    def _rest(self, now: float, tally: Tally) -> str:
        since, done = self._started or (now, 0)
        rate = (tally.done - done) / (now - since) if now > since else 0.0
        left = f"{duration(tally.pending / rate)} left" if rate else "time left unknown"
        return f"{rate:,.1f}/s  {left}  {counts(tally)}"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
