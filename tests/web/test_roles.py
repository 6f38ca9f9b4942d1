"""Each page and each address is for the roles that docs/web.md and docs/safety.md name, and for nobody else."""

import pytest

from tests.conftest import existing, submit
from tests.web.conftest import As, Client
from tests.web.test_access import routes
from worker.domain.batches import BatchState
from worker.domain.people import Act, Role
from worker.web.access import acts_of
from worker.web.app import PUBLIC
from worker.wiring import Store

PAGE = {"Accept": "text/html"}
OF_PAGES = {
    "GET /batches": Act.LOOK,
    "GET /batches/{batch_id}": Act.LOOK,
    "GET /batches/{batch_id}/live": Act.LOOK,
    "GET /batches/{batch_id}/approve": Act.APPROVE,
    "POST /batches/{batch_id}/approve": Act.APPROVE,
    "POST /batches/{batch_id}/pause": Act.PAUSE,
    "POST /batches/{batch_id}/resume": Act.RESUME,
    "GET /batches/{batch_id}/cancel": Act.CANCEL,
    "POST /batches/{batch_id}/cancel": Act.CANCEL,
    "GET /batches/{batch_id}/retry": Act.SUBMIT,
    "POST /batches/{batch_id}/retry": Act.SUBMIT,
    "GET /new": Act.SUBMIT,
    "POST /new": Act.SUBMIT,
    "GET /new/{kept_id}": Act.SUBMIT,
    "POST /new/{kept_id}/submit": Act.SUBMIT,
    "POST /new/{kept_id}/discard": Act.SUBMIT,
    "GET /holds": Act.LOOK,
    "POST /holds": Act.HOLD,
    "POST /holds/release": Act.RELEASE,
    "POST /holds/file": Act.HOLD,
    "POST /holds/resubmit": Act.RELEASE,
    "POST /holds/release/confirmed": Act.RELEASE,
    "GET /audit": Act.LOOK,
}
"""What each page is for; the addresses of the API are compared with docs/api.md."""
OF_OTHERS = {
    "approve": {Role.APPROVER, Role.ADMIN},
    "pause": {Role.ADMIN},
    "resume": {Role.ADMIN},
    "cancel": {Role.ADMIN},
    "retry": {Role.SUBMITTER, Role.ADMIN},
}
"""Who may do what with a batch that somebody else submitted."""


def test_each_page_is_for_the_act_that_it_is_about() -> None:
    found = dict[str, Act]()
    for route in routes():
        if route.path in PUBLIC or (route.path or "").startswith(("/v1/", "/metrics")):
            continue
        (act,) = acts_of(route.dependant)
        found |= {f"{method} {route.path}": act for method in route.methods or ()}
    assert found == OF_PAGES


@pytest.mark.parametrize("prefix", ["", "/v1"], ids=["page", "API"])
@pytest.mark.parametrize("act", OF_OTHERS)
async def test_a_batch_of_somebody_else_is_for_these_roles_alone(
    ada: Client, as_: As, web_store: Store, act: str, prefix: str
) -> None:
    state = BatchState.AWAITING_APPROVAL if act == "approve" else BatchState.RUNNING
    clients = {role: await as_(f"otto-{role}", role) for role in (Role.VIEWER, Role.SUBMITTER, Role.APPROVER)}
    for role, client in (clients | {Role.ADMIN: ada}).items():
        batch_id = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
        if act == "approve":
            await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "state", state.value)
        answer = await client.post(f"{prefix}/batches/{batch_id}/{act}", headers=PAGE)
        assert (answer.status_code != 403) is (role in OF_OTHERS[act]), (role, answer.text)
        if answer.status_code == 403:
            assert (await existing(web_store.batches, batch_id)).state is state


@pytest.mark.parametrize("act", ["pause", "cancel"])
async def test_own_batches_are_controlled_from_the_page(anna: Client, web_store: Store, act: str) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    answer = await anna.post(f"/batches/{batch_id}/{act}", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/batches/{batch_id}")
    assert (await existing(web_store.batches, batch_id)).state is not BatchState.RUNNING


async def test_who_asked_for_it_is_in_the_trail_whatever_it_was(anna: Client, ben: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], submitted_by="somebody")).batch_id
    own = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    for act in ("pause", "resume", "cancel"):
        await anna.post(f"/v1/batches/{own}/{act}")
    await anna.post(f"/v1/batches/{batch_id}/pause")
    await anna.post("/v1/holds", json={"customer_ids": ["c1"], "ground": "7/2026"})
    await ben.post("/v1/holds/release", json={"customer_ids": ["c1"]})
    trail = [(entry.actor, entry.deed.value) async for entry in web_store.audit.entries()]
    assert trail[-6:] == [
        *(("anna", "paused"), ("anna", "resumed"), ("anna", "cancelled")),
        *(("anna", "refused"), ("anna", "held"), ("ben", "released")),
    ]
