"""Opens Redis, and turns what it complains of into one line for a person."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ExecAbortError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from worker.domain import sentinels
from worker.domain.errors import StoreError, UnreachableError
from worker.domain.sentinels import SentinelAddress
from worker.store.scripts import NotReplicatedError

_TIMEOUT = 5.0  # seconds; a half-open connection is noticed after it
_MIN_REDIS = (7, 0)
_MIN_VALKEY = (8, 0)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A client that retries through a short outage; nothing connects before the first command."""
    async with AsyncExitStack() as stack:
        if url.startswith(sentinels.SCHEME):
            redis = _master(SentinelAddress.parse(url), stack)
        elif url.startswith("unix:"):
            redis = Redis.from_url(url, **_options())
        else:
            redis = Redis.from_url(url, socket_keepalive=True, **_options())
        stack.push_async_callback(redis.aclose)
        pool = redis.connection_pool
        pool.connection_class = type("Connection", (_Cancellable, pool.connection_class), {})
        yield redis


class _Cancellable(AbstractConnection):
    """A connection whose commands can be cancelled at any moment.

    redis-py 8.1 sends with ``asyncio.wait_for``. Up to Python 3.11 that loses a cancellation that comes just when it
    ends, and whatever was cancelled goes on. ``asyncio.timeout`` does not, and starts no task for each command.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send it whole within the timeout; a connection on which that failed is closed, since half may be sent."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except BaseException as error:
            if self._writer is not None:
                self._writer.transport.abort()  # closing it would send the rest of what was given up, some time
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("Timeout writing to socket") from None
            if isinstance(error, OSError):
                raise RedisConnectionError(f"Error {error.errno} while writing to socket") from None
            raise


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": _TIMEOUT,
        "socket_connect_timeout": _TIMEOUT,
        "health_check_interval": 10,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
    }


def _master(address: SentinelAddress, stack: AsyncExitStack) -> Redis:
    """A client of whichever server the Sentinels call the master at the time."""
    asked = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT, "retry": Retry(NoBackoff(), 0)}
    asker = Sentinel(list(address.hosts), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    for sentinel in asker.sentinels:
        stack.push_async_callback(sentinel.aclose)
    master: Redis = asker.master_for(
        address.name,
        db=address.database,
        username=address.user,
        password=address.password,
        socket_keepalive=True,
        **_options(),
    )
    return master


def shown(url: str) -> str:
    """The address without user and password."""
    if url.startswith(sentinels.SCHEME):
        return sentinels.SCHEME + url.removeprefix(sentinels.SCHEME).rpartition("@")[2]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


_LOCKED = "asks for a password; put it into EXPUNGE_REDIS_URL: redis://:password@host:port/0"
_SAID = {
    "NOAUTH": _LOCKED,
    "WRONGPASS": _LOCKED,
    "SENTINEL": "is no Sentinel; a plain Redis is written redis://host:port/0 in EXPUNGE_REDIS_URL",
    "DB index": "has no such database; mend the number at the end of EXPUNGE_REDIS_URL",
}
"""What to say to errors that have no class of their own, by words in Redis' answer."""


_DISCARDED = {"because of: OOM ": OutOfMemoryError, "because of: READONLY ": ReadOnlyError}
"""What a whole transaction is refused for at its end, by words in Redis' answer."""


@contextmanager
def readable_errors(url: str) -> Iterator[None]:
    """Translate what redis-py raises: ``UnreachableError`` for what the operator can mend, else ``StoreError``."""
    try:
        yield
    except RedisError as error:
        raise _translated(error, shown(url)) from None


def _cause(error: RedisError) -> RedisError:
    if isinstance(error, ExecAbortError):
        return next((cause(str(error)) for words, cause in _DISCARDED.items() if words in str(error)), error)
    return error


def _translated(error: RedisError, where: str) -> UnreachableError | StoreError:
    match _cause(error):
        case NoPermissionError():
            what = "does not let this user do what is needed; docs/operations.md has the ACL rule"
        case AuthenticationError():
            what = "refuses the user or password; put them into EXPUNGE_REDIS_URL: redis://user:password@host:port/0"
        case ReadOnlyError():
            what = "is a read-only replica; EXPUNGE_REDIS_URL must name the master"
        case OutOfMemoryError():
            return StoreError(f"Redis at {where} is full; raise its maxmemory, then try again")
        case NotReplicatedError():
            return StoreError(
                f"Redis at {where} has taken it, but too few replicas have it ({error}), so a failover could lose it; "
                "`expunge batches` shows what there is"
            )
        case MasterNotFoundError():
            what = "knows no master of that name now; check the Sentinels and EXPUNGE_REDIS_URL"
        case RedisConnectionError() | RedisTimeoutError():
            what = "does not answer; check that it runs and that EXPUNGE_REDIS_URL is right"
        case ResponseError() if said := [advice for words, advice in _SAID.items() if words in str(error)]:
            what = said[0]
        case InvalidResponse():
            what = "does not speak Redis' protocol; check host and port in EXPUNGE_REDIS_URL"
        case _:
            return StoreError(f"Redis at {where} failed: {type(error).__name__}")
    return UnreachableError(f"Redis at {where} {what}")


async def problems(redis: Redis, replicas: int = 0) -> list[str]:
    """What of the server would lose records (SPEC 10), or lacks of ``replicas``; empty when all is well."""
    info = await redis.info("server")
    found = []
    if replicas and (there := (await redis.info("replication")).get("connected_slaves", 0)) < replicas:
        found.append(f"EXPUNGE_REPLICAS is {replicas}, and {there} are connected: nothing is sent until they are there")
    is_valkey = "valkey_version" in info
    version = str(info.get("valkey_version") or info.get("redis_version") or "0.0")
    name, least = ("Valkey", _MIN_VALKEY) if is_valkey else ("Redis", _MIN_REDIS)
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        found.append(f"{name} {version} is too old: {least[0]}.{least[1]} or newer is needed")
    try:
        config = await redis.config_get("maxmemory-policy", "appendonly")
    except ResponseError:
        return [
            *found,
            "CONFIG GET is not allowed: make sure of maxmemory-policy noeviction and appendonly yes yourself",
        ]
    if (policy := config.get("maxmemory-policy")) != "noeviction":
        found.append(f"maxmemory-policy is {policy}: records may be evicted; set it to noeviction")
    if config.get("appendonly") != "yes":
        found.append("appendonly is off: a restart of Redis loses records; set it to yes")
    return found
