"""What the pages say: the right numbers under the right words, nothing that acts, and only what leads somewhere."""

import html
import re
import time
from typing import Any

import pytest

from tests.conftest import DELETED, existing, finish, submit
from tests.web.conftest import As, Client, Serve, client_of
from tests.web.reading import FAILED, PAGE, admin_of, chosen, facts, record, text_of, words
from worker.domain.batches import BatchState, Environment, Lane, StateReason
from worker.domain.brakes import Brakes
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.people import Role
from worker.domain.rates import Rate
from worker.domain.records import Result
from worker.wiring import Store

HOSTILE = "<img src=x onerror=alert(1)>"


async def everywhere(client: Client, store: Store, target: Any) -> list[str]:
    """Pages of every kind."""
    waiting = (await submit(store.batches, ["c1"], target=target, submitted_by="anna")).batch_id
    await store.redis.hset(f"expunge:{{{waiting}}}:meta", "state", "awaiting_approval")
    await store.holds.add(["h1"], Term("x"), replace=False)
    release = await client.post("/holds/release", data={"customer_ids": "h1"}, headers=PAGE)
    addresses = ["/new", await chosen(client), "/batches", "/holds", "/audit", f"/batches/{waiting}"]
    addresses += [f"/batches/{waiting}/{act}" for act in ("approve", "cancel")]
    refused = await client.get("/batches/0000000000000", headers=PAGE)
    unreadable = await client.get(await chosen(client, b"", "empty.csv"), headers=PAGE)
    return [release.text, refused.text, unreadable.text, *[await text_of(client, each) for each in addresses]]


@pytest.mark.parametrize("environment", Environment)
async def test_each_page_says_in_words_where_it_is_and_what_deleted_means(
    serve: Serve, environment: Environment
) -> None:
    app = await serve(environment=environment)
    production = environment is Environment.PRODUCTION
    async with await admin_of(app) as ada, client_of(app) as stranger:
        pages = await everywhere(ada, app.state.web.store, app.state.web.settings.target)
        for text in pages:
            band = words(text.partition('<p class="environment">')[2].partition("</p>")[0])
            assert f"Merchant m1 , payments API {app.state.web.settings.target.upstream}" in band
            assert ("What is submitted here is deleted for good." in band) is production
            assert ("Backups, exports, and other systems" in words(text)) is True
        for text in [*pages, (await stranger.get("/", headers=PAGE)).text]:
            assert ("<strong>PRODUCTION</strong>" in text) is production
            assert ("<title>PRODUCTION: " in text) is production
            assert ("<strong>Sandbox</strong>" in text) is not production
            assert not re.search(r'(?:src|href|action)="(?!/(?!/)|#)', text), "nobody else's server is asked"
            settings = html.unescape(text.partition("htmx-config")[2].partition("\n")[0])
            for risky in ("allowEval", "allowScriptTags", "historyEnabled", "includeIndicatorStyles"):
                assert f'"{risky}": false' in settings


async def test_what_others_wrote_is_text_wherever_it_stands(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], source=HOSTILE, reference=HOSTILE)).batch_id
    await web_store.holds.add(["c1"], Term(HOSTILE), replace=False)
    released = await ada.post("/holds/release", data={"customer_ids": "c1"}, headers=PAGE)
    name = HOSTILE.replace("/", "")
    columns = await ada.get(await chosen(ada, f"kunde,{HOSTILE}\nc1,x\n".encode(), name), headers=PAGE)
    preview = await text_of(
        ada, await chosen(ada, f"customer_id,{HOSTILE}\nc1,{HOSTILE}\n{HOSTILE},x\n".encode(), name)
    )
    error = await ada.get(f"/batches?after={HOSTILE}&state={HOSTILE}", headers=PAGE)
    filtered = await text_of(ada, f"/batches?submitted_by={HOSTILE}")
    due = await ada.post(f"{(await chosen(ada)).partition('?')[0]}/submit", data={"due": HOSTILE}, headers=PAGE)
    assert HOSTILE in html.unescape(due.text)
    pages = [released.text, columns.text, preview, error.text, filtered, due.text]
    pages += [await text_of(ada, each) for each in (f"/batches/{batch_id}", "/batches", "/holds", "/audit")]
    assert not [text for text in pages if "<img" in text]
    shown = [HOSTILE in html.unescape(text) for text in (released.text, columns.text, preview, filtered, *pages[6:9])]
    assert all(shown), shown


async def test_a_batch_has_its_downloads_and_they_are_what_they_say(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    text = await text_of(ada, f"/batches/{batch_id}")
    begin = f"/v1/batches/{batch_id}"
    assert dict(re.findall(r'<a href="(/v1/[^"]+)" download>([^<]+)</a>', text)) == {
        f"{begin}/report": "Report of all rows",
        f"{begin}/report?format=jsonl": "JSON Lines",
        f"{begin}/report?format=xlsx": "Excel",
        f"{begin}/report?format=parquet": "Parquet",
        f"{begin}/report?only=rejected,failed,unknown": "Failed only",
        f"{begin}/report?only=skipped,pending": "Unprocessed only",
        f"{begin}/manifest": "Manifest",
    }
    assert "It has not ended" in text


async def test_a_workbook_that_would_be_refused_is_not_offered(
    ada: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = (await submit(web_store.batches, ["c1", "c2"])).batch_id
    for most, offered in ((2, True), (1, False)):
        monkeypatch.setattr("worker.reports.formats.XLSX_ROWS_OVER_HTTP", most)
        text = await text_of(ada, f"/batches/{batch_id}")
        assert (">Excel<" in text, ">Parquet<" in text) == (offered, True)


async def test_a_batch_in_work_is_followed_with_scripts_and_without(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    text = await text_of(ada, f"/batches/{batch_id}")
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in text
    live = f'hx-get="/batches/{batch_id}/live?seen=running" hx-trigger="every 5s" hx-swap="outerHTML"'
    assert live in text
    assert live in await text_of(ada, f"/batches/{batch_id}/live?seen=running")
    await finish(web_store.shards, batch_id, 1)
    ended = await text_of(ada, f"/batches/{batch_id}")
    assert "hx-get" not in ended
    assert "http-equiv" not in ended


async def test_the_tally_is_drawn_and_told_as_it_stands(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, [f"c{number}" for number in range(10)], 10)).batch_id
    await record(web_store, batch_id, {at: FAILED if at == 0 else DELETED for at in range(4)})
    text = await text_of(ada, f"/batches/{batch_id}")
    for drawn in (text, await text_of(ada, "/batches")):
        bar = drawn.partition('<svg class="tally"')[2].partition("</svg>")[0]
        assert 'aria-label="3 deleted at the payments API, 1 failed, 6 pending"' in bar
        assert re.findall(r'fill-(\w+)" x="([\d.]+)" y="0" width="([\d.]+)"', bar) == [
            ("deleted", "0.0", "30.0"), ("failed", "30.0", "10.0"), ("pending", "40.0", "60.0"),
        ]  # fmt: skip
        assert "4 of 10 done" in words(drawn)
    assert re.findall(r'<td class="count">([^<]+)</td>', text)[:6] == ["3", "30 %", "1", "10 %", "6", "60 %"]
    figure = text.partition('<figure class="rate">')[2].partition("</figure>")[0]
    columns = re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', figure)
    assert columns
    assert all(float(y) + float(height) == pytest.approx(100) for y, height in columns)
    cancel = await text_of(ada, f"/batches/{batch_id}/cancel")
    assert "The 6 records that are pending are skipped" in words(cancel)


async def test_what_is_nearly_nothing_or_nearly_all_is_not_rounded_away(ada: Client, web_store: Store) -> None:
    made = await submit(web_store.batches, [f"c{number}" for number in range(300)], 300)
    await record(web_store, made.batch_id, {at: FAILED if at == 0 else DELETED for at in range(300)})
    text = await text_of(ada, f"/batches/{made.batch_id}")
    assert re.findall(r'<td class="count">([^<]+)</td>', text)[:4] == ["299", "over 99 %", "1", "under 1 %"]


async def test_each_reason_stands_with_who_acts_and_what_to_do(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1", "c2", "c3"])).batch_id
    await record(web_store, batch_id, {0: DELETED, 1: FAILED, 2: FAILED})
    text = words((await text_of(ada, f"/batches/{batch_id}")).partition("What to do next")[2])
    for reason, who, count in (
        (Reason.CONFIRMED, "Nothing is to be done", 1),
        (Reason.SERVER_ERROR, "The provider of the payments API", 2),
    ):
        assert f"{who} ({count})" in text
        assert f"{reason.text} {reason.outcome.value} {count} {reason.next_step}" in text


async def test_time_left_and_the_deadline_are_told_at_the_rate_that_is_set(serve: Serve) -> None:
    app = await serve(rate_limit=Rate.parse("10/s"))
    store: Store = app.state.web.store
    ids = [f"c{number}" for number in range(36_000)]
    batch_id = (await submit(store.batches, ids, 500, due=time.time() + 600)).batch_id
    async with await admin_of(app) as ada:
        alone = words(await text_of(ada, f"/batches/{batch_id}"))
        await store.presence.beat("w1")
        text, listed = words(await text_of(ada, f"/batches/{batch_id}")), words(await text_of(ada, "/batches"))
    assert "No worker is running" in alone
    assert " left" not in alone
    assert re.search(r"about (1 h 00 min|59 min 5\d s) left", text), text[:800]
    assert "too late at the present pace" in text
    assert "too late at the present pace" in listed


async def test_nobody_is_told_of_missing_workers_where_one_works(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await web_store.presence.beat("w1")
    assert "No worker is running" not in await text_of(ada, f"/batches/{batch_id}")


async def test_times_are_those_of_utc(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], due=4102444799.0)).batch_id
    assert facts(await text_of(ada, f"/batches/{batch_id}"))["Due"] == "2099-12-31 23:59:59 UTC"


async def test_a_brake_is_shown_to_all_and_overruled_only_by_those_who_may(
    ada: Client, vera: Client, ben: Client, web_store: Store
) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    await web_store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "tripped", "60 100 0.5 0")
    for client, may in ((ada, True), (vera, False), (ben, False)):
        text = await text_of(client, f"/batches/{batch_id}")
        assert ("Go on all the same" in text) is may
        assert re.search(r"<b>Paused:</b> .*60", text)
    refused = await ada.post(f"/batches/{batch_id}/resume", headers=PAGE)
    assert refused.status_code == 409
    await ada.post(f"/batches/{batch_id}/resume", data={"despite": "failure_threshold"}, headers=PAGE)
    assert (await existing(web_store.batches, batch_id)).state is BatchState.RUNNING


async def test_why_a_batch_waits_is_said(ada: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], submitted_by="anna", brakes=Brakes(canary=1))).batch_id
    await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "canary_left", "1")
    assert "The first 1 records run alone; 1 of them" in words(await text_of(ada, f"/batches/{batch_id}"))
    await web_store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.OPERATOR)
    assert "Paused: an operator paused it" in words(await text_of(ada, f"/batches/{batch_id}"))


async def test_an_approver_sees_who_submitted_what_and_approves_only_that_file(
    anna: Client, ben: Client, web_store: Store
) -> None:
    ids = ["c1", "c2", "c3"]
    batch_id = (
        await submit(web_store.batches, ids, known={0: Result(Reason.INVALID_ID)}, submitted_by="anna")
    ).batch_id
    await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "state", "awaiting_approval")
    assert "Nothing is sent before somebody other than anna approves it" in words(
        await text_of(anna, f"/batches/{batch_id}")
    )
    text = await text_of(ben, f"/batches/{batch_id}/approve")
    description = (await existing(web_store.batches, batch_id)).description
    assert "When you approve it, 2 customers of merchant m1 in sandbox are deleted at the payments API" in words(text)
    assert facts(text)["Submitted by"].startswith("anna, ")
    assert facts(text)["SHA-256"] == description.sha256
    wrong = await ben.post(f"/batches/{batch_id}/approve", data={"sha256": "0" * 64}, headers=PAGE)
    assert wrong.status_code == 403
    assert (await existing(web_store.batches, batch_id)).state is BatchState.AWAITING_APPROVAL
    await ben.post(f"/batches/{batch_id}/approve", data={"sha256": description.sha256}, headers=PAGE)
    assert (await existing(web_store.batches, batch_id)).approved_by == "ben"


async def test_the_production_of_an_approval_cannot_be_missed(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION, approval_in_production=True)
    store: Store = app.state.web.store
    batch_id = (await submit(store.batches, ["c1"], target=app.state.web.settings.target)).batch_id
    await store.redis.hset(f"expunge:{{{batch_id}}}:meta", "state", "awaiting_approval")
    async with await admin_of(app) as ada:
        text = (await text_of(ada, f"/batches/{batch_id}/approve")).partition("<main")[2]
    assert "in <strong>PRODUCTION</strong> are deleted" in text


async def test_only_what_is_theirs_is_offered(
    ada: Client, anna: Client, vera: Client, as_: As, web_store: Store
) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    await web_store.holds.add(["c1"], Term("7/2026"), replace=False)
    for client, controls in ((ada, True), (anna, True), (vera, False), (await as_("otto", Role.SUBMITTER), False)):
        text = await text_of(client, f"/batches/{batch_id}")
        assert (f'action="/batches/{batch_id}/pause"' in text) is controls
        assert (f'href="/batches/{batch_id}/cancel"' in text) is controls
    everything, nothing = (True, True, True), (False, False, False)
    for client, (submits, holds, releases) in ((ada, everything), (anna, (True, True, False)), (vera, nothing)):
        text = await text_of(client, "/holds")
        assert ('href="/new"' in text) is submits
        assert ('action="/holds"' in text) is holds
        assert ('<form method="post" action="/holds/release">' in text) is releases


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        (BatchState.RUNNING, {"pause", "cancel"}),
        (BatchState.PAUSED, {"resume", "cancel"}),
        (BatchState.AWAITING_APPROVAL, {"approve", "cancel"}),
    ],
)
async def test_only_what_is_possible_is_offered(
    ada: Client, web_store: Store, state: BatchState, offered: set[str]
) -> None:
    batch_id = (await submit(web_store.batches, ["c1"], submitted_by="anna")).batch_id
    await web_store.redis.hset(f"expunge:{{{batch_id}}}:meta", "state", state.value)
    text = await text_of(ada, f"/batches/{batch_id}")
    acts = {"approve", "pause", "resume", "cancel", "retry"}
    assert acts.intersection(re.findall(rf'(?:href|action)="/batches/{batch_id}/(\w+)"', text)) == offered


async def test_a_batch_that_ended_is_sent_again_by_those_who_may(
    anna: Client, vera: Client, ben: Client, web_store: Store
) -> None:
    batch_id = (await submit(web_store.batches, ["c1", "c2"])).batch_id
    await record(web_store, batch_id, {0: DELETED, 1: FAILED})
    for client, may in ((anna, True), (vera, False), (ben, False)):
        text = await text_of(client, f"/batches/{batch_id}")
        assert ("Send 1 again" in text) is may


async def test_batches_are_chosen_by_all_that_the_form_asks_and_the_choice_is_kept(
    ada: Client, web_store: Store
) -> None:
    for number in range(27):
        await submit(web_store.batches, [f"c{number}"], lane=Lane.URGENT)
    paused = (await submit(web_store.batches, ["c"])).batch_id
    await web_store.batches.move(paused, BatchState.RUNNING, BatchState.PAUSED)

    def shown(text: str) -> set[str]:
        return set(re.findall('href="/batches/([0-9a-z]{13})"', text))

    assert shown(await text_of(ada, "/batches?state=paused")) == {paused}
    urgent = await text_of(ada, "/batches?lane=urgent")
    assert len(shown(urgent)) == 25
    assert paused not in shown(urgent)
    more = re.search(r'href="(/batches\?[^"]+)" rel="next"', urgent)
    assert more is not None
    assert "lane=urgent" in more[1]
    assert len(shown(await text_of(ada, html.unescape(more[1])))) == 2
    assert "There is no such batch." in await text_of(ada, "/batches?submitted_by=nobody")


async def test_a_page_without_what_is_looked_for_is_not_the_end(
    ada: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline.listing._AT_ONCE", 1)
    monkeypatch.setattr("worker.pipeline.listing._LOOKED_AT", 1)
    for number in range(2):
        await submit(web_store.batches, [f"c{number}"])
    text = await text_of(ada, "/batches?submitted_by=nobody")
    assert "None of the batches that were looked at" in text
    assert 'rel="next"' in text


async def test_the_trail_is_of_one_batch_if_asked_and_goes_on(ada: Client, web_store: Store) -> None:
    made = [(await submit(web_store.batches, [f"c{number}"], submitted_by="anna")).batch_id for number in range(60)]
    one = await text_of(ada, f"/audit?batch={made[0]}")
    assert set(re.findall(r'class="batch" href="/batches/(\w+)"', one)) == {made[0]}
    assert "anna submitted" in words(one)
    first = await text_of(ada, "/audit")
    more = re.search(r'href="(/audit\?[^"]+)" rel="next"', first)
    assert more is not None
    rest = await text_of(ada, html.unescape(more[1]))
    found = [re.findall(r'class="batch" href="/batches/(\w+)"', text) for text in (first, rest)]
    assert found[0] + found[1] == made[::-1]


async def test_who_comes_by_a_link_from_elsewhere_can_open_the_page_again(ada: Client, stranger: Client) -> None:
    await ada.get("/batches")
    answer = await stranger.get("/holds", headers=PAGE)
    assert answer.status_code == 401
    assert '<a href="/holds">Open the page again</a>' in answer.text
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("path", "advice"), [("/batches/0000000000000", "Check the address"), ("/new", "Ask somebody who has that role")]
)
async def test_a_refusal_says_what_to_do(vera: Client, path: str, advice: str) -> None:
    answer = await vera.get(path, headers=PAGE)
    assert answer.status_code in (403, 404)
    assert advice in answer.text
