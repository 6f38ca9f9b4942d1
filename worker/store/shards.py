"""Shards in Redis: held by one holder at a time, recorded in groups, fed again when nobody holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from redis.asyncio import Redis

from worker.domain import brakes
from worker.domain.batch_ids import pack_batch_id
from worker.domain.batches import Environment, Lane, Target
from worker.domain.outcomes import Outcome, Reason
from worker.domain.records import History, Result
from worker.store import keys
from worker.store.holds import Holds
from worker.store.ledger import Ledger
from worker.store.packing import pack_history, pack_outcome, unpack_history, unpack_ids
from worker.store.scripts import Script

LEASE = 30.0
"""Seconds that a shard stays its holder's without renewal; a dead worker's shard runs elsewhere soon after."""
MESSAGE_LIFE = 30.0
"""Seconds after which a message that nobody claimed counts as lost."""
_ALIVE = 15.0  # seconds after its last beat that a process counts as alive


def _spaced(reasons: Sequence[Reason]) -> str:
    return f" {' '.join(reason.text for reason in reasons)} "


_BAD, _WELL = _spaced(brakes.BAD), _spaced(brakes.WELL)


class NotClaimed(StrEnum):
    """Why a shard was not given to the asker; none of these is an error."""

    HELD = "held"
    DONE = "done"
    NOT_RUNNING = "not_running"


class Standing(StrEnum):
    """How a batch stands for those who work on it: its state, and ``waiting`` for a pause that ends by itself."""

    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    WAITING = "waiting"
    """Paused until the upstream is back; its shards are worked on, so that somebody asks."""
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    GONE = "gone"

    @property
    def lets_send(self) -> bool:
        """Whether its records may be sent."""
        return self in (Standing.RUNNING, Standing.WAITING)


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that is ours until the lease ends."""

    batch_id: str
    shard: int
    token: str
    """Fences: what is written under an older token is refused."""
    ids: Sequence[str]
    finished: frozenset[int]
    """Offsets that have an outcome."""
    histories: Mapping[int, History]
    """Of the pending records that were tried, by offset."""
    standing: Standing
    """Of the batch: ``running``, ``waiting`` or ``cancelled``."""
    deaths: int
    """How many holders died. If any did, each of the pending records may have been sent."""
    suspect: int | None
    """The offset of the record that a holder had in hand, alone, when it died."""
    strikes: int
    """How many holders in a row died with it in hand."""
    lane: Lane
    allowance: int | None
    """How many of its records may be sent, alone, as they are a canary (SPEC 6); ``None``: all."""


class Written(NamedTuple):
    """An outcome on its way into the store."""

    offset: int
    customer_id: str
    result: Result


class Due(NamedTuple):
    """Messages that must be sent."""

    batch_id: str
    target: Target
    shards: list[int]


class Recorded(NamedTuple):
    """What the store said to a group of outcomes."""

    ours: bool
    """Whether the shard still is the asker's, or has ended; if not, nothing was written."""
    standing: Standing
    """Of the batch."""
    holds: str
    """The version of the target's holds."""


class Shards:
    """What a worker asks of the store while it works on shards.

    With ``replicas``, what must survive a failover (claims, outcomes, suspects) is done only when that many replicas
    have acknowledged it.
    """

    def __init__(self, redis: Redis, ledger: Ledger, holds: Holds, retention_days: int, replicas: int = 0) -> None:
        self._redis = redis
        self._ledger = ledger
        self._holds = holds
        self._retention = retention_days * 86_400
        self._claim, self._record, self._suspect = (
            Script(redis, name, replicas) for name in ("claim", "record", "suspect")
        )
        self._release, self._feed = (Script(redis, name) for name in ("release", "feed"))

    async def claim(self, batch_id: str, shard: int, token: str) -> Claim | NotClaimed:
        """Take the shard for ``LEASE`` seconds. Asked again with the same token, it answers the same."""
        parts = ("meta", "shards", "holders", "ids", f"out:{shard}", f"tries:{shard}", "parked")
        answer = await self._claim(
            keys=[keys.of_batch(batch_id, part) for part in parts], args=[shard, token, int(LEASE * 1000)]
        )
        if answer[0] != b"ok":
            return NotClaimed(answer[0].decode())
        _, standing, deaths, suspect, strikes, lane, allowance, ids, finished, tried = answer
        return Claim(
            batch_id=batch_id,
            shard=shard,
            token=token,
            ids=unpack_ids(ids),
            finished=frozenset(map(int, finished)),
            histories={int(at): unpack_history(packed) for at, packed in zip(tried[::2], tried[1::2], strict=True)},
            standing=Standing(standing.decode()),
            deaths=deaths,
            suspect=suspect if suspect >= 0 else None,
            strikes=strikes,
            lane=Lane(lane.decode()),
            allowance=allowance if allowance >= 0 else None,
        )

    async def record(self, claim: Claim, written: Sequence[Written], now: float) -> Recorded:
        """Write outcomes that are not yet written, and all that follows from them, in one atomic step.

        Renews the lease; with nothing to write it only does that. Safe to repeat. ``now`` (seconds since the epoch)
        chooses the ledger's period and nothing else.
        """
        parts = ("meta", "shards", "holders", "tally", f"out:{claim.shard}", f"tries:{claim.shard}")
        args: list[str | int | bytes] = [
            claim.batch_id,
            keys.of_batch(claim.batch_id, ""),
            claim.shard,
            len(claim.ids),
            claim.token,
            int(LEASE * 1000),
            self._retention,
            self._ledger.periods.prefix(now),
            self._ledger.periods.expires_at(now),
            pack_batch_id(claim.batch_id),
        ]
        outcomes = bytearray()  # one argument: redis-py takes two microseconds for each four
        for offset, customer_id, result in written:
            digest = self._ledger.digest(customer_id) if result.outcome is Outcome.DELETED else b""
            outcomes += pack_outcome(offset, result, digest)
        args += [bytes(outcomes), _BAD, _WELL, brakes.LEAST]
        of_batch = [keys.of_batch(claim.batch_id, part) for part in parts]
        answer, standing, holds = await self._record(keys=[*of_batch, self._holds.version_key], args=args)
        return Recorded(answer == b"ok", Standing(standing.decode()), holds.decode())

    async def suspect(self, claim: Claim, offset: int) -> bool:
        """Note that this record alone is in hand now; returns whether the shard still is ours."""
        holders = keys.of_batch(claim.batch_id, "holders")
        return bool(await self._suspect(keys=[holders], args=[claim.shard, claim.token, offset]) == b"ok")

    async def release(self, claim: Claim, histories: Mapping[int, History], delay: float, alone: bool = True) -> bool:
        """Give the shard back, to be fed again in ``delay`` seconds; returns whether it still was ours.

        ``alone`` says that it waits for its own records, so that others of the batch may be fed in its place.
        """
        packed: list[int | bytes] = []
        for offset, history in histories.items():
            packed += [offset, pack_history(history)]
        return await self._give_back(claim.batch_id, claim.shard, claim.token, delay, alone and delay > 0, packed)

    async def give_up(self, batch_id: str, shard: int, token: str) -> None:
        """Give back a shard whose claim replicas did not acknowledge in time: nothing of it was sent."""
        await self._give_back(batch_id, shard, token, 0.0, False, [])

    async def _give_back(
        self, batch_id: str, shard: int, token: str, delay: float, alone: bool, histories: Sequence[int | bytes]
    ) -> bool:
        keys_of = [keys.of_batch(batch_id, part) for part in ("shards", "holders", f"tries:{shard}", "parked")]
        return bool(await self._release(keys_of, [shard, token, int(delay * 1000), int(alone), *histories]) == b"ok")

    async def unfinished(self, batch_id: str) -> list[int]:
        """The shards that have pending records."""
        shards: list[bytes] = await self._redis.zrange(keys.of_batch(batch_id, "shards"), 0, -1)  # type: ignore[assignment]
        return [int(raw) for raw in shards]

    async def next_due(self, batch_id: str) -> int | None:
        """One more shard for a worker that has time left, however many are under way.

        Also one whose message is in the queue, behind which others wait: whoever gets the message finds it held.
        """
        answer = await self._choose(batch_id, 1, "here")
        return int(answer[3][0]) if answer else None

    async def feed(self, batch_id: str, window: int) -> Due | None:
        """The shards for which a message must be sent now, so that ``window`` of them are under way."""
        answer = await self._choose(batch_id, window, "")
        if not answer:
            return None
        environment, merchant, upstream, shards = answer
        target = Target(Environment(environment.decode()), merchant.decode(), upstream.decode())
        return Due(batch_id, target, [int(raw) for raw in shards])

    async def _choose(self, batch_id: str, window: int, where: str) -> list[Any]:
        parts = ("meta", "shards", "parked", "holders")
        chosen: list[Any] = await self._feed(
            keys=[keys.of_batch(batch_id, part) for part in parts], args=[window, int(MESSAGE_LIFE * 1000), where]
        )
        return chosen


class Presence:
    """Which worker processes of a target are alive, and whose turn it is to reconcile."""

    def __init__(self, redis: Redis, target: Target) -> None:
        self._redis = redis
        self._workers, self._reconciler = keys.workers(target), keys.reconciler(target)
        self._presence = Script(redis, "presence")

    async def beat(self, name: str) -> int:
        """Say that the process is alive; returns how many are."""
        return int(await self._presence(keys=[self._workers], args=[name, int(_ALIVE * 1000)]))

    async def count(self) -> int:
        """How many worker processes are alive."""
        return int(await self._presence(keys=[self._workers], args=["", 0]))

    async def take_turn(self, name: str, seconds: float) -> bool:
        """Whether the process is the one that does it for the next ``seconds``; two at once would do no harm."""
        return bool(await self._redis.set(self._reconciler, name, nx=True, px=int(seconds * 1000)))
