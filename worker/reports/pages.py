"""A report made page by page, for whoever asks for the next page: it is held back as little as its format allows."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.domain.outcomes import Outcome
from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.pieces import pieces_of


@dataclass(frozen=True, slots=True)
class Written:
    """A report as it was written."""

    path: Path | None
    """None for a stream."""
    sha256: str
    """Of its bytes, lower-case hex."""
    lines: int
    """Rows, without the header; a row with line breaks in its cells counts once."""
    format: ReportFormat
    only: frozenset[Outcome] | None
    """The outcomes asked for; None for all."""


class ReportPages:
    """Turns rows into the report's bytes: ``add`` the rows in their order, then take ``end``; ``close`` in any case."""

    def __init__(
        self,
        report_format: ReportFormat,
        columns: Sequence[str],
        *,
        delimiter: str = ",",
        only: frozenset[Outcome] | None = None,
    ) -> None:
        self._format, self._only = report_format, only
        self._digest, self._lines = hashlib.sha256(), 0
        self._pieces = pieces_of(report_format, columns, delimiter)
        self.close = self._pieces.close

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        """The next rows, of those the ones that are asked for; gives what is ready, be it nothing."""
        only = self._only
        asked = [row for row in rows if only is None or row.outcome in only]
        self._lines += len(asked)
        return self._given(self._pieces.add(asked))

    def end(self) -> Iterator[bytes]:
        """What is left when there are no more rows."""
        return map(self._given, self._pieces.end())

    @property
    def written(self) -> Written:
        """What has been made so far, as a manifest tells it."""
        return Written(None, self._digest.hexdigest(), self._lines, self._format, self._only)

    def _given(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data
