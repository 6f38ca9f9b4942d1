"""Pages as somebody reads them."""

import html
import re
import time
from collections.abc import Awaitable, Callable

import httpx
from fastapi import FastAPI

from tests.conftest import claimed, written
from tests.web.conftest import Client, add_token, client_of
from worker.domain.outcomes import Reason
from worker.domain.people import Role
from worker.domain.records import Result
from worker.wiring import Store

PAGE = {"Accept": "text/html"}
CSV = b"customer_id,other\nc1,d1\nc2,d2\nc2,d3\nc3,d4\nc4,d5\nc5,d6\nno spaces,d7\n"
FAILED = Result(Reason.SERVER_ERROR, http_status=503, attempts=5)


async def text_of(client: Client, address: str) -> str:
    answer = await client.get(address, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


def words(text: str) -> str:
    """What somebody reads."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def facts(text: str) -> dict[str, str]:
    return {name: words(value) for name, value in re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", text, re.DOTALL)}


async def chosen(client: Client, content: bytes = CSV, name: str = "may.csv", column: str = "customer_id") -> str:
    """Upload a file; the address of the page that follows."""
    answer = await client.post("/new", files={"file": (name, content)}, data={"column": column}, headers=PAGE)
    return answer.headers["location"]


async def until_refused(ask: Callable[[], Awaitable[httpx.Response]]) -> list[int]:
    """Ask until it is too often; 20 in a second or 200 in a minute are, by how fast the machine is."""
    statuses = list[int]()
    while len(statuses) < 250 and 429 not in statuses:
        statuses.append((await ask()).status_code)
    return statuses


async def admin_of(app: FastAPI) -> Client:
    return client_of(app, await add_token(app.state.web.store.tokens, "ada", Role.ADMIN))


async def record(store: Store, batch_id: str, results: dict[int, Result]) -> None:
    claim = await claimed(store.shards, batch_id)
    await store.shards.record(claim, written(claim, results), time.time())
