"""What is said twice is refused, whichever way it came: readers differ in which counts."""

import pytest

from tests.conftest import existing, submit
from tests.web.conftest import Client, problem
from tests.web.reading import PAGE, chosen
from worker.domain.batches import BatchState
from worker.wiring import Store

JSON = {"Content-Type": "application/json"}
FILE = {"file": ("a.csv", b"customer_id\nc1\n")}
TWICE = b'{"customer_ids": ["c1"], "customer_ids": ["c2"]}'


async def test_a_batch_is_not_approved_by_the_second_of_two_digests(ben: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"], needs_approval=True, submitted_by="anna")).batch_id
    sha256 = (await existing(web_store.batches, batch)).description.sha256
    answer = await ben.post(f"/v1/batches/{batch}/approve?sha256={'0' * 64}&sha256={sha256}")
    assert problem(answer, "request") == "'sha256' is there twice: say it once"
    assert (await existing(web_store.batches, batch)).state is BatchState.AWAITING_APPROVAL


@pytest.mark.parametrize(
    "path", ["/v1/batches?limit=1&limit=2", "/v1/batches?limit=1&limit=1", "/audit?batch=&batch=x"]
)
async def test_a_parameter_that_is_there_twice_is_refused(ada: Client, path: str) -> None:
    assert "is there twice: say it once" in problem(await ada.get(path), "request")


async def test_a_field_beside_a_parameter_of_the_same_name_is_refused(ada: Client) -> None:
    answer = await ada.post("/v1/batches?reference=may", files=FILE, data={"reference": "june"})
    assert problem(answer, "request") == "'reference' is in the address and in the form: say it once"
    listed = await ada.post("/v1/holds?ground=ours", json={"customer_ids": ["c1"], "ground": "theirs"})
    assert problem(listed, "request") == "'ground' is in the address and in the body: say it once"
    assert (await ada.get("/v1/batches")).json()["batches"] == (await ada.get("/v1/holds")).json()["holds"] == []
    assert (await ada.post("/v1/batches?reference=may", files=FILE, data={"lane": "urgent"})).status_code == 202


async def test_a_field_of_a_form_that_is_there_twice_is_refused(ada: Client) -> None:
    answer = await ada.post("/v1/batches", files=FILE, data={"reference": ["may", "june"]})
    assert problem(answer, "request") == "'reference' is there twice: say it once"
    address = (await chosen(ada)).partition("?")[0]
    twice = await ada.post(f"{address}/submit", data={"reference": ["may", "june"]}, headers=PAGE)
    assert twice.status_code == 422
    assert (await ada.get("/v1/batches")).json()["batches"] == []


@pytest.mark.parametrize("path", ["/v1/holds?ground=ours", "/v1/holds/release"])
async def test_a_key_that_is_twice_in_a_body_is_refused_and_nobody_is_forgotten(ada: Client, path: str) -> None:
    await ada.post("/v1/holds", json={"customer_ids": ["c1", "c2"], "ground": "ours"})
    detail = problem(await ada.post(path, content=TWICE, headers=JSON), "request")
    assert "a key is twice in one JSON object" in detail
    assert (await ada.get("/v1/holds")).json()["total"] == 2


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"{", b"[" * 100_000, b'{"customer_ids": [NaN]}', b'{"customer_ids": ["\\ud800"]}', b"1" * 9_999],
)
async def test_a_body_that_is_no_json_is_refused_in_a_sentence(ada: Client, content: bytes) -> None:
    detail = problem(await ada.post("/v1/holds", content=content, headers=JSON), "request")
    assert detail.endswith("`/v1/openapi.json` says what is taken")
