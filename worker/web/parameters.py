"""What may stand in a query: only what the route knows, so that a slip in ``sha256`` does not approve without it."""

from fastapi import Request
from fastapi.dependencies.models import Dependant

from worker.web.problems import Kind, Problem


def check_known(request: Request) -> None:
    """Raises ``Problem`` for a parameter that the API would ignore. Models forbid others by themselves."""
    if not request.query_params or not request.url.path.startswith("/v1/"):
        return
    known = _named(request.scope["route"].dependant)
    unknown = sorted(set(request.query_params) - known.keys())
    if unknown and not any(hasattr(kind, "model_fields") for kind in known.values()):
        there = f"it takes {', '.join(known)}" if known else "it takes none"
        raise Problem(Kind.REQUEST, f"{unknown[0][:40]!r} is no parameter of this address: {there}")


def _named(dependant: Dependant) -> dict[str, object]:
    """The query's parameters of a route and of all it depends on, and their types."""
    found: dict[str, object] = {each.alias: each.field_info.annotation for each in dependant.query_params}
    for other in dependant.dependencies:
        found |= _named(other)
    return found
