"""What may stand in a query: only what the route knows, so that a slip in ``sha256`` does not approve without it.

And each once, there and in a form: readers differ in which of two counts.
"""

from collections.abc import Iterable

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from worker.web.problems import Kind, Problem


def check_known(request: Request) -> None:
    """Raises ``Problem`` for a parameter that is there twice, or that the API would ignore.

    Models forbid others by themselves.
    """
    check_once(name for name, _ in request.query_params.multi_items())
    if not request.query_params or not request.url.path.startswith("/v1/"):
        return
    known = _named(request.scope["route"].dependant)
    unknown = sorted(set(request.query_params) - known.keys())
    if unknown and not any(hasattr(kind, "model_fields") for kind in known.values()):
        there = f"it takes {', '.join(known)}" if known else "it takes none"
        raise Problem(Kind.REQUEST, f"{unknown[0][:40]!r} is no parameter of this address: {there}")


def check_once(names: Iterable[str]) -> None:
    """Raises ``Problem`` for a parameter or field that is there twice; none of ours is a list."""
    seen = set[str]()
    for name in names:
        if name in seen:
            raise Problem(Kind.REQUEST, f"{name[:40]!r} is there twice: say it once")
        seen.add(name)


def check_apart(query: BaseModel, said: Iterable[str], where: str) -> None:
    """Raises ``Problem`` for what the query says and what comes with it says as well."""
    if both := sorted(query.model_fields_set.intersection(said)):
        raise Problem(Kind.REQUEST, f"{both[0]!r} is in the address and in the {where}: say it once")


def _named(dependant: Dependant) -> dict[str, object]:
    """The query's parameters of a route and of all it depends on, and their types."""
    found: dict[str, object] = {each.alias: each.field_info.annotation for each in dependant.query_params}
    for other in dependant.dependencies:
        found |= _named(other)
    return found
