"""CSV rows out of bytes: RFC 4180 quotes, line numbers, and what is wrong with a row that cannot be taken (SPEC 8)."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

MAX_ROW = 65_536
"""Bytes of a whole row, its line ends included."""

ParsedRow = tuple[int, list[str], str | None]
_SHOWN = 200
_COULD_BE_AN_ID = re.compile(r"\s*[A-Za-z0-9._~-]*\s*")

NOT_UTF_8 = "is not UTF-8 (Latin-1?): save the file as 'CSV UTF-8'"
HAS_NUL = "has a NUL character: export the file anew as 'CSV UTF-8'"
TOO_LONG = "is over 64 KiB: put each customer on a line of its own"
TOO_LONG_QUOTED = "is over 64 KiB: is a quote left open in this row?"
NEVER_CLOSED = "has a quote that is never closed"
AFTER_QUOTE = "has text after a closing quote: a quote within a cell is written twice"
LONE_CR = "has a carriage return outside quotes: lines must end with LF or CRLF"
UNREADABLE = "is no CSV"
INSIDE_BROKEN = "has too few fields, and may belong to the broken row before it"


class _BrokenRowError(Exception):
    """Its text is what is wrong with the row."""


class RowReader:
    """Reads rows one after the other; a broken row does not keep it from reading on.

    Iterating gives ``(line, cells, problem)``: the physical line (from 1) on which the row starts, its cells, and None.
    A row with too few cells is filled up with empty ones to ``width``. Lines of white space only are left out.

    Of a broken row, ``problem`` says what is wrong, and the only cell is the line as far as it can be shown: a text
    that no rule accepts as a customer ID, so that it stays refused when a report of it is fed back. Reading goes on at
    the line after the one on which the broken row starts. Lines that an open quote had swallowed may be the text of a
    cell rather than rows, so of these only such with exactly ``width`` cells count as rows, and the others as broken.
    """

    def __init__(self, stream: BinaryIO, delimiter: str, width: int | None = None) -> None:
        """``width`` is the number of columns; None for the header, which decides it."""
        self._readline = stream.readline
        self._delimiter = delimiter
        self._width = width
        self._line = 0
        self._again: deque[bytes] = deque()
        self._cut = False

    def __iter__(self) -> Iterator[ParsedRow]:
        delimiter, width = self._delimiter, self._width
        next_line, again = self._next_line, self._again
        problem: str | None
        while True:
            swallowed = bool(again)
            raw = next_line()
            if not raw:
                return
            start = self._line
            try:
                text = raw.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                text = "\0"
            if '"' in text or "\r" in text or "\0" in text or len(raw) > MAX_ROW:
                cells, problem = self._read_with_care(raw)
            elif (not text or text.isspace()) and delimiter not in text:
                continue
            else:
                cells, problem = text.split(delimiter), None
            if problem is None and len(cells) != width and width is not None:
                cells, problem = self._fitted(cells, raw, width, swallowed=swallowed)
            yield start, cells, problem

    def _next_line(self) -> bytes:
        """The next physical line with its end, cut off after ``MAX_ROW + 1`` bytes; empty at the end."""
        if self._again:
            self._line += 1
            return self._again.popleft()
        while self._cut:
            rest = self._readline(MAX_ROW)
            self._cut = bool(rest) and not rest.endswith(b"\n")
        raw = self._readline(MAX_ROW + 1)
        if raw:
            self._line += 1
        self._cut = len(raw) > MAX_ROW and not raw.endswith(b"\n")
        return raw

    def _read_with_care(self, raw: bytes) -> tuple[list[str], str | None]:
        """The row that starts with this line, and may go on over the next ones."""
        lines = [raw]
        try:
            return next(csv.reader(self._checked(lines), delimiter=self._delimiter, strict=True)), None
        except _BrokenRowError as error:
            problem = str(error)
        except csv.Error as error:
            problem = _translated(error)
        self._again.extendleft(reversed(lines[1:]))
        self._line -= len(lines) - 1
        return [_shown(raw)], problem

    def _checked(self, lines: list[bytes]) -> Iterator[str]:
        """The text of ``lines`` and of those after them, which it adds; raises _BrokenRowError."""
        size = 0
        raw = lines[0]
        while raw:
            size += len(raw)
            if size > MAX_ROW:
                raise _BrokenRowError(TOO_LONG if len(lines) == 1 else TOO_LONG_QUOTED)
            if b"\0" in raw:
                raise _BrokenRowError(HAS_NUL)
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                raise _BrokenRowError(NOT_UTF_8) from None
            yield text
            raw = self._next_line()
            if raw:
                lines.append(raw)

    def _fitted(self, cells: list[str], raw: bytes, width: int, *, swallowed: bool) -> tuple[list[str], str | None]:
        if len(cells) > width:
            return [_shown(raw)], f"has {len(cells)} fields, but the header has {width}"
        if swallowed:
            return [_shown(raw)], INSIDE_BROKEN
        return cells + [""] * (width - len(cells)), None


def _translated(error: csv.Error) -> str:
    text = str(error)
    if "expected after" in text:
        return AFTER_QUOTE
    if "unexpected end of data" in text:
        return NEVER_CLOSED
    if "new-line character" in text:
        return LONE_CR
    return UNREADABLE


def _shown(raw: bytes) -> str:
    """The line as text, with U+FFFD for what is none; the beginning only of one that is too long.

    If it could be an ID by itself (``c1`` and two tabs), it gets a ``"`` before it.
    """
    text = raw.decode("utf-8", "replace").rstrip("\r\n").replace("\0", "\ufffd")
    if len(raw) > MAX_ROW:
        return text[:_SHOWN] + "…"
    return '"' + text if _COULD_BE_AN_ID.fullmatch(text) else text
