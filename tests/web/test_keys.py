"""How long an ``Idempotency-Key`` is known, and what is kept of it."""

from redis.asyncio import Redis

from tests.conftest import all_keys
from worker.store.requests import Answer, Requests


async def test_a_key_is_known_for_a_day_and_one_in_work_for_a_quarter_of_an_hour(redis: Redis) -> None:
    requests = Requests(redis)
    assert await requests.begin("anna", "secret-key", "content") is None
    (name,) = await all_keys(redis, "expunge:request:*")
    assert 840 < await redis.ttl(name) <= 900, "a process that died keeps nobody from asking again"
    await requests.keep("anna", "secret-key", "content", Answer(202, "/v1/batches/b", {}))
    assert 86_340 < await redis.ttl(name) <= 86_400
    assert "secret-key" not in name
    assert "secret-key" not in str(await redis.get(name))


async def test_two_people_s_keys_cannot_meet_however_they_are_cut(redis: Redis) -> None:
    requests = Requests(redis)
    assert await requests.begin("anna", "1key", "one") is None
    assert await requests.begin("anna1", "key", "two") is None
