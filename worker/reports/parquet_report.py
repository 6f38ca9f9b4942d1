"""The report as Parquet: columns of a fixed type, in groups of rows, so that memory stays bounded (SPEC 9)."""

import io
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from worker.reports.columns import COLUMNS, ReportRow, typed, unique_names

_GROUP = 1 << 15
"""Rows: what is held back at most."""
_BATCH = 1 << 11
_TYPES = {
    "expunge_row": pa.int64(),
    "expunge_outcome": pa.string(),
    "expunge_reason": pa.string(),
    "expunge_missing_field": pa.list_(pa.string()),
    "expunge_retryable": pa.bool_(),
    "expunge_next_step": pa.string(),
    "expunge_http_status": pa.int64(),
    "expunge_attempts": pa.int64(),
    "expunge_request_id": pa.string(),
    "expunge_finished_at": pa.timestamp("ms", tz="UTC"),
    "expunge_first_row": pa.int64(),
    "expunge_batch": pa.string(),
}
_MISSING, _REQUEST, _FINISHED = (
    COLUMNS.index(f"expunge_{name}") for name in ("missing_field", "request_id", "finished_at")
)


class ParquetPieces:
    """A Parquet file piece by piece: ``add`` rows in their order, then take what ``end`` gives; ``close`` in any case.

    The same rows give the same bytes, however they are handed in.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        fields = [pa.field(name, pa.string()) for name in unique_names(columns)]
        self._schema = pa.schema([*fields, *(pa.field(name, _TYPES[name]) for name in COLUMNS)])
        self._sink = _Sink()
        self._writer = ParquetWriter(self._sink, self._schema, compression="zstd")
        self._rows: list[list[object]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, rows: Iterable[ReportRow]) -> bytes:
        """Take the next rows; gives the groups that are full, if any."""
        for row in rows:
            self._rows.append(_values(row))
            if len(self._rows) == _BATCH:
                self._pack()
        return self._sink.taken()

    def end(self) -> Iterator[bytes]:
        """What is left."""
        self._pack()
        self._write()
        self._writer.close()
        yield self._sink.taken()

    def close(self) -> None:
        """Let go of everything; safe to call twice."""
        self._writer.close()

    def _pack(self) -> None:
        if self._rows:
            columns = zip(zip(*self._rows, strict=True), self._schema.types, strict=True)
            arrays = [pa.array(values, kind) for values, kind in columns]
            self._batches.append(pa.record_batch(arrays, schema=self._schema))
            self._rows.clear()
        if len(self._batches) * _BATCH >= _GROUP:
            self._write()

    def _write(self) -> None:
        if self._batches:
            self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=_GROUP)
            self._batches.clear()


def _values(row: ReportRow) -> list[object]:
    values: list[object] = list(typed(row))
    if row.result is not None:
        missing, request_id, finished_at = row.result.missing_field, row.result.request_id, row.result.finished_at
        values[_MISSING] = [_sayable(name) for name in missing]
        values[_REQUEST] = _sayable(request_id) if request_id is not None else None
        values[_FINISHED] = None if finished_at is None else int(finished_at) * 1000
    return [*(cell or None for cell in row.cells), *values]


def _sayable(text: str) -> str:
    """Half a surrogate pair, which UTF-8 cannot say, as the CSV report has it."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Sink(io.RawIOBase):
    """A file for the library that keeps only what nobody has taken yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: object, /) -> int:
        part = bytes(data)  # type: ignore[call-overload] # a buffer of the library's, which is gone afterwards
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def taken(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
