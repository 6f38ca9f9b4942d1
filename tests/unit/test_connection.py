"""What Redis complains of becomes one line that says where and what to do, without user and password."""

import pytest
from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from worker.domain.errors import StoreError, UnreachableError
from worker.domain.sentinels import SentinelAddress
from worker.queue import celery_app
from worker.store.connection import _Cancellable, open_redis, readable_errors, shown
from worker.store.scripts import NotReplicatedError

URL = "redis://ann:pw-51c2@redis.example.com:6379/3"

COMPLAINTS = [
    (exceptions.ConnectionError("x"), UnreachableError, "does not answer"),
    (exceptions.TimeoutError("x"), UnreachableError, "does not answer"),
    (exceptions.AuthenticationError("x"), UnreachableError, "user or password"),
    (exceptions.NoPermissionError("x"), UnreachableError, "ACL"),
    (exceptions.ReadOnlyError("x"), UnreachableError, "read-only replica"),
    (exceptions.ResponseError("NOAUTH Authentication required."), UnreachableError, "asks for a password"),
    (exceptions.ResponseError("DB index is out of range"), UnreachableError, "no such database"),
    (exceptions.InvalidResponse("Protocol Error"), UnreachableError, "host and port"),
    (MasterNotFoundError("x"), UnreachableError, "Sentinels"),
    (exceptions.OutOfMemoryError("x"), StoreError, "maxmemory"),
    (exceptions.ExecAbortError("Transaction discarded because of: OOM command not allowed"), StoreError, "is full"),
    (
        exceptions.ExecAbortError("Transaction discarded because of: READONLY You can't write"),
        UnreachableError,
        "read-only replica",
    ),
    (exceptions.ExecAbortError("Transaction discarded because of previous errors."), StoreError, "ExecAbortError"),
    (NotReplicatedError("0 of 1 replicas acknowledged within 2 s"), StoreError, "0 of 1 replicas"),
    (exceptions.ResponseError("ERR secret customer"), StoreError, "ResponseError"),
]


@pytest.mark.parametrize(("error", "kind", "words"), COMPLAINTS, ids=lambda value: str(value)[:24])
def test_a_complaint_is_one_line_with_advice(error: Exception, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as told, readable_errors(URL):
        raise error
    line = str(told.value)
    assert "redis.example.com:6379/3" in line
    assert words in line
    assert "\n" not in line
    for secret in ("ann", "pw-51c2", "secret customer"):
        assert secret not in line


SENTINELS = "sentinel://ann:p%40w@s1.example.com:26380,s2.example.com,[::1]:7/main-1/4"


def test_the_address_of_sentinels_is_read() -> None:
    address = SentinelAddress.parse(SENTINELS)
    assert address.hosts == (("s1.example.com", 26380), ("s2.example.com", 26379), ("::1", 7))
    assert (address.name, address.database, address.user, address.password) == ("main-1", 4, "ann", "p@w")
    assert "p@w" not in repr(address)
    assert SentinelAddress.parse("sentinel://h/mymaster") == SentinelAddress((("h", 26379),), "mymaster", 0)


@pytest.mark.parametrize(
    "url", ["sentinel://h1:1", "sentinel:///m/0", "sentinel://h:99999/m", "sentinel://pw@h/m", "sentinel://h/m/x"]
)
def test_a_wrong_address_of_sentinels_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="sentinel://user:password@host") as refused:
        SentinelAddress.parse(url)
    assert url not in str(refused.value)


async def test_sentinels_are_shown_without_user_and_password() -> None:
    assert shown(SENTINELS) == "sentinel://s1.example.com:26380,s2.example.com,[::1]:7/main-1/4"
    async with open_redis(SENTINELS) as redis:
        assert "p@w" not in repr(redis)


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://h/0", "unix:///s", SENTINELS], ids=lambda url: url[:6])
async def test_a_connection_of_any_kind_sends_without_losing_a_cancellation(url: str) -> None:
    """What that means is in tests/integration/test_store.py, on one of them."""
    async with open_redis(url) as redis:
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    assert type(connection).send_packed_command is _Cancellable.send_packed_command


def test_celery_is_told_of_sentinels_in_its_own_words() -> None:
    app = celery_app("sentinel://ann:p%40w@h1:1,[::1]:2/main-1/4")
    assert app.conf.broker_url == "sentinel://ann:p%40w@h1:1/4;sentinel://ann:p%40w@[::1]:2/4"
    assert app.conf.broker_transport_options["master_name"] == "main-1"
    assert celery_app("unix:///run/redis.sock").conf.broker_url == "redis+socket:///run/redis.sock"
    assert celery_app("redis://h/0").conf.broker_url == "redis://h/0"
