"""A report into a file or a stream: whole or not at all, with its SHA-256 computed on the way (SPEC 9)."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from worker.domain.errors import UsageError
from worker.domain.outcomes import Outcome
from worker.reports.columns import ReportFormat, ReportRow
from worker.reports.pages import ReportPages, Written

_ROWS = 1000  # at a time


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
        written = _stream(write, report_format, columns, rows, delimiter, only)
    return replace(written, path=target)


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
    written = _stream(_all_of(stream), report_format, columns, rows, delimiter, only)
    stream.flush()
    return written


def _stream(
    write: Callable[[bytes], object],
    report_format: ReportFormat,
    columns: Sequence[str],
    rows: Iterable[ReportRow],
    delimiter: str,
    only: frozenset[Outcome] | None,
) -> Written:
    rest = iter(rows)
    with closing(ReportPages(report_format, columns, delimiter=delimiter, only=only)) as pages:
        while some := list(islice(rest, _ROWS)):
            write(pages.add(some))
        for piece in pages.end():
            write(piece)
    return pages.written


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
