"""A file in a request's body: streamed to an unnamed temporary file, its bytes capped, and checked from there."""

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from worker.domain.batches import Lane
from worker.domain.errors import InputError, StoreError
from worker.intake.csv_file import DEFAULT_COLUMN, CsvFile
from worker.intake.rows import MAX_ROW, TOO_LONG
from worker.intake.source import GZIP, Source
from worker.settings import Settings
from worker.web.parameters import check_apart, check_once
from worker.web.problems import UNREADABLE, Kind, Problem, in_words
from worker.web.shell import too_large

_RAW = frozenset({"text/csv", "application/gzip", "application/x-gzip"})
_FORM = "multipart/form-data"
_MAX_FIELD = 4096
_FIELDS = 20
_UNNAMED = "upload.csv"
_LONGEST_NAME = 200
UNPACKED = 4
"""How many times as many bytes as may be sent a packed file may hold."""

CONTENT: dict[str, Any] = {
    _FORM: {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary"}},
            "required": ["file"],
            "description": "The file, and any of the query's parameters as fields.",
        }
    },
    "text/csv": {"schema": {"type": "string"}, "example": "customer_id\ncustomer_1f0e\ncustomer_2a9b\n"},
    "application/gzip": {"schema": {"type": "string", "format": "binary"}},
}
"""What a body may be, for OpenAPI."""


class NamedFile(BaseModel):
    """Which file it is, and where the customers are in it; in the query, or as fields of the form."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(
        None, max_length=_LONGEST_NAME, description="The file's name, if it comes without one.", examples=["may.csv"]
    )
    column: str = Field(
        DEFAULT_COLUMN, min_length=1, max_length=_LONGEST_NAME, description="Column that holds the customer IDs."
    )


class FileFields(NamedFile):
    """How a file is to be read."""

    skip_bad_rows: bool = Field(False, description="Take rows that are no CSV as skipped instead of refusing the file.")


class SubmissionFields(FileFields):
    """How a file is to become a batch."""

    reference: str | None = Field(
        None,
        min_length=1,
        max_length=_LONGEST_NAME,
        description="Your name for the batch: the same one twice is one batch.",
    )
    lane: Lane = Field(Lane.BULK, description="`urgent` goes ahead of `bulk`.")
    due: str | None = Field(
        None,
        max_length=40,
        description="When it is to be done: 2026-12-24, a time, +30d or +1month.",
        examples=["+1month"],
    )
    keep: str | None = Field(
        None,
        max_length=4096,
        description="Columns to store besides the IDs, for the report; joined by commas.",
        examples=["case,branch"],
    )
    confirm: str | None = Field(
        None,
        max_length=40,
        description="In production: exactly the number of records, or the ID of the plan.",
        examples=["plan-4f0c2a91d7b35e68"],
    )
    again: bool = Field(False, description="Take a file that was taken before.")


Fields = TypeVar("Fields", bound=NamedFile)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that has arrived as a whole."""

    file: BinaryIO
    name: str
    """As it was given, without folders and control characters."""
    form: Mapping[str, str]
    """The other fields of the form; an empty one is as if it were not there."""

    def fields(self, query: Fields) -> Fields:
        """The fields of query and form; raises ``Problem`` for a wrong one, or one that is in both."""
        check_apart(query, self.form, "form")
        try:
            return type(query).model_validate(query.model_dump(exclude_unset=True) | dict(self.form))
        except ValidationError as error:
            wrong = "; ".join(in_words(each["loc"], each["msg"]) for each in error.errors()[:5])
            raise Problem(Kind.REQUEST, f"{wrong}: `/v1/openapi.json` says what is taken") from None

    async def open(self, fields: NamedFile, settings: Settings) -> CsvFile:
        """The file as CSV, every row of it checked; raises ``InputError`` and ``RefusedError`` as ``CsvFile`` does."""
        return await asyncio.to_thread(self._checked, fields, settings)

    def _checked(self, fields: NamedFile, settings: Settings) -> CsvFile:
        csv_file = CsvFile.open(
            Source.of(self.file, file_name(fields.source or self.name), UNPACKED * settings.max_upload),
            column=fields.column,
            rule=settings.id_rule,
            skip_bad_rows=isinstance(fields, FileFields) and fields.skip_bad_rows,
            max_rows=settings.max_batch,
        )
        csv_file.inspect()
        return csv_file


def media_type(headers: Headers) -> str:
    """Of the body, without its parameters; empty where nothing is said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def received(request: Request, settings: Settings) -> AsyncIterator[Upload]:
    """Read the body to its end: a form with the field ``file``, or the file alone. It is gone with the context.

    How much is read at most is for the ``Shell``, which must know the path. Raises ``Problem``, ``InputError``, and
    ``StoreError`` when the disk takes no more.
    """
    kind = media_type(request.headers)
    if kind not in (_FORM, *_RAW):
        raise Problem(Kind.MEDIA_TYPE, f"send the file as one of {', '.join([_FORM, *sorted(_RAW)])}")
    try:
        upload = await _from_form(request) if kind == _FORM else Upload(await _from_body(request), _UNNAMED, {})
    except OSError as error:
        raise StoreError(f"the file cannot be kept while it is checked: {error.strerror}; try again later") from None
    with upload.file:
        if os.fstat(upload.file.fileno()).st_size > settings.max_upload:  # the shell bounds the whole body
            raise too_large(settings.max_upload)
        yield upload


def file_name(given: str) -> str:
    """The last part of a path of any system, on one line."""
    last = re.split(r"[/\\]", given)[-1]
    return "".join(letter for letter in last if letter.isprintable()).strip()[:_LONGEST_NAME] or _UNNAMED


async def _from_body(request: Request) -> BinaryIO:
    file, first_line = tempfile.TemporaryFile(buffering=0), _FirstLine()  # noqa: SIM115 - ``received`` closes it
    try:
        async for chunk in request.stream():
            first_line.see(chunk, request.query_params.get("source"))
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    return cast("BinaryIO", file)


class _FirstLine:
    """Looks at the beginning of a file while it arrives."""

    def __init__(self) -> None:
        self._head = b""

    def see(self, chunk: bytes, name: str | None) -> None:
        """Raises ``InputError`` as soon as the first line of the file of this name is known to be too long."""
        if len(self._head) > MAX_ROW:
            return
        self._head += chunk[: MAX_ROW + 1]
        if len(self._head) > MAX_ROW and b"\n" not in self._head and not self._head.startswith(GZIP):
            raise InputError(file_name(name or _UNNAMED), TOO_LONG, 1)


class _Parser(MultiPartParser):
    """Looks at the file of a form while it arrives."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.headers, request.stream(), max_files=1, max_fields=_FIELDS, max_part_size=_MAX_FIELD)
        self._request, self._first_line = request, _FirstLine()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        if (file := self._current_part.file) is not None:
            self._first_line.see(data[start:end], self._request.query_params.get("source") or file.filename)


async def _from_form(request: Request) -> Upload:
    try:
        form = await _Parser(request).parse()
    except MultiPartException:
        raise Problem(Kind.REQUEST, UNREADABLE) from None
    try:
        check_once(name for name, _ in form.multi_items())
    except Problem:
        await form.close()
        raise
    file = form.get("file")
    if not isinstance(file, UploadFile) or not (file.filename or file.size):
        await form.close()
        raise Problem(Kind.REQUEST, "there is no file: choose one, or send it as the field `file`")
    spool = cast("Any", file.file)
    spool.rollover()  # into a file on the disk, if it is not yet
    others = {name: value for name, value in form.items() if value and isinstance(value, str)}
    return Upload(spool, file.filename or _UNNAMED, others)
