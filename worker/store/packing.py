"""How IDs, results and histories lie in Redis: packed, not pretty (docs/architecture.md, decision 7)."""

import struct
import zlib
from collections.abc import Sequence

import orjson

from worker.domain.outcomes import REASON_BY_CODE, Reason
from worker.domain.records import Doubt, History, Result

_HEAD = struct.Struct(">BBHB")  # reason, attempts, HTTP status, flags
_STORED = struct.Struct(">IBBHB")  # the same behind the store's clock, in seconds, which record.lua sets
_ROW = struct.Struct(">I")
_HISTORY = struct.Struct(">BBBB")

_READY_KNOWN, _READY, _HEX_ID, _TEXT_ID, _MISSING, _FIRST_ROW, _NOTE = (1 << bit for bit in range(7))
_RARE = _TEXT_ID | _MISSING | _FIRST_ROW | _NOTE
_HEX = frozenset("0123456789abcdef")


def pack_ids(ids: Sequence[str]) -> bytes:
    """A shard's ID cells, in order, as one compressed string: about 21 bytes an ID of 32 random hex digits."""
    return zlib.compress(orjson.dumps(ids), 6)


def unpack_ids(packed: bytes) -> list[str]:
    """The inverse of ``pack_ids``."""
    ids: list[str] = orjson.loads(zlib.decompress(packed))
    return ids


def pack_kept(rows: Sequence[Sequence[str]]) -> bytes:
    """A shard's kept cells besides the IDs, row by row."""
    return zlib.compress(orjson.dumps(rows), 6)


def unpack_kept(packed: bytes) -> list[list[str]]:
    """The inverse of ``pack_kept``."""
    rows: list[list[str]] = orjson.loads(zlib.decompress(packed))
    return rows


def pack_result(result: Result) -> bytes:
    """Everything but ``finished_at``, which the store sets: 21 bytes where the request ID is 32 hex digits."""
    flags, tail = 0, b""
    if result.is_wallet_ready is not None:
        flags |= _READY_KNOWN | (_READY if result.is_wallet_ready else 0)
    if result.request_id:
        if len(result.request_id) == 32 and _HEX.issuperset(result.request_id):
            flags |= _HEX_ID
            tail += bytes.fromhex(result.request_id)
        else:
            flags |= _TEXT_ID
            tail += _text(result.request_id)
    if result.missing_field:
        flags |= _MISSING
        tail += _text(";".join(result.missing_field))
    if result.first_row is not None:
        flags |= _FIRST_ROW
        tail += _ROW.pack(result.first_row)
    if result.note:
        flags |= _NOTE
        tail += _text(result.note)
    return _HEAD.pack(result.reason.code, min(result.attempts, 255), result.http_status or 0, flags) + tail


def pack_outcome(offset: int, result: Result, digest: bytes) -> bytes:
    """What record.lua reads of a record: its offset, its reason's text, its packed result, its digest or nothing."""
    reason, packed = result.reason.text.encode(), pack_result(result)
    layout = f">IB{len(reason)}sH{len(packed)}sB{len(digest)}s"
    return struct.pack(layout, offset, len(reason), reason, len(packed), packed, len(digest), digest)


def unpack_result(packed: bytes) -> Result:
    """Read what record.lua stored: the time, then a packed result."""
    finished_at, code, attempts, status, flags = _STORED.unpack_from(packed)
    if flags & _RARE:
        request_id, missing_field, first_row, note = _unpack_tail(packed, flags)
    else:
        request_id, missing_field, first_row, note = packed[_STORED.size :].hex() or None, (), None, None
    return Result(
        reason=REASON_BY_CODE[code],
        http_status=status or None,
        attempts=attempts,
        request_id=request_id,
        missing_field=missing_field,
        is_wallet_ready=bool(flags & _READY) if flags & _READY_KNOWN else None,
        first_row=first_row,
        note=note,
        finished_at=float(finished_at),
    )


def unpack_end(packed: bytes) -> tuple[int, Reason]:
    """When a record ended, in seconds since the epoch, and why: the beginning of what ``unpack_result`` reads."""
    finished_at, code, *_ = _STORED.unpack_from(packed)
    return finished_at, REASON_BY_CODE[code]


def _unpack_tail(packed: bytes, flags: int) -> tuple[str | None, tuple[str, ...], int | None, str | None]:
    reader = _Reader(packed, _STORED.size)
    request_id = reader.take(16).hex() if flags & _HEX_ID else reader.text() if flags & _TEXT_ID else None
    missing_field = tuple(reader.text().split(";")) if flags & _MISSING else ()
    first_row = _ROW.unpack(reader.take(_ROW.size))[0] if flags & _FIRST_ROW else None
    return request_id, missing_field, first_row, reader.text() if flags & _NOTE else None


def pack_history(history: History) -> bytes:
    """Four bytes: attempts, doubt, reason of the last unanswered attempt, attempts that do not count."""
    code = history.unanswered.code if history.unanswered else 0
    attempts = min(history.attempts, 255)
    return _HISTORY.pack(attempts, history.doubt, code, max(0, attempts - history.used))


def unpack_history(packed: bytes) -> History:
    """The inverse of ``pack_history``."""
    attempts, doubt, code, spared = _HISTORY.unpack(packed)
    return History(attempts, Doubt(doubt), REASON_BY_CODE[code] if code else None, spared)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


class _Reader:
    __slots__ = ("_at", "_packed")

    def __init__(self, packed: bytes, at: int) -> None:
        self._packed, self._at = packed, at

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        return self._packed[start : self._at]

    def text(self) -> str:
        (size,) = struct.unpack(">H", self.take(2))
        return self.take(size).decode()
