"""``python -m bench.drawing bars|lines DATA.json OUT.svg``, in ``.venv-bench``: what ``bench.plots`` asks for."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: small, and searchable
        "svg.hashsalt": "expunge",  # the same data give the same file
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)
_COLOURS = {"a": "#1f6f8b", "b": "#b0b7bf", "c": "#e0a030"}  # by the letter in a name's parentheses
_WIDTH = 8.0  # inches
_BAR, _PANEL, _REST = 0.26, 1.5, 0.6  # inches of height


def _bars(groups: dict[str, dict[str, float]], out: Path) -> None:
    counts = [len(rates) for rates in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups), figsize=(_WIDTH, _BAR * sum(counts) + _REST * len(groups)), squeeze=False, height_ratios=counts
    )
    for (title, rates), (axis,) in zip(groups.items(), axes, strict=True):
        names = list(rates)[::-1]
        drawn = axis.barh(names, [rates[name] for name in names], color=[_COLOURS[name[1]] for name in names])
        axis.bar_label(drawn, fmt="{:,.0f}", padding=3)
        axis.set_title(f"{title}: records/s", loc="left")
        axis.margins(x=0.1)
    _save(figure, out)


def _lines(data: dict[str, Any], out: Path) -> None:
    panels = data["panels"]
    figure, axes = pyplot.subplots(
        len(panels), figsize=(_WIDTH, _PANEL * len(panels) + _REST), squeeze=False, sharex=True
    )
    for (unit, series), (axis,) in zip(panels.items(), axes, strict=True):
        for name, values in series.items():
            axis.plot(data["minutes"], values, label=name, linewidth=1)
        axis.set_title(unit, loc="left")
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right", frameon=False, ncols=len(series))
    axes[-1][0].set_xlabel("minutes")
    _save(figure, out)


def _save(figure: Any, out: Path) -> None:
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    draw = {"bars": _bars, "lines": _lines}[sys.argv[1]]
    draw(json.loads(Path(sys.argv[2]).read_bytes()), Path(sys.argv[3]))
