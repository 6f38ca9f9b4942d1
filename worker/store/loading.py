"""Takes a batch in: whole, in one atomic step, or not at all."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.domain.batches import Description
from worker.domain.errors import StoreError
from worker.domain.outcomes import Reason
from worker.domain.records import History, Result
from worker.store import keys
from worker.store.meta import file_key, reference_key, to_meta
from worker.store.packing import pack_history, pack_ids, pack_kept, pack_result
from worker.store.scripts import Script

_LOADING_TTL = 3600  # seconds; what a submission that died left behind is gone after it
_NONE: Mapping[int, History] = {}


class Accepted(NamedTuple):
    """What became of a submission."""

    batch_id: str
    """The batch it became, or the one that exists already."""
    known_by: str | None = None
    """``file`` or ``reference`` if the batch existed before."""


class Loading:
    """A batch on its way into the store; nothing of it counts before ``commit``."""

    def __init__(self, redis: Redis, batch_id: str, retention: int, replicas: int) -> None:
        self._redis = redis
        self._id = batch_id
        self._retention = retention
        self._commit = Script(redis, "commit", replicas)
        self._reasons: dict[Reason, int] = {}
        self._pending = 0
        self._shards_with_more: list[int] = []

    async def add_shard(
        self,
        shard: int,
        ids: Sequence[str],
        known: Mapping[int, Result],
        histories: Mapping[int, History] = _NONE,
        kept: Sequence[Sequence[str]] = (),
    ) -> None:
        """Store a shard's ID cells, and what is known before anything is sent: outcomes and doubts, by offset.

        ``kept`` has the cells of the description's other stored columns, row by row; nothing if there are none.
        """
        pipe = self._redis.pipeline(transaction=True)  # no ID is left without its expiry
        ids_key, out_key, shards_key = (self._key(part) for part in ("ids", f"out:{shard}", "shards"))
        if known:
            now = int((await self._redis.time())[0]).to_bytes(4, "big")
            pipe.hset(out_key, mapping={str(offset): now + pack_result(result) for offset, result in known.items()})
            pipe.expire(out_key, _LOADING_TTL)
        if histories:
            tries_key = self._key(f"tries:{shard}")
            pipe.hset(tries_key, mapping={str(offset): pack_history(history) for offset, history in histories.items()})
            pipe.expire(tries_key, _LOADING_TTL)
        if known or histories:
            self._shards_with_more.append(shard)
        if kept:
            pipe.hset(self._key("kept"), str(shard), pack_kept(kept))
            pipe.expire(self._key("kept"), _LOADING_TTL)
        if len(known) < len(ids):
            pipe.zadd(shards_key, {str(shard): shard})  # due at once, and in the order of the rows
            pipe.expire(shards_key, _LOADING_TTL)
        pipe.hset(
            ids_key, str(shard), pack_ids(ids)
        )  # last: whatever Redis forgets in a crash, if these are there, all is
        pipe.expire(ids_key, _LOADING_TTL)
        await pipe.execute()
        self._pending += len(ids) - len(known)
        for result in known.values():
            self._reasons[result.reason] = self._reasons.get(result.reason, 0) + 1

    async def commit(self, description: Description, *, again: bool) -> Accepted:
        """Make the batch count, in one atomic step, unless its file or its reference is known already.

        ``again`` accepts a file that was accepted before; a reference names one batch for ever. Raises ``StoreError``
        if what was loaded has expired meanwhile, or if nobody knows whether it counts now.
        """
        shared = [file_key(description), keys.BATCHES, keys.active(description.target)]
        if reference := reference_key(description):
            shared.append(reference)
        tally = {"pending": self._pending} | {reason.text: count for reason, count in self._reasons.items()}
        args: list[str | int | bytes | float] = [
            self._id,
            self._key(""),
            self._retention,
            int(again),
            description.shards,
            keys.of_batch(description.retry_of, "meta") if description.retry_of else "",
            len(tally),
        ]
        for name, count in tally.items():
            args += [name, count]
        args += [len(self._shards_with_more), *self._shards_with_more]
        for field, value in to_meta(description).items():
            args += [field, value]
        own = [self._key(part) for part in ("meta", "tally", "shards", "ids")]
        try:
            answer, detail = await self._commit(keys=[*own, *shared], args=args)
        except (RedisConnectionError, RedisTimeoutError):
            raise StoreError(
                "Redis went away in the last step, so it may have been accepted; submit it again: it is not taken twice"
            ) from None
        if answer == b"ok":
            return Accepted(self._id)
        await self.discard()
        if answer == b"lost":
            raise StoreError("the submission took too long, and what was stored of it has expired; submit it again")
        return Accepted(detail.decode(), answer.decode())

    async def discard(self) -> None:
        """Remove what was loaded."""
        more = [f"{part}:{shard}" for shard in self._shards_with_more for part in ("out", "tries")]
        await self._redis.unlink(*map(self._key, ["ids", "kept", "shards", *more]))

    def _key(self, part: str) -> str:
        return keys.of_batch(self._id, part)
