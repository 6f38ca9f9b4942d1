"""Batches in Redis: read back, and moved from state to state."""

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from redis.asyncio import Redis

from worker.domain.batches import TRANSITIONS, Batch, BatchState, Description, Lane, StateReason, Target
from worker.domain.brakes import Despite
from worker.domain.errors import StoreError
from worker.domain.people import WORKER
from worker.domain.records import Result
from worker.store import keys
from worker.store.loading import Accepted, Loading
from worker.store.meta import file_key, reference_key, to_batch
from worker.store.packing import unpack_ids, unpack_kept, unpack_result
from worker.store.scripts import Script

_PIPELINE = 20  # shards a round trip
_AT_ONCE = 50  # batches in one step, so that Redis stays free for others
_TIES = 20  # batches of one millisecond that a page may have to skip
_Stored: TypeAlias = tuple[bytes, bytes | None, dict[bytes, bytes]]
"""Of a shard: its IDs, its kept cells if it has any, its outcomes."""


class Place(NamedTuple):
    """Where a batch stands in the list of all: these compare as the list is sorted."""

    at: int
    """Milliseconds since the epoch."""
    batch_id: str


class Line(NamedTuple):
    """One record as the store has it."""

    row: int
    customer_id: str
    """The ID cell, as it was but for white space around it."""
    result: Result | None
    """``None`` while pending."""
    cells: Sequence[str]
    """Under the description's ``stored_columns``; the ID cell is one of them."""


class Batches:
    """Reads batches and moves them from state to state."""

    def __init__(self, redis: Redis, retention_days: int, replicas: int = 0) -> None:
        self._redis = redis
        self._retention = retention_days * 86_400
        self._replicas = replicas
        self._transition = Script(redis, "transition", replicas)
        self._circuit = Script(redis, "circuit")
        self._batches = Script(redis, "read_batches")

    def load(self, batch_id: str) -> Loading:
        """Begin to take in a batch."""
        return Loading(self._redis, batch_id, self._retention, self._replicas)

    async def get(self, batch_id: str) -> Batch | None:
        """The batch as it stands now, ``None`` if there is none of that ID."""
        (found,) = await self._stand([batch_id])
        return found

    async def named(self, reference: str, target: Target) -> Batch | None:
        """The batch that was submitted under a reference, by whichever upstream of the merchant and environment."""
        raw: bytes | None = await self._redis.get(keys.of_reference(reference, target))  # type: ignore[assignment]
        return await self.get(raw.decode()) if raw else None

    async def recent(self, limit: int | None) -> list[Batch]:
        """The newest batches, or all, newest first; what expired is left out and forgotten."""
        last = -1 if limit is None else limit - 1
        newest: list[bytes] = await self._redis.zrevrange(keys.BATCHES, 0, last)  # type: ignore[assignment]
        return [batch for batch in await self._some([raw.decode() for raw in newest]) if batch is not None]

    async def older(self, than: Place | None, count: int) -> list[tuple[Place, Batch | None]]:
        """The next batches behind a place in the list, newest first; from its beginning without one.

        The batch is ``None`` if it has expired.
        """
        first = "+inf" if than is None else than.at
        found: list[tuple[bytes, float]] = await self._redis.zrange(  # type: ignore[assignment]
            keys.BATCHES, first, "-inf", desc=True, byscore=True, withscores=True, offset=0, num=count + _TIES
        )
        places = [Place(int(score), raw.decode()) for raw, score in found]
        places = [place for place in places if than is None or place < than][:count]
        return list(zip(places, await self._some([place.batch_id for place in places]), strict=True))

    async def _some(self, ids: Sequence[str]) -> list[Batch | None]:
        """The batches, ``None`` for those that expired, which are forgotten."""
        found: list[Batch | None] = []
        for first in range(0, len(ids), _AT_ONCE):
            found += await self._stand(ids[first : first + _AT_ONCE])
        if gone := [batch_id for batch_id, batch in zip(ids, found, strict=True) if batch is None]:
            await self._redis.zrem(keys.BATCHES, *gone)
        return found

    async def _stand(self, ids: Sequence[str]) -> list[Batch | None]:
        names = [keys.of_batch(batch_id, part) for batch_id in ids for part in ("meta", "tally")]
        kept: list[list[bytes]] = await self._batches(keys=names, args=[])
        hashes = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in kept]
        return [
            to_batch(batch_id, meta, tally) if meta else None
            for batch_id, meta, tally in zip(ids, hashes[::2], hashes[1::2], strict=True)
        ]

    async def active(self, target: Target) -> dict[str, Lane]:
        """The target's batches that run, by ID; the urgent ones first, of each lane the oldest."""
        members: list[tuple[bytes, float]]
        members = await self._redis.zrange(keys.active(target), 0, -1, withscores=True)  # type: ignore[assignment]
        return {raw.decode(): Lane.BULK if score else Lane.URGENT for raw, score in members}

    async def known(self, description: Description) -> Accepted | None:
        """The batch that the reference names, or else the one last made of the same file for the same target."""
        for known_by, key in (("reference", reference_key(description)), ("file", file_key(description))):
            raw: bytes | None = await self._redis.get(key) if key else None  # type: ignore[assignment]
            if raw:
                return Accepted(raw.decode(), known_by)
        return None

    async def move(
        self,
        batch_id: str,
        source: BatchState,
        to: BatchState,
        reason: StateReason | None = None,
        *,
        actor: str | None = WORKER,
        despite: Despite | None = None,
    ) -> tuple[bool, BatchState | None]:
        """Make a transition if the batch is in ``source``; returns whether it was made and the state it is in now.

        The state is ``None`` if there is no such batch. A batch with nothing pending completes instead of running.
        One that a brake holds runs only ``despite`` it, and is not held by the same again.
        The audit trail has in the same step who did it: the ``actor``, ``None`` for somebody without a name. From
        ``awaiting_approval`` to ``running``, the actor is who approved it; that it is the right one is for the caller.
        """
        if to not in TRANSITIONS[source]:
            raise ValueError(f"there is no transition from {source} to {to}")
        of = partial(keys.of_batch, batch_id)
        moved, state = await self._transition(
            keys=[of(part) for part in ("meta", "tally", "shards", "holders", "parked")],
            args=[
                batch_id,
                of(""),
                self._retention,
                source.value,
                to.value,
                reason or "",
                actor or "",
                despite or "",
            ],
        )
        return bool(moved), None if state == b"gone" else BatchState(state.decode())

    async def circuit_opened(self, batch_id: str, probe_in: float) -> None:
        """Pause a running batch until the upstream is back; it is asked again in ``probe_in`` seconds."""
        await self._note_circuit(batch_id, int(probe_in * 1000))

    async def circuit_closed(self, batch_id: str) -> None:
        """Let a batch go on that waited for the upstream; no other pause is touched."""
        await self._note_circuit(batch_id, "")

    async def _note_circuit(self, batch_id: str, probe_in: int | str) -> None:
        parts = ("meta", "shards", "holders", "parked")
        await self._circuit(keys=[keys.of_batch(batch_id, part) for part in parts], args=[probe_in])

    async def pages(self, batch: Batch) -> AsyncIterator[Iterable[Line]]:
        """Every record in the order of the rows, some thousands at a time; memory does not grow with the batch.

        Raises ``StoreError`` if the batch expires, or is purged, meanwhile.

        A page is unpacked while it is iterated over, once: a line then is gone before the garbage collector counts it.
        """
        description = batch.description
        for first in range(0, description.shards, _PIPELINE):
            shards = range(first, min(first + _PIPELINE, description.shards))
            yield _lines(description, shards, await self._read(batch.id, shards))

    async def _read(self, batch_id: str, shards: Iterable[int]) -> list[_Stored]:
        pipe = self._redis.pipeline(transaction=False)
        for shard in shards:
            pipe.hgetall(keys.of_batch(batch_id, f"out:{shard}"))
            pipe.hget(keys.of_batch(batch_id, "kept"), str(shard))
            pipe.hget(keys.of_batch(batch_id, "ids"), str(shard))  # last, as it goes first: then the others were there
        flat = await pipe.execute()
        if None in flat[2::3]:
            raise StoreError(f"batch {batch_id} was purged, or expired, while it was read")
        return list(zip(flat[2::3], flat[1::3], flat[::3], strict=True))


def _lines(description: Description, shards: Iterable[int], stored: Iterable[_Stored]) -> Iterable[Line]:
    for shard, (ids, kept, outcomes) in zip(shards, stored, strict=True):
        customer_ids = unpack_ids(ids)
        cells = _cells(description, customer_ids, kept)
        for offset, (row, customer_id, of_row) in enumerate(
            zip(description.rows_of(shard), customer_ids, cells, strict=True)
        ):
            packed = outcomes.get(b"%d" % offset)
            yield Line(row, customer_id, unpack_result(packed) if packed else None, of_row)


def _cells(description: Description, customer_ids: Sequence[str], kept: bytes | None) -> Iterable[Sequence[str]]:
    """What stands under the stored columns, row by row."""
    if kept is None:
        return ((customer_id,) for customer_id in customer_ids)
    at = description.stored_columns.index(description.id_column)
    others = zip(customer_ids, unpack_kept(kept), strict=True)
    return ([*row[:at], customer_id, *row[at:]] for customer_id, row in others)
