"""``python -m bench.web``: what ``expunge web`` costs: its batch page, browsers that follow a batch, a million rows.

A browser is a client that asks as the page does; the CPU time and the memory are those of the web process alone.
"""

import asyncio
import re
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from pydantic import SecretStr

from bench import filling, promises
from bench.customers import ids, write_csv
from bench.machine import cpu_time
from bench.processes import Child, MeasureError, expunge, started
from bench.promises import Line, Part, at_most
from worker.domain.people import Role, make_token
from worker.embedded import embedded_server
from worker.settings import Settings
from worker.web.pages.views import OFTEN
from worker.wiring import Store, open_store

PAGE_DUE = 50.0
"""Milliseconds, the median of a batch page."""
FOLLOWERS_DUE = 5.0
"""Per cent of one core, for ``FOLLOWERS``."""
MEMORY_DUE = 200.0
"""MB of resident memory at most."""
BATCHES, FOLLOWERS, ROWS = 200, 50, 1_000_000
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large everything is."""

    batches: int
    followers: int
    rows: int
    seconds: float


def measure(smoke: bool) -> Part:
    """200 batches, 50 browsers, a million rows; tiny to show that it works."""
    size = Size(4, 3, 2_000, 3.0) if smoke else Size(BATCHES, FOLLOWERS, ROWS, 20.0)
    with tempfile.TemporaryDirectory(prefix="expunge-bench-") as name, embedded_server(Path(name) / "home") as url:
        settings = Settings(
            _env_file=None, redis_url=SecretStr(url), upstream_url="http://127.0.0.1:1", merchant_id="bench"
        )
        lines = uvloop.run(_measure(settings, url, Path(name), size))
    return Part("The web process", lines, f"{size.batches:,} batches, {size.followers} browsers, {size.rows:,} rows.")


async def _measure(settings: Settings, url: str, folder: Path, size: Size) -> list[Line]:
    async with open_store(settings) as store:
        token = make_token(secrets.token_hex(4), secrets.token_urlsafe(32))
        await store.tokens.add(token, "bench", Role.ADMIN, None)
        with _serving(url, folder) as (child, address):
            async with _browser(address, token) as browser:
                median = await _page(store, browser, size.batches)
                big, went_in = await _upload(browser, child, folder, size.rows)
                finishing = asyncio.create_task(filling.finish(store, big))
                share = await _followed(browser, child, big, size)
                await finishing
                came_out = await _download(browser, child, big, size.rows)
    return [
        at_most(f"Batch page: median ms, {size.batches:,} batches in the store", PAGE_DUE, median, "{:.1f}"),
        at_most(f"{size.followers} browsers at one batch: % of one core", FOLLOWERS_DUE, share, "{:.1f}"),
        at_most(f"Page takes {size.rows:,} rows: MB of the web process", MEMORY_DUE, went_in, "{:.0f}"),
        at_most(f"Report of {size.rows:,} rows: MB of the web process", MEMORY_DUE, came_out, "{:.0f}"),
    ]


@contextmanager
def _serving(url: str, folder: Path) -> Iterator[tuple[Child, str]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = {
        "EXPUNGE_REDIS_URL": url,
        "EXPUNGE_UPSTREAM_URL": "http://127.0.0.1:1",
        "EXPUNGE_MERCHANT_ID": "bench",
        "EXPUNGE_WEB_RATE_LIMIT": "100000/s",
    }
    with started(expunge("web", "--port", str(port)), folder, env) as child:
        yield child, f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _browser(address: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    """One that is signed in; the cookie is sent by hand, since httpx sends no secure one over http."""
    headers = {"Origin": address, "Accept": "text/html"}
    limits = httpx.Limits(max_connections=2 * FOLLOWERS, max_keepalive_connections=2 * FOLLOWERS)
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=_TIMEOUT, limits=limits) as client:
        await _until_ready(client)
        answer = await client.post("/session", data={"token": token})
        client.headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        yield client


async def _until_ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("/readyz")).is_success:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    raise MeasureError("expunge web does not answer")


async def _page(store: Store, browser: httpx.AsyncClient, count: int) -> float:
    made = [await _submitted(browser) for _ in range(count)]
    for batch_id in made[::2]:
        await filling.finish(store, batch_id)
    times = []
    for batch_id in made:
        began = time.perf_counter()
        _check(await browser.get(f"/batches/{batch_id}"))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


async def _submitted(browser: httpx.AsyncClient) -> str:
    content = "\n".join(["customer_id", *ids(300)])
    answer = await browser.post("/v1/batches", content=content, headers={"Content-Type": "text/csv"})
    return str(_check(answer).json()["batch"])


async def _upload(browser: httpx.AsyncClient, child: Child, folder: Path, rows: int) -> tuple[str, float]:
    """As a person does: choose, look, submit."""
    path = folder / "many.csv"
    write_csv(path, rows)
    with path.open("rb") as file:
        chosen = await browser.post("/new", files={"file": (path.name, file)}, data={"column": "customer_id"})
    address = _check(chosen).headers["location"]
    _check(await browser.get(address))
    submitted = await browser.post(f"{address.partition('?')[0]}/submit", data={"column": "customer_id"})
    return _check(submitted).headers["location"].rpartition("/")[2], _peak(child)


async def _followed(browser: httpx.AsyncClient, child: Child, batch_id: str, size: Size) -> float:
    """CPU time in per cent of the time that passed."""
    followers = [
        asyncio.create_task(_follow(browser, batch_id, OFTEN * at / size.followers)) for at in range(size.followers)
    ]
    await asyncio.sleep(OFTEN)
    before, began = cpu_time(child.process.pid), time.monotonic()
    await asyncio.sleep(size.seconds)
    share = 100 * (cpu_time(child.process.pid) - before) / (time.monotonic() - began)
    await _ended(followers)
    return share


async def _follow(browser: httpx.AsyncClient, batch_id: str, first: float) -> None:
    await asyncio.sleep(first)
    while True:
        _check(await browser.get(f"/batches/{batch_id}/live?seen=running"))
        await asyncio.sleep(OFTEN)


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            raise MeasureError(f"a browser ended: {outcome}")


async def _download(browser: httpx.AsyncClient, child: Child, batch_id: str, rows: int) -> float:
    lines = 0
    async with browser.stream("GET", f"/v1/batches/{batch_id}/report") as report:
        async for chunk in report.aiter_raw():
            lines += chunk.count(b"\n")
    if lines != rows + 1:
        raise MeasureError(f"the report has {lines} lines instead of {rows + 1}")
    return _peak(child)


def _check(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise MeasureError(f"{answer.request.url.path}: {answer.status_code}: {answer.text[:500]}")
    return answer


def _peak(child: Child) -> float:
    """The most resident memory that it had, in MB."""
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    promises.alone("bench.web", __doc__, measure)
