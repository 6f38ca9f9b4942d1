"""The audit trail over HTTP: of one merchant and environment, newest first."""

import pytest

from tests.conftest import submit
from tests.web.conftest import Client, problem
from worker.domain.batches import BatchState, Environment, Target
from worker.domain.holds import Term
from worker.store.holds import Holds
from worker.wiring import Store

OTHER = Target(Environment.SANDBOX, "m2", "0" * 12)


async def test_what_was_done_to_batches_of_others_is_not_shown(vera: Client, web_store: Store) -> None:
    mine = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    theirs = (await submit(web_store.batches, ["c1"], target=OTHER)).batch_id
    for batch_id in (mine, theirs):
        await web_store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, actor="ada")
    await Holds(web_store.redis, OTHER).add(["c1"], Term("theirs"), replace=False)
    await web_store.holds.add(["c1"], Term("ours"), replace=False)
    entries = (await vera.get("/v1/audit")).json()["entries"]
    assert [(entry["deed"], entry["batch"]) for entry in entries] == [
        ("held", None), ("paused", mine), ("submitted", mine), ("token_added", None), ("token_added", None),
    ]  # fmt: skip
    assert entries[2]["actor"] == "anna"
    assert (await vera.get("/v1/audit", params={"batch": theirs})).json()["entries"] == []
    assert len((await vera.get("/v1/audit", params={"batch": mine})).json()["entries"]) == 2


async def test_every_entry_is_on_one_page(vera: Client, web_store: Store) -> None:
    made = [(await submit(web_store.batches, [f"c{number}"])).batch_id for number in range(5)]
    found: list[str | None] = []
    before: dict[str, str] = {}
    while True:
        page = (await vera.get("/v1/audit", params={"limit": "2"} | before)).json()
        found += [entry["batch"] for entry in page["entries"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert found == [*made[::-1], None, None]


@pytest.mark.parametrize("query", [{"before": "x"}, {"limit": "0"}, {"batch": "c" * 14}])
async def test_a_page_that_cannot_be_is_refused(vera: Client, query: dict[str, str]) -> None:
    problem(await vera.get("/v1/audit", params=query), "request")
