"""A file becomes a batch, or a plan of one."""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.responses import JSONResponse, Response

from worker.domain.people import Act, Person
from worker.intake.csv_file import CsvFile
from worker.pipeline.accept import describe
from worker.pipeline.admission import signed
from worker.pipeline.plan import look_into, plan_json
from worker.pipeline.submission import Taken, check_confirmation, moment, repeated, take_in
from worker.reports.as_json import batch_json
from worker.store.requests import Answer, NotBegun
from worker.web.access import concerns, who
from worker.web.bodies import BatchBody, PreviewBody
from worker.web.problems import Kind, Problem, documented
from worker.web.state import TheWeb, Web
from worker.web.uploads import CONTENT, FileFields, SubmissionFields, received

router = APIRouter(prefix="/v1", tags=["submissions"])
_SHOWN = 10
_BODY = {"requestBody": {"required": True, "content": CONTENT}}
Submitting = Annotated[Person, Depends(who(Act.SUBMIT))]
Key = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="Any word that stands for this request: sent twice, it is done once, and answered the same.",
    ),
]


@router.post(
    "/batches",
    status_code=202,
    response_model=BatchBody,
    openapi_extra=_BODY,
    responses={
        **documented(
            *(Kind.MEDIA_TYPE, Kind.INPUT, Kind.SIZE, Kind.CONFIRMATION, Kind.REPEAT, Kind.REFERENCE),
            *(Kind.KEY_IN_USE, Kind.KEY_REUSED),
        ),
        200: {"model": BatchBody, "description": "The reference names this batch already."},
    },
)
async def submit_batch(
    request: Request,
    person: Submitting,
    web: TheWeb,
    query: Annotated[SubmissionFields, Query()],
    idempotency_key: Key = None,
) -> Response:
    """Submit a CSV file of customer IDs. When this is answered, the whole batch is stored."""
    async with received(request, web.settings) as upload:
        fields = upload.fields(query)
        with await upload.open(fields, web.settings) as csv_file:

            async def make() -> Answer:
                return answer_of(await submit(request, web, person, csv_file, fields))

            return await once(web, person, idempotency_key, (csv_file.inspect().sha256, fields), make)


async def submit(request: Request, web: Web, person: Person, csv_file: CsvFile, fields: SubmissionFields) -> Taken:
    """Make a batch of a checked file, by the rules of ``expunge submit``; raises as these do."""
    settings, store = web.settings, web.store
    due = moment("due", fields.due)
    description = describe(
        csv_file.inspect(),
        settings.rules,
        reference=fields.reference,
        lane=fields.lane,
        due=due,
        keep=fields.keep.split(",") if fields.keep else (),
    )
    check_confirmation(description, fields.confirm)
    description = signed(description, person.name)
    taken = await take_in(store.batches, store.holds, store.feeder, csv_file, description, again=fields.again)
    if taken.known_by == "file":
        concerns(request, taken.batch)
        raise repeated(taken.batch)
    return taken


async def once(
    web: Web, person: Person, key: str | None, said: tuple[Any, BaseModel], make: Callable[[], Awaitable[Answer]]
) -> Response:
    """What ``make`` answers; with a key, what the first request with it was answered, if that ``said`` the same."""
    if key is None:
        return _response(await make())
    requests, content = web.store.requests, _digest(*said)
    known = await requests.begin(person.name, key, content)
    if known is NotBegun.IN_WORK:
        raise Problem(Kind.KEY_IN_USE, "the request with this key is in work; ask again later", headers=_LATER)
    if known is NotBegun.ANOTHER:
        raise Problem(Kind.KEY_REUSED, "the key stands for a request with another file or other fields: use a new one")
    if known is not None:
        return _response(known)
    try:
        answer = await make()
    except BaseException:
        with suppress(RedisError):  # it expires
            await requests.drop(person.name, key)
        raise
    await requests.keep(person.name, key, content, answer)
    return _response(answer)


_LATER = {"Retry-After": "5"}


def _digest(content: Any, fields: BaseModel) -> str:
    said = orjson.dumps([content, fields.model_dump(mode="json")])
    return hashlib.sha256(said).hexdigest()


def answer_of(taken: Taken) -> Answer:
    """A batch that was made now, or before."""
    status = 202 if taken.known_by is None else 200
    return Answer(status, f"/v1/batches/{taken.batch.id}", batch_json(taken.batch), [taken.batch.id])


def _response(answer: Answer) -> Response:
    return JSONResponse(answer.body, answer.status, {"Location": answer.location} if answer.location else None)


@router.post(
    "/plans",
    response_model=PreviewBody,
    openapi_extra=_BODY,
    responses=documented(Kind.MEDIA_TYPE, Kind.INPUT, Kind.SIZE),
)
async def make_plan(
    request: Request, _: Submitting, web: TheWeb, query: Annotated[FileFields, Query()]
) -> dict[str, Any]:
    """Check a file and say what a submission of it would do. Sends and stores nothing."""
    async with received(request, web.settings) as upload:
        with await upload.open(upload.fields(query), web.settings) as csv_file:
            return await plan_of(web, csv_file)


async def plan_of(web: Web, csv_file: CsvFile) -> dict[str, Any]:
    """The plan of a checked file and the beginning of the file, as JSON values."""
    settings, store = web.settings, web.store
    target = settings.target
    known = await look_into(csv_file, store.batches, store.holds, store.ledger, target, time.time())
    planned = plan_json(csv_file.inspect(), target, settings.rate_limit, known)
    return planned | {"columns": list(csv_file.columns), "first_rows": list(_first_rows(csv_file))}


def _first_rows(csv_file: CsvFile) -> Iterator[list[str]]:
    for cells in islice(csv_file.cells(), _SHOWN):
        yield [cell[:200] for cell in cells]
