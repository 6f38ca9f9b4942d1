"""The pages without a browser: whom they show what, and what becomes of a file between two of them."""

import asyncio
import re
from dataclasses import replace

import pytest
from fastapi import FastAPI

from tests.conftest import TARGET, finish, submit
from tests.web.conftest import Client, Serve, add_token, client_of
from worker.domain.batches import Environment, Target
from worker.domain.people import Role
from worker.store.finished import Finished
from worker.web.keeping import KeptFiles
from worker.web.pages.views import SENT
from worker.wiring import Store

PAGE = {"Accept": "text/html"}


async def chosen(client: Client, content: bytes = b"customer_id\nc1\nc2\n", name: str = "may.csv") -> str:
    """Upload a file; the address of the page that follows."""
    answer = await client.post("/new", files={"file": (name, content)}, data={"column": "customer_id"}, headers=PAGE)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def test_what_another_sent_is_not_to_be_found(anna: Client, ada: Client) -> None:
    address = await chosen(anna)
    assert (await anna.get(address, headers=PAGE)).status_code == 200
    other = await ada.get(address, headers=PAGE)
    assert other.status_code == 404
    assert "choose it again" in other.text
    assert (await ada.post(f"{address.partition('?')[0]}/submit", headers=PAGE)).status_code == 404


async def test_a_file_is_gone_when_it_was_discarded(anna: Client) -> None:
    address = await chosen(anna)
    await anna.post(f"{address.partition('?')[0]}/discard", headers=PAGE)
    answer = await anna.get(address, headers=PAGE)
    assert answer.status_code == 404
    assert "nothing was sent" not in answer.text  # whoever asks may have submitted it to a process that is gone


async def test_whoever_comes_back_to_a_file_that_was_submitted_is_led_to_its_batch(anna: Client, ada: Client) -> None:
    address = await chosen(anna)
    path = address.partition("?")[0]
    made = (await anna.post(f"{path}/submit", data={"reference": "", "due": ""}, headers=PAGE)).headers["location"]
    assert re.fullmatch("/batches/[0-9a-z]{13}", made)
    back = [
        await anna.get(address, headers=PAGE),
        await anna.post(f"{path}/submit", headers=PAGE),
        await anna.post(f"{path}/discard", headers=PAGE),
    ]
    assert [(answer.status_code, answer.headers.get("location")) for answer in back] == [(303, made)] * 3
    assert (await ada.get(address, headers=PAGE)).status_code == 404


async def test_a_double_click_makes_one_batch_even_of_a_file_that_is_taken_again(anna: Client) -> None:
    path = (await chosen(anna)).partition("?")[0]
    clicks = [anna.post(f"{path}/submit", data={"again": "true"}, headers=PAGE) for _ in range(3)]
    answers = await asyncio.gather(*clicks)
    assert {answer.status_code for answer in answers} == {303}
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert len((await anna.get("/v1/batches")).json()["batches"]) == 1


async def test_the_oldest_of_many_files_of_one_person_goes(anna: Client) -> None:
    addresses = [await chosen(anna, f"customer_id\nc{number}\n".encode()) for number in range(4)]
    statuses = [(await anna.get(address, headers=PAGE)).status_code for address in addresses]
    assert statuses == [404, 200, 200, 200]


async def test_files_are_kept_for_a_while_and_not_for_ever(serve: Serve) -> None:
    app = await serve()
    app.state.web = _with_kept(app, KeptFiles(1 << 20, lasts=3.0))
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        address = await chosen(client)
        assert (await client.get(address, headers=PAGE)).status_code == 200
        await asyncio.sleep(3.1)
        assert (await client.get(address, headers=PAGE)).status_code == 404


async def test_no_more_is_kept_than_there_is_place_for(serve: Serve) -> None:
    app = await serve()
    app.state.web = _with_kept(app, KeptFiles(max_upload=10))
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        file = {"file": ("a.csv", b"customer_id\n" + b"c" * 40)}
        answer = await client.post("/new", files=file, headers=PAGE)
    assert answer.status_code == 503
    assert "try again in some minutes" in answer.text


def _with_kept(app: FastAPI, kept: KeptFiles) -> object:
    app.state.web.kept.close()
    return replace(app.state.web, kept=kept)


@pytest.mark.parametrize("other", [Target(Environment.SANDBOX, "m2", TARGET.upstream)], ids=["merchant"])
async def test_another_merchant_s_batch_is_a_page_that_says_there_is_none(
    ada: Client, web_store: Store, other: Target
) -> None:
    theirs = await submit(web_store.batches, ["c1"], target=other)
    for path in ("", "/live", "/cancel", "/approve", "/retry"):
        answer = await ada.get(f"/batches/{theirs.batch_id}{path}", headers=PAGE)
        assert answer.status_code == 404
        assert "There is no such batch here" in answer.text
    assert theirs.batch_id not in (await ada.get("/batches", headers=PAGE)).text


async def test_the_list_is_filtered_and_paged(ada: Client, web_store: Store) -> None:
    made = [await submit(web_store.batches, ["c1"], submitted_by="anna" if at % 2 else "ben") for at in range(30)]
    first = await ada.get("/batches", headers=PAGE)
    shown = re.findall('href="/batches/([0-9a-z]{13})"', first.text)
    assert set(shown) == {each.batch_id for each in made[5:]}
    more = re.search(r'href="(/batches\?[^"]+)" rel="next"', first.text)
    assert more is not None
    rest = await ada.get(more[1].replace("&amp;", "&"), headers=PAGE)
    assert set(re.findall('href="/batches/([0-9a-z]{13})"', rest.text)) == {each.batch_id for each in made[:5]}
    annas = await ada.get("/batches?state=running&lane=&submitted_by=anna", headers=PAGE)
    assert len(re.findall('href="/batches/([0-9a-z]{13})"', annas.text)) == 15


async def test_what_does_not_change_is_kept_by_browsers_and_nothing_else_is(ada: Client, stranger: Client) -> None:
    page = await stranger.get("/", headers=PAGE)
    assert page.headers["cache-control"] == "no-store"
    for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        answer = await stranger.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await ada.get("/batches", headers=PAGE)).headers["cache-control"] == "no-store"


async def test_nothing_on_a_page_needs_what_the_policy_forbids(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    for address in ("/", "/new", "/batches", f"/batches/{batch}", f"/batches/{batch}/cancel", "/holds", "/audit"):
        text = (await ada.get(address, headers=PAGE)).text
        assert not re.search(r"<style|\sstyle=|<script(?! src=)|\son[a-z]+=|javascript:", text), address


async def test_a_page_in_work_does_not_stand_still_when_the_session_has_ended(
    ada: Client,  # noqa: ARG001 - the first token
    stranger: Client,
    web_store: Store,
) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    answer = await stranger.get(f"/batches/{batch}/live?seen=running", headers=PAGE)
    assert (answer.status_code, answer.headers.get("hx-refresh")) == (401, "true")


@pytest.mark.parametrize("act", ["approve", "cancel"])
async def test_a_question_that_is_settled_is_not_asked(ada: Client, web_store: Store, act: str) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    await finish(web_store.shards, batch, 1)
    answer = await ada.get(f"/batches/{batch}/{act}", headers=PAGE)
    assert (answer.status_code, answer.headers.get("location")) == (303, f"/batches/{batch}")


async def test_a_page_in_work_is_asked_anew_when_its_state_changes(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    same = await ada.get(f"/batches/{batch}/live?seen=running", headers=PAGE)
    assert "hx-refresh" not in same.headers
    assert 'hx-trigger="every 5s"' in same.text
    await finish(web_store.shards, batch, 1)
    changed = await ada.get(f"/batches/{batch}/live?seen=running", headers=PAGE)
    assert changed.headers["hx-refresh"] == "true"
    assert "hx-trigger" not in changed.text


@pytest.mark.parametrize(("rows", "size", "every"), [(7, 3, True), (4_000, 4, False), (9_000, 500, False)])
async def test_a_rate_is_read_from_all_or_from_a_sample_of_the_rows(
    web_store: Store,
    rows: int,
    size: int,
    every: bool,
) -> None:
    made = await submit(web_store.batches, [f"c{number}" for number in range(rows)], size)
    batch = await web_store.batches.get(made.batch_id)
    assert batch is not None
    assert (await Finished(web_store.redis).ends(batch, SENT)).times == []
    await finish(web_store.shards, made.batch_id, batch.description.shards)
    ends = await Finished(web_store.redis).ends(batch, SENT)
    assert ends.every is every
    assert len(ends.times) == rows if every else 400 <= len(ends.times) <= 6_000
