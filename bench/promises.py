"""What is due, what was measured, and whether it holds: the lines of the one table that ``make bench`` prints."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench.machine import facts


@dataclass(frozen=True, slots=True)
class Line:
    """One promise."""

    what: str
    due: str
    measured: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Part:
    """What one module of this package found: promises, and the tables behind them as Markdown."""

    title: str
    lines: Sequence[Line]
    details: str
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Records per second to be drawn, by group and name."""


def at_least(what: str, least: float, measured: float, form: str = "{:.2f}") -> Line:
    """A promise that holds from ``least`` on; ``form`` writes both numbers."""
    return Line(what, f"≥ {form.format(least)}", form.format(measured), measured >= least)


def at_most(what: str, most: float, measured: float, form: str = "{:.2f}") -> Line:
    """A promise that holds up to ``most``; ``form`` writes both numbers."""
    return Line(what, f"≤ {form.format(most)}", form.format(measured), measured <= most)


def table(lines: Iterable[Line]) -> str:
    """The lines as a Markdown table."""
    rows = (f"| {line.what} | {line.due} | {line.measured} | {'yes' if line.holds else '**no**'} |" for line in lines)
    return "\n".join(["| what | due | measured | holds |", "|---|--:|--:|---|", *rows])


def page(parts: Sequence[Part], machine: str) -> str:
    """All promises in one table, then what is behind them, part by part."""
    begin = [table(line for part in parts for line in part.lines), ""]
    for part in parts:
        begin += [f"## {part.title}", "", part.details, ""]
    return "\n".join([*begin, f"Measured on {machine}.", ""])


def alone(module: str, doc: str | None, measure: Callable[[bool], Part]) -> None:
    """``main`` of one part: measures with the size that the command line asks for, and prints its page."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that it works, no figures")
    smoke, machine = parser.parse_args().smoke, facts()
    print(page([measure(smoke)], machine))
