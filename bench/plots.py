"""Plots for the documentation, as small SVG files; drawn in ``.venv-bench``, where matplotlib is."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from bench.processes import ROOT, bench_venv, started

PLOTS = ROOT / "docs" / "plots"
_TIME_LIMIT = 120.0


def bars(groups: Mapping[str, Mapping[str, float]], out: Path) -> None:
    """Records per second, by group and name."""
    _draw("bars", groups, out)


def lines(minutes: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]], out: Path) -> None:
    """Panels below each other, over the same time; a panel's name is the unit of its lines."""
    _draw("lines", {"minutes": minutes, "panels": panels}, out)


def _draw(kind: str, data: object, out: Path) -> None:
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name:
        given = Path(name) / "data.json"
        given.write_bytes(orjson.dumps(data))
        command = [bench_venv("python"), "-m", "bench.drawing", kind, str(given), str(out)]
        with started(command, Path(name), cwd=ROOT) as child:
            child.wait(_TIME_LIMIT)
