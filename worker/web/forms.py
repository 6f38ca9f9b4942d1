"""Forms of pages, read when it is known who sends them: what the framework itself reads, it reads before it asks."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from worker.web.parameters import check_once

Fields = TypeVar("Fields", bound=BaseModel)


def form(model: type[Fields]) -> Callable[[Request], Awaitable[Fields]]:
    """A dependency: the fields of a form without files, where an empty one is as if it were not there.

    It stands behind ``who`` or ``on_batch`` among a route's parameters: they are looked at in their order.
    """

    async def read(request: Request) -> Fields:
        async with request.form(max_files=0) as sent:
            check_once(name for name, _ in sent.multi_items())
            given = {name: value for name, value in sent.items() if value}
        return validated(model, given)

    return read


def validated(model: type[Fields], said: Any) -> Fields:
    """What somebody said as the model has it; raises ``RequestValidationError``, which does not repeat it."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_context=False)) from None
