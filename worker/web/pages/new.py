"""A new batch in two steps: the file arrives and is looked at; then it is submitted, or not."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from worker.domain.batches import Batch, Lane
from worker.domain.errors import InputError
from worker.domain.people import Act, Person
from worker.intake.csv_file import DEFAULT_COLUMN, CsvFile
from worker.pipeline.accept import describe
from worker.pipeline.plan import Known, compared
from worker.web.access import who
from worker.web.forms import form
from worker.web.keeping import Kept
from worker.web.pages.rendering import page
from worker.web.problems import Kind, problem_of
from worker.web.state import TheWeb, Web
from worker.web.submitting import plan_of, submit
from worker.web.uploads import FileFields, SubmissionFields, received

router = APIRouter(prefix="/new")
Submitting = Annotated[Person, Depends(who(Act.SUBMIT))]


@router.get("")
async def choose(request: Request, person: Submitting, web: TheWeb) -> Response:
    """The form that takes a file."""
    return page(request, "new.html", person, column=DEFAULT_COLUMN, max_upload=web.settings.max_upload)


@router.post("")
async def receive(request: Request, person: Submitting, web: TheWeb) -> Response:
    """Keep the file, and go on to look at it."""
    async with received(request, web.settings) as upload:
        fields = upload.fields(FileFields())
        kept = web.kept.keep(upload, person.name)
    return RedirectResponse(_address(kept, fields), 303)


@router.get("/{kept_id}")
async def preview(
    request: Request, person: Submitting, web: TheWeb, kept_id: str, fields: Annotated[FileFields, Query()]
) -> Response:
    """What a submission of the file would do."""
    if made := web.kept.batch_of(kept_id, person.name):
        return _to_batch(made)
    kept = web.kept.find(kept_id, person.name)
    try:
        async with kept.opened(fields, web.settings) as csv_file:
            planned, known = await plan_of(web, csv_file), await _known(web, csv_file)
    except InputError as error:
        return _unreadable(request, person, kept, fields, error)
    return page(
        request,
        "preview.html",
        person,
        kept=kept.id,
        fields=fields,
        plan=planned,
        compared=compared(Known(0, 0, **planned["earlier"])),
        known=known,
        lanes=list(Lane),
        needs_approval=web.settings.approval.asks(planned["rows"], web.settings.environment),
    )


@router.post("/{kept_id}/submit")
async def submit_kept(
    request: Request,
    person: Submitting,
    web: TheWeb,
    kept_id: str,
    fields: Annotated[SubmissionFields, Depends(form(SubmissionFields))],
) -> Response:
    """Make a batch of the file; asked again, or by a double click, it is the same batch."""
    if made := web.kept.batch_of(kept_id, person.name):
        return _to_batch(made)
    async with web.kept.find(kept_id, person.name).turn:
        made = web.kept.batch_of(kept_id, person.name)
        if made is None:
            kept = web.kept.find(kept_id, person.name)
            request.state.kept = _address(kept, fields)
            async with kept.opened(fields, web.settings) as csv_file:
                made = (await submit(request, web, person, csv_file, fields)).batch.id
            web.kept.submitted(kept, made)
    return _to_batch(made)


@router.post("/{kept_id}/discard")
async def discard(person: Submitting, web: TheWeb, kept_id: str) -> Response:
    """Forget the file, unless it was submitted."""
    if made := web.kept.batch_of(kept_id, person.name):
        return _to_batch(made)
    web.kept.let_go(web.kept.find(kept_id, person.name).id)
    return RedirectResponse("/new", 303)


def _to_batch(batch_id: str) -> Response:
    return RedirectResponse(f"/batches/{batch_id}", 303)


def _address(kept: Kept, fields: FileFields) -> str:
    said = {"column": fields.column} | ({"skip_bad_rows": "true"} if fields.skip_bad_rows else {})
    return f"/new/{kept.id}?{urlencode(said)}"


async def _known(web: Web, csv_file: CsvFile) -> Batch | None:
    """The batch that was made of the same file before."""
    settings, store = web.settings, web.store
    described = describe(csv_file.inspect(), settings.rules)
    known = await store.batches.known(described)
    return await store.batches.get(known.batch_id) if known is not None else None


def _unreadable(request: Request, person: Person, kept: Kept, fields: FileFields, error: InputError) -> Response:
    """What is wrong with the file, and the ways on from there."""
    problem = problem_of(error)
    shown: dict[str, Any] = {"kept": kept.id, "name": kept.name, "fields": fields}
    columns: Sequence[str] = error.columns
    return page(
        request,
        "unreadable.html",
        person,
        status=Kind.INPUT.status,
        **shown,
        detail=problem.detail,
        line=error.line,
        columns=list(dict.fromkeys(column.strip() for column in columns if column.strip())),
    )
