"""The process ``expunge web``."""

import asyncio
from pathlib import Path

import httpx

from tests.web.conftest import add_token, problem
from tests.web.served import Served
from worker.domain.people import Role
from worker.store.connection import open_redis
from worker.store.tokens import Tokens


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
