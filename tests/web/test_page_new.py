"""The two steps of a new batch: what is shown is what would happen, and what was chosen is what is submitted."""

import re

from tests.conftest import existing, finish, submit
from tests.web.conftest import Client, Serve
from tests.web.reading import FAILED, PAGE, admin_of, chosen, facts, record, text_of, words
from worker.domain.batches import Environment
from worker.domain.holds import Term
from worker.wiring import Store


async def test_the_preview_has_the_numbers_of_the_plan_under_their_words(anna: Client, web_store: Store) -> None:
    other = (await submit(web_store.batches, ["c3", "c4"])).batch_id
    await finish(web_store.shards, other, 1)
    await web_store.holds.add(["c5"], Term("7/2026"), replace=False)
    text = await text_of(anna, await chosen(anna))
    assert facts(text) == {
        "To send": "2",
        "Rows": "7",
        "Valid": "5",
        "Invalid": "1",
        "Duplicates": "1",
        "On hold": "1",
        "Deleted earlier": "2",
    }
    assert '<td class="count">8</td><td>contains a space' in text
    assert "It is larger than any of these" in text
    assert "must approve it" not in text


async def test_another_column_is_looked_at_and_submitted(anna: Client, web_store: Store) -> None:
    address = (await chosen(anna)).partition("?")[0]
    text = await text_of(anna, f"{address}?column=other")
    assert facts(text)["To send"] == "7"
    assert re.search(r'<option value="other" selected>', text)
    form = text.partition(f'action="{address}/submit"')[2].partition("</form>")[0]
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    made = await anna.post(f"{address}/submit", data=hidden, headers=PAGE)
    batch = await existing(web_store.batches, made.headers["location"].rpartition("/")[2])
    assert batch.description.id_column == "other"


async def test_a_file_without_the_column_offers_those_that_it_has(anna: Client) -> None:
    answer = await anna.get(await chosen(anna, b"kunde,name\nc1,x\n", column="customer_id"), headers=PAGE)
    assert answer.status_code == 422
    assert re.findall(r'<option value="([^"]*)">', answer.text) == ["kunde", "name"]
    found = await anna.get(await chosen(anna, b"kunde,name\nc1,x\n", column="kunde"), headers=PAGE)
    assert facts(found.text)["To send"] == "1"


async def test_rows_that_cannot_be_read_can_be_left_out_to_the_end(anna: Client, web_store: Store) -> None:
    address = await chosen(anna, b"customer_id\nc1\nc2,?\nc3\n")
    unreadable = await anna.get(address, headers=PAGE)
    assert unreadable.status_code == 422
    assert "Mend line 3, save it" in words(unreadable.text)
    assert '<button class="second" name="skip_bad_rows" value="true">' in unreadable.text
    text = await text_of(anna, f"{address}&skip_bad_rows=true")
    assert (facts(text)["To send"], facts(text)["Invalid"]) == ("2", "1")
    form = text.partition('/submit"')[2].partition("</form>")[0]
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
    made = await anna.post(f"{address.partition('?')[0]}/submit", data=hidden, headers=PAGE)
    batch = await existing(web_store.batches, made.headers["location"].rpartition("/")[2])
    assert (batch.description.rows, batch.tally.pending) == (3, 2)


async def test_leaving_out_what_cannot_be_read_survives_the_upload(anna: Client) -> None:
    answer = await anna.post(
        "/new", files={"file": ("a.csv", b"customer_id\nc1\nc2,?\n")}, data={"skip_bad_rows": "true"}, headers=PAGE
    )
    assert facts(await text_of(anna, answer.headers["location"]))["To send"] == "1"


async def test_production_asks_for_the_number_and_says_who_must_approve(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION, approval_above=1)
    store: Store = app.state.web.store
    async with await admin_of(app) as ada:
        preview = await text_of(ada, await chosen(ada))
        batch_id = (await submit(store.batches, ["c1", "c2"], target=app.state.web.settings.target)).batch_id
        await record(store, batch_id, {0: FAILED, 1: FAILED})
        retry = await text_of(ada, f"/batches/{batch_id}/retry")
    for text, rows in ((preview, 7), (retry, 2)):
        assert f"This deletes up to {rows} customers of merchant m1 in PRODUCTION" in words(text)
        assert re.search(r'<input id="confirm" name="confirm"[^>]* required>', text)
        assert "Somebody other than you must approve it" in words(text)


async def test_a_file_that_was_submitted_before_is_named(anna: Client) -> None:
    address = await chosen(anna)
    made = await anna.post(f"{address.partition('?')[0]}/submit", headers=PAGE)
    text = await text_of(anna, await chosen(anna))
    assert f'href="{made.headers["location"]}"' in text
    assert re.search(r'name="again" value="true" required', text)
