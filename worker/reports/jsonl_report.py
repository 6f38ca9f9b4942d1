"""The report as JSON Lines: one object a row, with typed values and without spreadsheet guards (SPEC 9)."""

import json
from collections.abc import Sequence

import orjson

from worker.reports.columns import COLUMNS, ReportRow, Value, typed, unique_names


class JsonLines:
    """Rows as lines of text, line ends included: the input's columns as strings, then ``expunge_*``."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._names = (*unique_names(columns), *COLUMNS)

    def line(self, row: ReportRow) -> str:
        """The line of a row."""
        values: dict[str, Value] = dict(zip(self._names, [*row.cells, *typed(row)], strict=True))
        return _line(values)


def _line(values: dict[str, Value]) -> str:
    try:
        return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # half a surrogate pair in a request ID: only an escape can say it
        return json.dumps(values) + "\n"
