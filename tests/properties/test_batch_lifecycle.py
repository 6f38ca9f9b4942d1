"""A batch through everything that may happen to it, in any order, compared with a model (SPEC 4 and 5).

The store is real. Time stands still in it but for leases that are made to end, and delays that are made to be over.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import DELETED, INVALID, TARGET, existing, expire_lease, make_settings, submit, written
from worker.domain.batches import Batch, BatchState, StateReason
from worker.domain.outcomes import Reason
from worker.domain.records import Doubt, History, Result
from worker.pipeline.cancel import settle_cancelled
from worker.store import keys
from worker.store.shards import Claim, NotClaimed, Standing
from worker.wiring import Store, open_store

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

SIZE = 2
GOING_ON = (Standing.RUNNING, Standing.WAITING)
RESULTS = st.sampled_from([DELETED, Result(Reason.NOT_FOUND, attempts=1), Result(Reason.SERVER_ERROR, attempts=5)])
HISTORIES = st.sampled_from(
    [History(1), History(2, Doubt.SERVER_FAILED), History(1, Doubt.UNANSWERED, Reason.UNREADABLE_REPLY)]
)
OFFSETS = st.integers(0, SIZE - 1)
PICK = st.integers(0, 7)
"""Chooses one of several; the last chooses also among those to which nothing should happen any more."""


@dataclass
class Model:
    """What a batch should be: outcomes that are written once, a state, and for each shard who has it and when."""

    id: str
    outcomes: list[Reason | None]
    standing: Standing = Standing.RUNNING
    holders: dict[int, str] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    suspects: dict[int, tuple[int, str]] = field(default_factory=dict)
    due: set[int] = field(default_factory=set)
    parked: set[int] = field(default_factory=set)
    resting: set[int] = field(default_factory=set)
    """Given back for a while; a resume makes them due, but leaves them to the messages."""
    tried: dict[tuple[int, int], History] = field(default_factory=dict)

    @property
    def shards(self) -> list[int]:
        return list(range(-(-len(self.outcomes) // SIZE)))

    @property
    def unfinished(self) -> set[int]:
        return {number // SIZE for number, reason in enumerate(self.outcomes) if reason is None}

    @property
    def goes_on(self) -> bool:
        return self.standing in GOING_ON or (self.standing is Standing.CANCELLED and bool(self.unfinished))

    def pending(self, shard: int) -> list[int]:
        of_shard = self.outcomes[shard * SIZE : (shard + 1) * SIZE]
        return [offset for offset, reason in enumerate(of_shard) if reason is None]

    def holds(self, claim: Claim) -> bool:
        return self.holders.get(claim.shard) == claim.token

    def write(self, shard: int, reasons: Mapping[int, Reason]) -> None:
        for offset in set(reasons) & set(self.pending(shard)):
            self.outcomes[shard * SIZE + offset] = reasons[offset]
        if not self.pending(shard):
            self.let_go(shard)
            self.suspects.pop(shard, None)
            self.due.discard(shard)
        if not self.unfinished and self.standing in GOING_ON:
            self.standing = Standing.COMPLETED

    def take(self, shard: int, token: str) -> None:
        if self.holders.get(shard, token) != token:
            self.deaths[shard] += 1
        self.holders[shard] = token
        self.renew(shard)
        self.parked.discard(shard)
        self.resting.discard(shard)

    def renew(self, shard: int) -> None:
        self.dead.discard(shard)
        self.due.discard(shard)

    def let_go(self, shard: int) -> None:
        self.holders.pop(shard, None)
        self.dead.discard(shard)

    def make_due(self) -> None:
        self.due |= {shard for shard in self.unfinished if shard not in self.holders or shard in self.dead}
        self.parked.clear()

    def cancelled(self, shard: int, offset: int) -> Reason:
        """What a pending record is after a cancel: ``cancelled`` only if no attempt may have been executed."""
        doubt = self.tried.get((shard, offset), History()).doubt
        if doubt & Doubt.UNANSWERED:
            return Reason.UNREADABLE_REPLY
        if self.deaths[shard]:
            return Reason.NO_ANSWER
        return Reason.SERVER_ERROR if doubt else Reason.CANCELLED


async def _done(command: Awaitable[object]) -> None:
    await command


def _one_of(pick: int, likely: Sequence[T], all_of_them: Sequence[T]) -> T:
    chosen = likely if likely and pick < 7 else all_of_them
    return chosen[pick % len(chosen)]


class Lifecycle(RuleBasedStateMachine):
    """Producers, workers, operators and crashes in any order."""

    def __init__(self, run: Run, store: Store) -> None:
        super().__init__()
        self._run, self._store = run, store
        self._models: list[Model] = []
        self._claims: list[tuple[Model, Claim]] = []
        self._tokens = itertools.count()
        run(_done(store.redis.flushall()))

    def _batch(self, pick: int) -> Model:
        unfinished = [model for model in self._models if model.unfinished]
        return _one_of(pick, unfinished, self._models)

    def _held(self, pick: int) -> tuple[Model, Claim]:
        current = [(model, claim) for model, claim in self._claims if model.holds(claim)]
        return _one_of(pick, current, self._claims)

    def _have_claimed(self) -> bool:
        return bool(self._claims)

    # Producers

    @initialize(rows=st.integers(2, 5))
    def submit_one(self, rows: int) -> None:
        self._submit(rows, {})

    @rule(rows=st.integers(1, 5), known=st.integers(0, 4), waits=st.booleans())
    @precondition(lambda self: len(self._models) == 1)
    def submit_another(self, rows: int, known: int, waits: bool) -> None:
        """With an ID that is not valid, perhaps the only one; and perhaps it waits for an approval."""
        self._submit(rows, {known: INVALID} if known < rows else {}, waits)

    def _submit(self, rows: int, known: Mapping[int, Result], waits: bool = False) -> None:
        ids = [f"c{number}" for number in range(rows)]
        accepted = self._run(submit(self._store.batches, ids, SIZE, known, needs_approval=waits))
        model = Model(accepted.batch_id, [Reason.INVALID_ID if number in known else None for number in range(rows)])
        model.due = set(model.unfinished)
        begins = Standing.AWAITING_APPROVAL if waits else Standing.RUNNING
        model.standing = begins if model.unfinished else Standing.COMPLETED
        self._models.append(model)

    # Workers

    @rule(batch=PICK, shard=PICK)
    def claim(self, batch: int, shard: int) -> None:
        model = self._batch(batch)
        self._claim(model, _one_of(shard, sorted(model.unfinished), [0, 1, 2, 3]))

    @rule(held=PICK)
    @precondition(_have_claimed)
    def deliver_again(self, held: int) -> None:
        """By one who held the shard before, and may have lost it meanwhile."""
        model, claim = self._held(held)
        self._claim(model, claim.shard, claim.token)

    def _claim(self, model: Model, shard: int, token: str | None = None) -> Claim | None:
        token = token or f"t{next(self._tokens)}"
        answer = self._run(self._store.shards.claim(model.id, shard, token))
        if model.standing not in (*GOING_ON, Standing.CANCELLED):
            assert answer is NotClaimed.NOT_RUNNING
        elif shard not in model.unfinished:
            assert answer is NotClaimed.DONE
        elif model.holders.get(shard, token) != token and shard not in model.dead:
            assert answer is NotClaimed.HELD
        else:
            model.take(shard, token)
            claim: Claim = answer
            self._assert_tells(model, claim)
            self._claims.append((model, claim))
            return claim
        return None

    def _assert_tells(self, model: Model, claim: Claim) -> None:
        pending = model.pending(claim.shard)
        assert (claim.standing, claim.deaths) == (model.standing, min(model.deaths[claim.shard], 9))
        assert claim.finished == set(range(len(claim.ids))) - set(pending)
        assert claim.suspect == model.suspects.get(claim.shard, (None, ""))[0]
        for offset in pending:
            assert claim.histories.get(offset) == model.tried.get((claim.shard, offset))

    @rule(held=PICK, results=st.dictionaries(OFFSETS, RESULTS, min_size=1))
    @precondition(_have_claimed)
    def work(self, held: int, results: dict[int, Result]) -> None:
        """Write outcomes; a stale holder's come too late."""
        model, claim = self._held(held)
        known = {offset: result for offset, result in results.items() if offset < len(claim.ids)}
        recorded = self._run(self._store.shards.record(claim, written(claim, known), time.time()))
        holds = model.holds(claim)
        assert recorded.ours is (holds or claim.shard not in model.unfinished)
        if holds:
            model.renew(claim.shard)
            model.write(claim.shard, {offset: result.reason for offset, result in known.items()})
        assert recorded.standing is model.standing

    @rule(held=PICK, offset=OFFSETS)
    @precondition(_have_claimed)
    def suspect(self, held: int, offset: int) -> None:
        model, claim = self._held(held)
        if offset >= len(claim.ids):
            return
        assert self._run(self._store.shards.suspect(claim, offset)) is model.holds(claim)
        if model.holds(claim):
            model.suspects[claim.shard] = (offset, claim.token)

    @rule(held=PICK, tried=st.dictionaries(OFFSETS, HISTORIES, min_size=1), delay=st.sampled_from([0.0, 3600.0]))
    @precondition(_have_claimed)
    def release(self, held: int, tried: dict[int, History], delay: float) -> None:
        model, claim = self._held(held)
        holds = model.holds(claim)
        assert self._run(self._store.shards.release(claim, tried, delay)) is holds
        if not holds:
            return
        model.let_go(claim.shard)
        if model.suspects.get(claim.shard, (0, ""))[1] == claim.token:
            del model.suspects[claim.shard]
        model.tried |= {(claim.shard, offset): history for offset, history in tried.items()}
        if delay:
            model.parked.add(claim.shard)
            model.resting.add(claim.shard)
            model.due.discard(claim.shard)
        else:
            model.due.add(claim.shard)

    @rule(held=PICK)
    @precondition(_have_claimed)
    def crash(self, held: int) -> None:
        """Its lease ends; should it only have stalled, it may still write."""
        model, claim = self._held(held)
        if model.holds(claim):
            self._run(expire_lease(self._store.redis, model.id, claim.shard))
            model.dead.add(claim.shard)
            model.due.add(claim.shard)

    # Feeding

    @rule(batch=PICK, window=st.sampled_from([1, 3]))
    def feed(self, batch: int, window: int) -> None:
        model = self._batch(batch)
        due = self._run(self._store.shards.feed(model.id, window))
        fed = [] if due is None else due.shards
        room = 1 if model.standing is Standing.WAITING else window
        room -= len(model.unfinished - model.due) - len(model.parked)
        assert set(fed) <= model.due
        assert len(set(fed)) == len(fed) == (max(0, min(room, len(model.due))) if model.goes_on else 0)
        model.due -= set(fed)

    @rule(batch=PICK)
    def go_on_with_one_more(self, batch: int) -> None:
        model = self._batch(batch)
        shard = self._run(self._store.shards.next_due(model.id))
        in_the_queue = model.unfinished - (set(model.holders) - model.dead) - model.resting
        choice = model.due or in_the_queue if model.goes_on else set()
        assert (shard in choice) if choice else (shard is None)
        model.due.discard(shard)

    @rule(batch=PICK)
    def let_time_pass(self, batch: int) -> None:
        """Messages are lost, and delays are over."""
        model = self._batch(batch)
        waiting = model.unfinished - set(model.holders)
        for shard in waiting:
            for part in ("shards", "parked"):
                self._run(_done(self._store.redis.zadd(keys.of_batch(model.id, part), {str(shard): 1}, xx=True)))
        for shard in model.resting:
            self._run(expire_lease(self._store.redis, model.id, shard))
        model.due |= waiting
        model.parked -= waiting
        model.resting.clear()

    # Operators, and the upstream

    def _move(self, model: Model, sources: list[BatchState], to: BatchState, reason: StateReason | None = None) -> bool:
        answers = [self._run(self._store.batches.move(model.id, source, to, reason)) for source in sources]
        return any(moved for moved, _ in answers)

    @rule(batch=PICK, act=st.sampled_from(["approve", "pause", "resume", "open", "close", "resume", "close"]))
    def operate(self, batch: int, act: str) -> None:
        """One rule for all of it, so that there is more work than orders."""
        model = self._batch(batch)
        match act:
            case "approve":
                self._approve(model)
            case "pause":
                self._pause(model)
            case "resume":
                self._resume(model)
            case "open":
                self._run(self._store.batches.circuit_opened(model.id, 5.0))
                if model.standing is Standing.RUNNING:
                    model.standing = Standing.WAITING
            case "close":
                self._run(self._store.batches.circuit_closed(model.id))
                if model.standing is Standing.WAITING:
                    model.standing = Standing.RUNNING
                    model.make_due()

    def _approve(self, model: Model) -> None:
        moved = self._move(model, [BatchState.AWAITING_APPROVAL], BatchState.RUNNING)
        assert moved is (model.standing is Standing.AWAITING_APPROVAL)
        if moved:
            model.standing = Standing.RUNNING

    def _pause(self, model: Model) -> None:
        moved = self._move(model, [BatchState.RUNNING], BatchState.PAUSED, StateReason.OPERATOR)
        assert moved is (model.standing in GOING_ON)
        if moved:
            model.standing = Standing.PAUSED

    def _resume(self, model: Model) -> None:
        moved = self._move(model, [BatchState.PAUSED], BatchState.RUNNING)
        assert moved is (model.standing in (Standing.PAUSED, Standing.WAITING))
        if moved:
            model.standing = Standing.RUNNING if model.unfinished else Standing.COMPLETED
            model.make_due()

    @rule(batch=PICK)
    @precondition(lambda self: len(self._claims) > 2)
    def cancel(self, batch: int) -> None:
        """Not too soon, since little happens afterwards."""
        model = self._batch(batch)
        sources = [BatchState.RUNNING, BatchState.PAUSED, BatchState.AWAITING_APPROVAL]
        moved = self._move(model, sources, BatchState.CANCELLED)
        assert moved is (model.standing in (*GOING_ON, Standing.PAUSED, Standing.AWAITING_APPROVAL))
        if moved:
            model.standing = Standing.CANCELLED
            model.make_due()

    @rule(shard=PICK)
    @precondition(lambda self: self._being_cancelled())
    def settle(self, shard: int) -> None:
        """Whoever gets a shard of a cancelled batch gives its pending records their outcome."""
        model = self._being_cancelled()[0]
        claim = self._claim(model, _one_of(shard, [], sorted(model.unfinished)))
        if claim is not None:
            self._run(settle_cancelled(self._store.shards, claim))
            pending = model.pending(claim.shard)
            model.write(claim.shard, {offset: model.cancelled(claim.shard, offset) for offset in pending})

    def _being_cancelled(self) -> list[Model]:
        return [model for model in self._models if model.standing is Standing.CANCELLED and model.unfinished]

    # What always holds

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        active, found = self._run(self._read())
        assert active == sorted(model.id for model in self._models if model.goes_on)
        for model, batch, reasons, shards, holders in found:
            _assert_accounted(model, batch, reasons)
            _assert_state(model, batch)
            _assert_due(model, shards)
            _assert_held(model, holders)

    async def _read(self) -> Any:
        found = []
        for model in self._models:
            batch = await existing(self._store.batches, model.id)
            pages = self._store.batches.pages(batch)
            reasons = [line.result and line.result.reason async for page in pages for line in page]
            shards = await self._store.redis.zrange(keys.of_batch(model.id, "shards"), 0, -1, withscores=True)
            holders = await self._store.redis.hgetall(keys.of_batch(model.id, "holders"))
            found.append((model, batch, reasons, shards, holders))
        return list(await self._store.batches.active(TARGET)), found


def _assert_accounted(model: Model, batch: Batch, reasons: list[Reason | None]) -> None:
    """Outcomes are written once, and the tally is theirs."""
    assert reasons == model.outcomes
    assert batch.tally.reasons == Counter(filter(None, model.outcomes))
    assert batch.tally.pending == model.outcomes.count(None)


def _assert_state(model: Model, batch: Batch) -> None:
    """It ends exactly when nothing is pending, unless an operator paused it."""
    waits = model.standing is Standing.WAITING
    assert batch.state.value == ("paused" if waits else model.standing.value)
    assert (batch.state_reason is StateReason.CIRCUIT_OPEN) is waits
    assert (batch.probe_at is not None) is waits
    assert (batch.ended_at is not None) is (not model.unfinished and model.standing is not Standing.PAUSED)
    assert batch.goes_on is model.goes_on


def _assert_due(model: Model, shards: Sequence[tuple[bytes, float]]) -> None:
    """Every unfinished shard comes up again, and no other."""
    now = time.time() * 1000
    assert {int(shard) for shard, _ in shards} == model.unfinished
    assert {int(shard) for shard, score in shards if score <= now} == model.due


def _assert_held(model: Model, holders: Mapping[bytes, bytes]) -> None:
    """A shard has one living holder at most."""
    held = {int(shard): value.split() for shard, value in holders.items() if not shard.startswith(b"suspect:")}
    assert {shard: token.decode() for shard, (token, _, _) in held.items() if token != b"-"} == model.holders
    now = time.time() * 1000
    assert {shard for shard in model.holders if float(held[shard][1]) < now} == model.dead


def test_a_batch_stays_accounted_for_whatever_happens_to_it_in_whatever_order(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = open_store(make_settings(redis_url))
        store = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(
                lambda: Lifecycle(runner.run, store),  # type: ignore[arg-type] # it takes a factory too
                settings=settings(max_examples=120, stateful_step_count=50, deadline=None),
            )
        finally:
            runner.run(opened.__aexit__(None, None, None))
