"""A report into a file or a stream: whole or not at all, with its SHA-256 computed on the way (SPEC 9)."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, assert_never

from worker.domain.errors import UsageError
from worker.domain.outcomes import Outcome
from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.csv_report import write_csv
from worker.reports.jsonl_report import write_jsonl
from worker.reports.pieces import encoded, pieces_of

_CHUNK = 1 << 18
_ROWS = 1000  # at a time, where bytes are made of several


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


def write_report(
    path: str | Path,
    report_format: ReportFormat,
    columns: Sequence[str],
    rows: Iterable[ReportRow],
    *,
    delimiter: str = ",",
    only: frozenset[Outcome] | None = None,
) -> Written:
    """Write the report to a file, which is replaced in one step when all of it is on the disk.

    The file can be read by its owner only, for it holds customers' data. If anything fails, what was there
    before stays. Raises UsageError when the place cannot be written to, and whatever ``rows`` raises.
    """
    target = Path(path)
    with replacing(target) as write:
        sha256, lines = _stream(write, report_format, columns, rows, delimiter, only)
    return Written(target, sha256, lines, report_format, only)


def stream_report(
    stream: BinaryIO,
    report_format: ReportFormat,
    columns: Sequence[str],
    rows: Iterable[ReportRow],
    *,
    delimiter: str = ",",
    only: frozenset[Outcome] | None = None,
) -> Written:
    """Write the report to a stream such as standard output; flushed, not closed, and its OSErrors let through."""
    sha256, lines = _stream(_all_of(stream), report_format, columns, rows, delimiter, only)
    stream.flush()
    return Written(None, sha256, lines, report_format, only)


def _stream(
    write: Callable[[bytes], object],
    report_format: ReportFormat,
    columns: Sequence[str],
    rows: Iterable[ReportRow],
    delimiter: str,
    only: frozenset[Outcome] | None,
) -> tuple[str, int]:
    out = _Digested(write)
    counted = _Counted(rows if only is None else (row for row in rows if row.outcome in only))
    match report_format:
        case ReportFormat.CSV:
            write_csv(out, columns, counted, delimiter=delimiter)
        case ReportFormat.JSONL:
            write_jsonl(out, columns, counted)
        case ReportFormat.XLSX | ReportFormat.PARQUET:
            _write_pieces(out, report_format, columns, iter(counted))
        case _:
            assert_never(report_format)
    out.flush()
    return out.digest.hexdigest(), counted.count


def _write_pieces(
    out: "_Digested", report_format: ReportFormat, columns: Sequence[str], rows: Iterator[ReportRow]
) -> None:
    with closing(pieces_of(report_format, columns)) as pieces:
        while some := list(islice(rows, _ROWS)):
            out.give(pieces.add(some))
        for piece in pieces.end():
            out.give(piece)


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, rows: Iterable[ReportRow]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[ReportRow]:
        for row in self._rows:
            self.count += 1
            yield row


class _Digested:
    """Takes text, and gives on UTF-8 in large pieces; ``digest`` has seen what was given on."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.digest = hashlib.sha256()
        self._write = write
        self._parts: list[str] = []
        self._size = 0

    def write(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)
        if self._size > _CHUNK:
            self.flush()

    def flush(self) -> None:
        data = encoded("".join(self._parts))
        self._parts.clear()
        self._size = 0
        self.give(data)

    def give(self, data: bytes) -> None:
        """Give on what is bytes already; nothing of a text may be held back."""
        self.digest.update(data)
        self._write(data)


def check_place(path: str) -> None:
    """Raise UsageError if a report could not be written there; ``-`` always can. Leaves nothing behind."""
    if path != "-":
        with _as_usage_error(target := _place(path)), tempfile.TemporaryFile(dir=target.parent):
            pass


def _place(path: str | Path) -> Path:
    """The file that a report replaces: what a link points to, and never a device or a pipe."""
    target = Path(path).resolve()
    if target.is_dir():
        raise UsageError(f"{path}: is a directory: name a file for the report")
    if target.exists() and not target.is_file():
        raise UsageError(f"{path}: is no ordinary file: name a file for the report, or - for stdout")
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Give a function that writes to a temporary file beside ``target``, which takes its place if nothing is raised.

    OSErrors of the file become UsageError; those of the block do not.
    """
    target = _place(target)
    with _as_usage_error(target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:64]}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            write = _all_of(file)

            def write_translated(data: bytes) -> None:
                with _as_usage_error(target):
                    write(data)

            yield write_translated
            with _as_usage_error(target):
                os.fsync(file.fileno())
        with _as_usage_error(target):
            temporary.replace(target)
            _sync_directory(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _as_usage_error(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror}): name another place with --out") from None


def _all_of(stream: BinaryIO) -> Callable[[bytes], None]:
    """A write that does not stop half way, as that of an unbuffered stream may."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]

    return write


def _sync_directory(directory: Path) -> None:
    """Make the new name last; not every file system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
