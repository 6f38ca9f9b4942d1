"""Files between two pages: for how long, how many, and that nothing is left of one that goes."""

import io
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from fastapi import FastAPI

from tests.web.conftest import Client, Serve, add_token, client_of
from worker.domain.people import Role
from worker.web.app import create_app
from worker.web.keeping import LASTS, KeptFiles
from worker.web.problems import Problem
from worker.web.uploads import Upload

PAGE = {"Accept": "text/html"}
FILE = {"file": ("may.csv", b"customer_id\nc1\n")}


def upload() -> Upload:
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the test closes it
    file.write(b"customer_id\nc1\n")
    return Upload(cast("BinaryIO", file), "may.csv", {})


def descriptors() -> set[str]:
    """Of this process, those of files without a name."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            if str(each.readlink()).endswith("(deleted)"):
                found.add(each.name)
        except FileNotFoundError:
            continue
    return found


async def test_there_are_at_most_thirty_and_nothing_is_left_of_those_that_go() -> None:
    before, kept = descriptors(), KeptFiles(1 << 30)
    sent = upload()
    ids = [kept.keep(sent, f"person{number}").id for number in range(30)]
    with pytest.raises(Problem, match="too many files wait") as refused:
        kept.keep(sent, "one more")
    assert refused.value.headers == {"Retry-After": "300"}
    sent.file.close()
    assert len(descriptors() - before) == 30
    kept.let_go(ids[0])
    assert len(descriptors() - before) == 29
    kept.close()
    assert descriptors() == before
    assert len({each[:8] for each in ids}) == 30, "nobody guesses another one's"
    assert min(map(len, ids)) >= 32
    assert LASTS == 30 * 60


async def test_nothing_is_left_of_them_when_the_process_ends(serve: Serve) -> None:
    app: FastAPI = await serve()
    other = create_app(app.state.web.settings)
    token, before = await add_token(app.state.web.store.tokens, "ada", Role.ADMIN), descriptors()
    async with other.router.lifespan_context(other), client_of(other, token) as client:
        assert (await client.post("/new", files=FILE, headers=PAGE)).status_code == 303
        assert len(descriptors() - before) == 1
    assert descriptors() == before


@pytest.mark.parametrize("by", ["raw", "form", "page"])
async def test_a_file_has_no_name_on_the_disk(
    ada: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = b"customer_id\n" + (b"c" * 120 + b"\n") * 10_000  # of a form, what is small stays in memory
    if by == "raw":
        answer = await ada.post("/v1/plans", content=content, headers={"Content-Type": "text/csv"})
    else:
        path = "/v1/plans" if by == "form" else "/new"
        answer = await ada.post(path, files={"file": ("may.csv", io.BytesIO(content))}, headers=PAGE)
    assert answer.status_code in (200, 303)
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_a_file_that_was_refused_waits_to_be_submitted_again(ada: Client) -> None:
    address = (await ada.post("/new", files=FILE, headers=PAGE)).headers["location"].partition("?")[0]
    refused = await ada.post(f"{address}/submit", data={"due": "2001-01-01"}, headers=PAGE)
    assert refused.status_code == 422
    assert (await ada.post(f"{address}/submit", headers=PAGE)).status_code == 303


async def test_a_fourth_file_takes_the_place_of_the_first_and_the_page_says_so(ada: Client) -> None:
    addresses = [(await ada.post("/new", files=FILE, headers=PAGE)).headers["location"] for _ in range(4)]
    gone, *left = [await ada.get(address, headers=PAGE) for address in addresses]
    assert (gone.status_code, [each.status_code for each in left]) == (404, [200] * 3)
    assert "at most three of a person (a fourth takes the place of the first)" in gone.text
