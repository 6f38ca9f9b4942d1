"""What the pages say when something is wrong: in their own words, in whole sentences, and with a way back."""

import html
import re
from pathlib import Path

import pytest

from tests.conftest import finish, submit
from tests.web.conftest import Client, Serve, add_token, client_of, problem
from tests.web.test_pages import PAGE, chosen
from worker.domain.batches import BatchState, Environment, StateReason
from worker.domain.errors import UsageError
from worker.domain.holds import Term
from worker.domain.people import Role
from worker.web.problems import problem_of
from worker.wiring import Store

WORKER = Path(__file__).parents[2] / "worker"


def said(text: str) -> str:
    """What stands in the alert of a page."""
    found = re.search('role="alert">(.*?)</p>', text, re.DOTALL)
    assert found is not None, text
    return html.unescape(found[1])


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("confirm", "151", "Production: nothing was sent; 151 was confirmed, but there are 2 records"),
        ("confirm", "1,2", "'1,2' is no number of records: write it in digits alone"),
        ("confirm", "", "Production: nothing was sent; to delete 2 customers, type their number"),
        ("due", "2020-01-01", "Due: '2020-01-01': is not after now"),
    ],
)
async def test_a_slip_at_the_last_step_leads_back_to_the_file(
    serve: Serve, field: str, value: str, problem: str
) -> None:
    app = await serve(environment=Environment.PRODUCTION)
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        file = {"file": ("may.csv", b"who\nc1\nc2\n")}
        address = (await client.post("/new", files=file, data={"column": "who"}, headers=PAGE)).headers["location"]
        sent = {"column": "who", "confirm": "2"} | {field: value}
        answer = await client.post(f"{address.partition('?')[0]}/submit", data=sent, headers=PAGE)
        assert answer.status_code in (409, 422)
        assert said(answer.text).startswith(problem)
        assert "`" not in said(answer.text)
        assert "plan-" not in answer.text
        assert f'href="{address}">Look at the file again' in answer.text
        assert "To send" in (await client.get(address, headers=PAGE)).text


async def test_one_record_is_one_record(serve: Serve) -> None:
    app = await serve(environment=Environment.PRODUCTION)
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        address = await chosen(client, b"customer_id\nc1\n")
        assert "Submit 1 row<" in (await client.get(address, headers=PAGE)).text
        answer = await client.post(f"{address.partition('?')[0]}/submit", data={"confirm": "2"}, headers=PAGE)
    assert said(answer.text).endswith("2 was confirmed, but there is 1 record")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x1@a.example,y\n1,2\n", "add a header line, or use the field “Column that holds the customer IDs”"),
        (b"customer_id\n" + b"c1\n" * 4, "has more than 3 rows: split it, or ask whoever runs Expunge"),
    ],
)
async def test_a_file_is_refused_in_the_words_of_the_page(serve: Serve, content: bytes, words: str) -> None:
    app = await serve(max_batch=3)
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        text = (await client.get(await chosen(client, content), headers=PAGE)).text
    assert said(text).startswith("may.csv")
    assert words in said(text)


async def test_what_is_wrong_with_an_id_is_said_without_the_name_of_a_setting(anna: Client) -> None:
    text = (await anna.get(await chosen(anna, b"customer_id\n..\nc1\n"), headers=PAGE)).text
    assert "not of the form that customer IDs have here" in text
    assert "EXPUNGE_" not in text


@pytest.mark.parametrize(("page", "query"), [("/audit", "before=x"), ("/batches", "after=x")])
async def test_an_address_of_no_page_of_a_list_says_so(ada: Client, page: str, query: str) -> None:
    answer = await ada.get(f"{page}?{query}", headers=PAGE)
    assert answer.status_code == 422
    assert said(answer.text) == "The address is of no page of this list: begin at its first"


@pytest.mark.parametrize("query", ["state=bogus", "lane=bogus"])
async def test_a_filter_that_cannot_be_is_refused_as_by_the_api(ada: Client, query: str) -> None:
    answer = await ada.get(f"/batches?{query}", headers=PAGE)
    assert answer.status_code == 422
    assert said(answer.text) == f"There is no {query.partition('=')[0]} 'bogus': choose one of the list"


async def test_while_no_worker_runs_no_end_is_foretold(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, [f"c{number}" for number in range(50)])).batch_id
    text = (await ada.get(f"/batches/{batch}", headers=PAGE)).text
    assert "No worker is running" in text
    assert "which ends" not in text


@pytest.mark.parametrize(("limit", "shown"), [(20_000_000, "20,000,000 bytes"), (1 << 20, "1 MiB")])
async def test_the_limit_of_an_upload_is_the_same_before_and_after(serve: Serve, limit: int, shown: str) -> None:
    app = await serve(max_upload=limit)
    token = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN)
    async with client_of(app, token) as client:
        assert f"at most {shown}." in (await client.get("/new", headers=PAGE)).text
        for size in (limit + 1, limit + (2 << 20)):
            answer = await client.post("/new", files={"file": ("a.csv", b"x\n" * (size // 2 + 1))}, headers=PAGE)
            assert answer.status_code == 413
            assert said(answer.text).startswith(f"The content has more than {limit:,} bytes")


async def test_a_file_of_which_nothing_would_be_sent_says_so(anna: Client) -> None:
    nothing = await anna.get(await chosen(anna, b"customer_id\nnot an ID\n"), headers=PAGE)
    assert "Nothing of this file would be sent" in nothing.text
    something = await anna.get(await chosen(anna), headers=PAGE)
    assert "Nothing of this file would be sent" not in something.text


async def test_a_hold_without_an_end_stands_until_released(ada: Client, web_store: Store) -> None:
    await web_store.holds.add(["c1"], Term("ours"), replace=False)
    assert 'data-label="Until">until released</td>' in (await ada.get("/holds", headers=PAGE)).text


async def test_refused_holds_lead_back_to_the_holds(ada: Client) -> None:
    answer = await ada.post("/holds", data={"customer_ids": "hh1\nh h", "ground": "g"}, headers=PAGE)
    assert said(answer.text) == "The 2. ID contains a space; nothing was done"
    assert 'href="/holds">Go to the holds' in answer.text


async def test_when_it_ended_and_whether_that_was_in_time_are_two_statements(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"], due=4e9)).batch_id
    await finish(web_store.shards, batch, 1)
    text = (await ada.get(f"/batches/{batch}", headers=PAGE)).text
    assert re.search(r'UTC</time>,\s*<b class="due">done in time</b>', text)


async def test_what_can_be_done_next_is_said_in_the_words_of_whoever_asks(ada: Client, web_store: Store) -> None:
    """Neither a program nor somebody with a page before them may have a command line."""
    ended = (await submit(web_store.batches, ["c1"])).batch_id
    await finish(web_store.shards, ended, 1)
    by_program = problem(await ada.post(f"/v1/batches/{ended}/pause"), "state")
    assert by_program.endswith("and `POST /v1/batches/{batch_id}/retry` sends again what may end otherwise")
    by_page = await ada.post(f"/batches/{ended}/pause", headers=PAGE)
    assert said(by_page.text).endswith("and “Send again” sends again what may end otherwise")


async def test_what_no_brake_holds_does_not_go_on_despite_one(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    await ada.post(f"/v1/batches/{batch}/pause")
    by_program = problem(await ada.post(f"/v1/batches/{batch}/resume?despite=canary"), "state")
    assert by_program.endswith(f"not by canary; to go on: `POST /v1/batches/{batch}/resume` without `despite`")
    by_page = await ada.post(f"/batches/{batch}/resume", data={"despite": "canary"}, headers=PAGE)
    assert said(by_page.text).endswith("not by canary; to go on: “Resume”")


async def test_a_brake_names_the_ways_on_as_the_page_has_them(ada: Client, web_store: Store) -> None:
    batch = (await submit(web_store.batches, ["c1"])).batch_id
    await web_store.batches.move(batch, BatchState.RUNNING, BatchState.PAUSED, StateReason.FAILURE_THRESHOLD)
    await web_store.redis.hset(f"expunge:{{{batch}}}:meta", "tripped", "60 100 0.5 0")
    answer = await ada.post(f"/batches/{batch}/resume", headers=PAGE)
    assert "to go on all the same: “failure_threshold” (" in said(answer.text)


async def test_a_confirmation_that_is_none_is_told_where_plans_come_from(ada: Client) -> None:
    file = {"file": ("a.csv", b"customer_id\nc1\n")}
    detail = problem(await ada.post("/v1/batches", files=file, data={"confirm": "x"}), "request")
    assert detail.endswith("nor a plan's ID as `POST /v1/plans` gives it")


def test_no_text_sends_a_program_to_a_command_line_that_it_may_not_have() -> None:
    """All commands that stand in what is refused below the command line; the first token is for whoever runs it.

    A purge is no act of a program: only the command line has it.
    """
    below = [each for room in ("domain", "intake", "pipeline", "store") for each in (WORKER / room).rglob("*.py")]
    sources = [path.read_text() for path in below if path.name != "purge.py"]
    named = {found for source in sources for found in re.findall('`expunge [^`]*`[^"]*', source)}
    assert len(named) > 2
    left = [str(problem_of(UsageError(each)).detail) for each in named]
    assert [each for each in left if "expunge" in each and "token list" not in each] == []


@pytest.mark.parametrize("query", ["x=1", "offset=x", "x=1&y=2", "<b>=1"])
async def test_an_address_that_a_page_cannot_take_is_refused_in_its_words(ada: Client, query: str) -> None:
    answer = await ada.get(f"/{'holds' if 'offset' in query else 'batches'}?{query}", headers=PAGE)
    assert answer.status_code == 422
    name = query.partition("=")[0]
    assert (
        said(answer.text) == f"The address has a “{name}” that this page cannot take: open the page anew from the menu"
    )
