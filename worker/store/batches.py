"""Batches in Redis: taken in whole or not at all, read back, moved from state to state."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import orjson
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.domain.batches import (
    TRANSITIONS,
    Batch,
    BatchState,
    Description,
    Environment,
    Lane,
    StateReason,
    Tally,
    Target,
)
from worker.domain.brakes import Brakes, Despite, Tripped
from worker.domain.errors import StoreError
from worker.domain.outcomes import REASON_BY_TEXT, Reason
from worker.domain.people import WORKER
from worker.domain.records import History, Result
from worker.store import keys
from worker.store.packing import (
    pack_history,
    pack_ids,
    pack_kept,
    pack_result,
    unpack_ids,
    unpack_kept,
    unpack_result,
)
from worker.store.scripts import Script

_LOADING_TTL = 3600  # seconds; what a submission that died left behind is gone after it
_PIPELINE = 20  # shards a round trip
_AT_ONCE = 50  # batches in one step, so that Redis stays free for others
_TIES = 20  # batches of one millisecond that a page may have to skip
_NONE: Mapping[int, History] = {}
_Stored: TypeAlias = tuple[bytes, bytes | None, dict[bytes, bytes]]
"""Of a shard: its IDs, its kept cells if it has any, its outcomes."""


class Accepted(NamedTuple):
    """What became of a submission."""

    batch_id: str
    """The batch it became, or the one that exists already."""
    known_by: str | None = None
    """``file`` or ``reference`` if the batch existed before."""


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
        shared = [_file_key(description), keys.BATCHES, keys.active(description.target)]
        if reference := _reference_key(description):
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
        for field, value in _to_meta(description).items():
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


class Batches:
    """Reads batches and moves them from state to state."""

    def __init__(self, redis: Redis, retention_days: int, replicas: int = 0) -> None:
        self._redis = redis
        self._retention = retention_days * 86_400
        self._replicas = replicas
        self._transition = Script(redis, "transition", replicas)
        self._circuit = Script(redis, "circuit")

    def load(self, batch_id: str) -> Loading:
        """Begin to take in a batch."""
        return Loading(self._redis, batch_id, self._retention, self._replicas)

    async def get(self, batch_id: str) -> Batch | None:
        """The batch as it stands now, ``None`` if there is none of that ID."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(keys.of_batch(batch_id, "meta"))
        pipe.hgetall(keys.of_batch(batch_id, "tally"))
        meta, tally = await pipe.execute()
        return _to_batch(batch_id, meta, tally) if meta else None

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
            some = ids[first : first + _AT_ONCE]
            pipe = self._redis.pipeline(transaction=True)
            for batch_id in some:
                pipe.hgetall(keys.of_batch(batch_id, "meta"))
                pipe.hgetall(keys.of_batch(batch_id, "tally"))
            flat = await pipe.execute()
            found += [
                _to_batch(batch_id, meta, tally) if meta else None
                for batch_id, meta, tally in zip(some, flat[::2], flat[1::2], strict=True)
            ]
        if gone := [batch_id for batch_id, batch in zip(ids, found, strict=True) if batch is None]:
            await self._redis.zrem(keys.BATCHES, *gone)
        return found

    async def active(self, target: Target) -> dict[str, Lane]:
        """The target's batches that run, by ID; the urgent ones first, of each lane the oldest."""
        members: list[tuple[bytes, float]]
        members = await self._redis.zrange(keys.active(target), 0, -1, withscores=True)  # type: ignore[assignment]
        return {raw.decode(): Lane.BULK if score else Lane.URGENT for raw, score in members}

    async def known(self, description: Description) -> Accepted | None:
        """The batch that the reference names, or else the one last made of the same file for the same target."""
        for known_by, key in (("reference", _reference_key(description)), ("file", _file_key(description))):
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


def _file_key(description: Description) -> str:
    return keys.of_file(description.sha256, description.target)


def _reference_key(description: Description) -> str | None:
    return keys.of_reference(description.reference, description.target) if description.reference else None


def _to_meta(description: Description) -> dict[str, str | int | bytes | float]:
    return {
        "environment": description.target.environment.value,
        "merchant": description.target.merchant,
        "upstream": description.target.upstream,
        "source": description.source,
        "sha256": description.sha256,
        "rows": description.rows,
        "shard_size": description.shard_size,
        "shards": description.shards,
        "id_column": description.id_column,
        "columns": orjson.dumps(description.columns),
        "kept": orjson.dumps(description.kept),
        "reference": description.reference or "",
        "lane": description.lane.value,
        "failure_threshold": description.brakes.failure_threshold,
        "not_found_threshold": description.brakes.not_found_threshold,
        "canary": description.brakes.canary,
        "due": description.due or "",
        "retry_of": description.retry_of or "",
        "submitted_by": description.submitted_by or "",
        "needs_approval": int(description.needs_approval),
    }


def _to_batch(batch_id: str, raw_meta: Mapping[bytes, bytes], raw_tally: Mapping[bytes, bytes]) -> Batch:
    meta = {field.decode(): value.decode() for field, value in raw_meta.items()}
    tally = {field.decode(): int(count) for field, count in raw_tally.items()}
    description = Description(
        target=Target(Environment(meta["environment"]), meta["merchant"], meta["upstream"]),
        source=meta["source"],
        sha256=meta["sha256"],
        rows=int(meta["rows"]),
        shard_size=int(meta["shard_size"]),
        id_column=meta["id_column"],
        columns=tuple(orjson.loads(meta["columns"])),
        kept=tuple(orjson.loads(meta.get("kept", "[]"))),
        reference=meta["reference"] or None,
        due=float(meta["due"]) if meta["due"] else None,
        retry_of=meta["retry_of"] or None,
        lane=Lane(meta["lane"]),
        brakes=Brakes(float(meta["failure_threshold"]), float(meta["not_found_threshold"]), int(meta["canary"])),
        submitted_by=meta["submitted_by"] or None,
        needs_approval=meta["needs_approval"] == "1",
    )
    return Batch(
        id=batch_id,
        description=description,
        state=BatchState(meta["state"]),
        state_reason=StateReason(meta["state_reason"]) if "state_reason" in meta else None,
        tally=Tally(tally.pop("pending", 0), {REASON_BY_TEXT[name]: count for name, count in tally.items()}),
        created_at=int(meta["created_at"]) / 1000,
        ended_at=int(meta["ended_at"]) / 1000 if "ended_at" in meta else None,
        probe_at=int(meta["probe_at"]) / 1000 if "probe_at" in meta else None,
        tripped=_to_tripped(meta["state_reason"], meta["tripped"]) if "tripped" in meta else None,
        despite=tuple(map(Despite, meta.get("despite", "").split())),
        retried_by=meta.get("retried_by"),
        canary_left=int(meta["canary_left"]) if "canary_left" in meta else None,
        approved_by=meta.get("approved_by") or None,
        approved_at=int(meta["approved_at"]) / 1000 if "approved_at" in meta else None,
    )


def _to_tripped(reason: str, numbers: str) -> Tripped:
    """Read what record.lua wrote: count, done, threshold, whether it was the canary."""
    count, done, threshold, canary = numbers.split()
    return Tripped(Despite(reason), int(count), int(done), float(threshold), canary == "1")
