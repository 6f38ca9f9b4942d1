"""The process ``expunge web``."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.web.conftest import add_token, problem
from tests.web.served import Served
from worker.domain.people import Role
from worker.store.connection import open_redis
from worker.store.tokens import Tokens


@pytest.fixture(scope="module")
def served(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that nobody has a token of."""
    with Served(tmp_path_factory.mktemp("web"), server) as served:
        yield served


def first_token(redis_url: str) -> str:
    async def add() -> str:
        async with open_redis(redis_url) as redis:
            return await add_token(Tokens(redis), "ada", Role.ADMIN)

    return asyncio.run(add())


def test_it_serves_until_it_is_asked_to_stop(redis_url: str, tmp_path: Path) -> None:
    token = first_token(redis_url)
    with Served(tmp_path, redis_url) as served, httpx.Client(base_url=served.url) as client:
        problem(client.get("/v1/batches"), "identity")
        found = client.get("/v1/batches", headers={"Authorization": f"Bearer {token}"})
        assert found.json() == {"batches": [], "next": None}
        assert "server" not in found.headers
        assert served.stop() == 0
        assert token not in served.log
        assert "serving merchant 'm1' in sandbox" in served.log


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/batches", "text/csv"),
        ("/v1/holds", "application/json"),
        ("/holds", "application/x-www-form-urlencoded"),
        ("/holds/release", "application/x-www-form-urlencoded"),
        ("/holds/file", "multipart/form-data; boundary=x"),
        ("/holds/resubmit", "application/x-www-form-urlencoded"),
        ("/v1/holds/release", "text/csv"),
        ("/new", "multipart/form-data; boundary=x"),
        ("/new/x/submit", "application/x-www-form-urlencoded"),
        ("/batches/6h0sgvnab11e7/approve", "application/x-www-form-urlencoded"),
        ("/batches/6h0sgvnab11e7/resume", "application/x-www-form-urlencoded"),
        ("/batches/6h0sgvnab11e7/retry", "application/x-www-form-urlencoded"),
    ],
)
def test_a_stranger_is_refused_before_the_body_has_come(served: Served, path: str, kind: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"customer_ids=c1")  # and never the rest
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_who_sends_nothing_more_is_cut_off(redis_url: str, tmp_path: Path) -> None:
    token = first_token(redis_url)
    session = "POST /session HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    upload = f"POST /v1/plans HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: text/csv\r\n"
    alive = "GET /healthz HTTP/1.1\r\nHost: x\r\n"
    begun = {
        "nothing": "",
        "half a head": alive,
        "half a second head": f"{alive}\r\n{alive}",
        "half a form": f"{session}Content-Length: 100\r\n\r\ntoken=",
        "half a file": f"{upload}Content-Length: 100\r\n\r\ncustomer_id",
    }
    ends = {}
    with Served(tmp_path, redis_url) as served, ExitStack() as open_ones:
        connections = {
            name: open_ones.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=60))
            for name in begun
        }
        for name, text in begun.items():
            connections[name].sendall(text.encode())
        connections["half a second head"].recv(1000)
        connections["half a second head"].sendall(b"X-Y: z\r\n")
        for name, connection in connections.items():
            ends[name] = b"".join(iter(partial(connection.recv, 1 << 16), b"")).partition(b" ")[2][:3]
    assert ends == {
        "nothing": b"", "half a head": b"", "half a second head": b"", "half a form": b"408", "half a file": b"408",
    }  # fmt: skip


def test_many_rows_go_in_and_out_in_little_memory(redis_url: str, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {first_token(redis_url)}"}
    path = tmp_path / "many.csv"
    path.write_text("customer_id\n" + "".join(f"customer_{number:032x}\n" for number in range(200_000)))
    with (
        Served(tmp_path, redis_url) as served,
        httpx.Client(base_url=served.url, headers=headers, timeout=60) as client,
    ):
        idle = served.peak()
        with path.open("rb") as file:
            accepted = client.post("/v1/batches", files={"file": ("many.csv", file)})
        assert accepted.status_code == 202
        with client.stream("GET", f"{accepted.headers['location']}/report") as report:
            lines = sum(chunk.count(b"\n") for chunk in report.iter_raw())
        assert lines == 200_001
        assert served.peak() - idle < 40
        assert served.peak() < 200


def test_no_customer_name_or_token_is_in_the_log(redis_url: str, tmp_path: Path) -> None:
    """At the level that says most; nor what was wrong with a request."""
    token = first_token(redis_url)
    headers = {"Authorization": f"Bearer {token}"}
    with Served(tmp_path, redis_url, EXPUNGE_LOG_LEVEL="debug") as served:
        with httpx.Client(base_url=served.url, headers=headers) as client:
            content = "customer_id\nsecret-customer\n"
            made = client.post(
                "/v1/batches", files={"file": ("secret-name.csv", content)}, data={"reference": "secret-r"}
            )
            client.get(f"{made.headers['location']}/report")
            client.post("/v1/batches", files={"file": ("secret-name.csv", "secret-header;x\n1;2\n")})
            client.post("/v1/holds", json={"customer_ids": ["secret-customer"], "ground": "secret-ground"})
            client.post("/v1/holds", json={"customer_ids": ["secret customer"], "grounds": "secret-ground"})
            client.get("/v1/secret-address", params={"q": "secret-query"})
            client.post(
                "/v1/batches", content="secret-body", headers={"Content-Type": "multipart/form-data; boundary=x"}
            )
        assert served.stop() == 0
        assert "secret" not in served.log
        assert token not in served.log


async def test_fifty_followers_cost_little(redis_url: str, tmp_path: Path) -> None:
    token = await asyncio.to_thread(first_token, redis_url)
    with Served(tmp_path, redis_url) as served:
        async with httpx.AsyncClient(
            base_url=served.url, headers={"Authorization": f"Bearer {token}"}, limits=httpx.Limits(max_connections=60)
        ) as client:
            headers = {"Content-Type": "text/csv"}
            made = await client.post("/v1/batches", content=b"customer_id\nc1\n", headers=headers)
            path = f"{made.headers['location']}/events"
            seen = [0] * 50
            followers = [asyncio.create_task(follow(client, path, seen, at)) for at in range(50)]
            async with asyncio.timeout(10):
                while not all(seen):  # noqa: ASYNC110 - what is waited for is in another process
                    await asyncio.sleep(0.1)
            before = served.cpu()
            await change_each_second(redis_url, made.json()["batch"], seconds=5)
            assert served.cpu() - before < 0.05 * 5
            assert min(seen) >= 4
            assert served.stop() == 0, "streams that are open do not keep it from stopping"
            await asyncio.gather(*followers, return_exceptions=True)


async def follow(client: httpx.AsyncClient, path: str, seen: list[int], at: int) -> None:
    async with client.stream("GET", path, timeout=30) as response:
        async for line in response.aiter_lines():
            seen[at] += line.startswith("event: batch")


async def change_each_second(redis_url: str, batch_id: str, *, seconds: int) -> None:
    async with open_redis(redis_url) as redis:
        for number in range(seconds):
            await redis.hset(f"expunge:{{{batch_id}}}:meta", "canary_left", str(number + 1))
            await asyncio.sleep(1)
