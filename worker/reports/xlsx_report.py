"""The report as an Excel workbook: every cell has a type, so that nothing can run and no ID becomes a number (SPEC 9).

Rows go to a temporary file as they come, for the workbook is a ZIP archive that can be made only at the end.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xlsxwriter.exceptions import XlsxWriterException
from xlsxwriter.workbook import Workbook
from xlsxwriter.worksheet import Worksheet

from worker.domain.errors import RoomError
from worker.reports.columns import COLUMNS, ReportFormat, ReportRow, Value, typed
from worker.reports.formats import XLSX_ROWS, check_cell, check_format

_CHUNK = 1 << 18
_NO_XML = "\\x00-\\x08\\x0b-\\x1f\\ud800-\\udfff\\ufffe\\uffff"
_ESCAPED = re.compile(f"[{_NO_XML}]|_(?=x[0-9a-fA-F]{{4}}[_{_NO_XML}])")
_OPTIONS = {
    "constant_memory": True,
    "strings_to_formulas": False,
    "strings_to_urls": False,
    "strings_to_numbers": False,
    "use_zip64": True,  # a sheet may have more than 2 GiB before it is packed
}
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class XlsxPieces:
    """A workbook piece by piece: ``add`` rows in their order, then take what ``end`` gives; ``close`` in any case.

    The same rows give the same bytes. Raises FormatError for what a sheet cannot hold, and RoomError if there is no
    room for the temporary files.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        check_format(ReportFormat.XLSX, columns=columns)
        self._names = (*columns, *COLUMNS)
        self._rows = 0
        with _room():
            self._folder = tempfile.TemporaryDirectory(prefix="expunge-", ignore_cleanup_errors=True)
            self._path = Path(self._folder.name, "report.xlsx")
            self._book = Workbook(self._path, {**_OPTIONS, "tmpdir": self._folder.name})
            self._book.set_properties({"created": _LONG_AGO})  # else two reports of the same rows would differ
            self._sheet: _Sheet = self._book.add_worksheet("Report", _Sheet)
            self._sheet.freeze_panes(1, 0)
            self._sheet.ignore_errors({"number_stored_as_text": "A1:XFD1048576"})
            for place, name in enumerate(self._names):
                self._sheet.write_string(0, place, name)

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        """Take the next rows; there are no bytes before the end."""
        for row in rows:
            self._rows += 1
            if self._rows > XLSX_ROWS:
                check_format(ReportFormat.XLSX, self._rows)
            with _room():
                self._write([*row.cells, *typed(row)])
        return b""

    def end(self) -> Iterator[bytes]:
        """The workbook."""
        with _room():
            self._book.close()
            with self._path.open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece

    def close(self) -> None:
        """Remove the temporary files; safe to call twice."""
        self._sheet.let_go()
        self._folder.cleanup()

    def _write(self, values: Sequence[Value]) -> None:
        sheet, number = self._sheet, self._rows
        for place, value in enumerate(values):
            match value:
                case bool():
                    sheet.write_boolean(number, place, value)
                case int():
                    sheet.write_number(number, place, value)
                case None | "" | []:
                    pass
                case _:
                    text = value if isinstance(value, str) else ";".join(value)
                    check_cell(text, f"row {number:,}, column {self._names[place][:40]!r}")
                    sheet.write_string(number, place, text)


class _Sheet(Worksheet):  # type: ignore[misc] # ships no types
    """A sheet whose text cells hold what was given and nothing else.

    The library takes text in ``<r>`` tags for its own markup and puts it into the file as it is; and it escapes only
    the first of two escapes that share their underscore, so that ``_x0041_x0042_`` would come back as another text.
    """

    def let_go(self) -> None:
        self._opt_close()

    def _xml_rich_inline_string(self, string: str, attributes: Any = ()) -> None:
        self._xml_inline_string(string, preserve=True, attributes=attributes)

    @staticmethod
    def _escape_control_characters(data: object) -> object:
        if not isinstance(data, str):
            return data
        return _ESCAPED.sub(lambda found: f"_x{ord(found[0]):04X}_", data)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except (OSError, XlsxWriterException) as error:
        raise RoomError(
            f"a temporary file in {tempfile.gettempdir()} cannot be written ({error}): "
            f"xlsx needs about 1.3 GB for a million rows; make room, or set TMPDIR"
        ) from None
