"""Telling others what becomes of batches: signed, in order, at least once, and no customer is in it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from standardwebhooks.webhooks import WebhookVerificationError

from tests.acceptance.servers import free_port
from tests.conftest import TARGET, finish, make_settings, new_batch_id, submit
from tests.receiver import SECOND_SECRET, SECRET, Receiver, Reply, Request
from worker.callbacks import client
from worker.callbacks.client import open_poster
from worker.callbacks.message import Signer
from worker.domain.audit import Deed
from worker.domain.batches import BatchState, StateReason
from worker.domain.callbacks import Callback, Schedule
from worker.domain.errors import Guard
from worker.domain.outcomes import Reason
from worker.domain.people import Act, Role
from worker.domain.records import Result
from worker.pipeline import control
from worker.pipeline.duties import beside
from worker.pipeline.purge import find, purge
from worker.pipeline.telling import EVERY, Teller, begin, caught_up
from worker.pipeline.telling import untold as still_to_tell
from worker.store import keys
from worker.store.callbacks import Callbacks
from worker.wiring import Store

IDS = [f"customer-{number}" for number in range(5)]
REFERENCE = "ticket-4711"
SOURCE = "closed-accounts-of-march.csv"
QUICK = Schedule(delays=(0.02,))
Open = Callable[..., Awaitable[Teller]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
async def teller(store: Store, receiver: Receiver) -> AsyncIterator[Open]:
    """Open what a worker process tells with, several times if asked, for several processes."""
    async with AsyncExitStack() as stack:

        async def start(*others: Callback, schedule: Schedule = QUICK, secrets: Sequence[str] = (SECRET,)) -> Teller:
            poster = await stack.enter_async_context(open_poster(allow_private=True))
            settings = make_settings("", callback_secrets=" ".join(secrets))
            callbacks = [to(receiver), *others]
            await begin(store.callbacks, callbacks)
            signer = Signer(settings.callback_keys)
            return Teller(
                store.callbacks, store.audit, store.batches, TARGET, poster, signer, callbacks, schedule=schedule
            )

        yield start


def to(receiver: Receiver) -> Callback:
    return Callback.parse(receiver.url, allow_private=True)


async def tell(teller: Teller, callback: Callback) -> None:
    """Tell until nothing is left to tell, or it is another's turn."""
    async with asyncio.timeout(20):
        pause = 0.0
        while pause < EVERY:
            await asyncio.sleep(pause)
            pause = await teller.look(callback)


async def take_over(redis: Redis, callback: Callback) -> None:
    """Let whoever had the turn be dead for long."""
    await redis.hset(keys.callback(TARGET, callback.name), "until", 1)


async def made(store: Store, **others: object) -> str:
    given = {"reference": REFERENCE, "source": SOURCE, "submitted_by": "anna"} | others
    return (await submit(store.batches, IDS, **given)).batch_id  # type: ignore[arg-type]


async def paused(store: Store, batch_id: str, reason: StateReason = StateReason.OPERATOR) -> None:
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, reason, actor="cleo")


async def resumed(store: Store, batch_id: str) -> None:
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING, actor="cleo")


async def lived(store: Store) -> str:
    """A batch that went through all states but ``cancelled``."""
    batch_id = await made(store, needs_approval=True)
    await control.approve(store.batches, store.feeder, batch_id, "ben")
    await paused(store, batch_id, StateReason.CREDENTIALS_REFUSED)
    await resumed(store, batch_id)
    await finish(store.shards, batch_id, 2)
    return batch_id


LIFE = [
    ("batch.planned", "submitted", "awaiting_approval", None),
    ("batch.awaiting_approval", "submitted", "awaiting_approval", None),
    ("batch.resumed", "approved", "running", None),
    ("batch.paused", "paused", "paused", "credentials_refused"),
    ("batch.resumed", "resumed", "running", None),
    ("batch.completed", "completed", "completed", None),
]


def shape(requests: Sequence[Request]) -> list[tuple[str, str, str, str | None]]:
    return [
        (request.type, request.data["deed"], request.data["state"], request.data["state_reason"])
        for request in requests
    ]


def ids(requests: Sequence[Request]) -> list[str]:
    return [request.event.get_id() for request in requests]


async def untold(store: Store) -> list[dict[str, str]]:
    return [dict(entry.detail) async for entry in store.audit.entries() if entry.deed is Deed.UNTOLD]


# --- a batch that is purged ---


async def purged(store: Store, batch_id: str) -> None:
    removable = await find(store.batches, store.purging, batch_id)
    assert removable is not None
    await purge(store.purging, removable, "ada")


async def test_what_was_not_told_of_a_purged_batch_is_passed_over_and_the_next_has_its_turn(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    gone = await made(store)
    await tell(it, to(receiver))
    await finish(store.shards, gone, 2)
    receiver.script(503)
    await it.look(to(receiver))  # it is in the middle of not being told
    assert await still_to_tell(store.callbacks, store.audit, [to(receiver)], gone) == [to(receiver).host]
    await purged(store, gone)
    told = len(receiver.requests)
    other = await made(store, reference="another")
    await tell(it, to(receiver))
    assert [request.data["batch"] for request in receiver.requests[told:]] == [other]
    assert await still_to_tell(store.callbacks, store.audit, [to(receiver)], gone) == []
    assert not await store.callbacks.is_behind(to(receiver))
    assert await untold(store) == []


async def test_who_was_told_all_of_a_batch_is_told_nothing_of_its_purge(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    batch_id = await lived(store)
    await tell(it, to(receiver))
    assert await still_to_tell(store.callbacks, store.audit, [to(receiver)], batch_id) == []
    await purged(store, batch_id)
    await tell(it, to(receiver))
    assert shape(receiver.requests) == LIFE


async def test_an_event_that_is_under_way_while_its_batch_is_purged_arrives_once(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    batch_id = await made(store)
    await tell(it, to(receiver))
    await finish(store.shards, batch_id, 2)
    came, may_answer = threading.Event(), threading.Event()

    def slowly(_: Request) -> Reply:
        came.set()
        may_answer.wait(20)
        return Reply()

    receiver.reply = slowly
    telling = asyncio.create_task(it.look(to(receiver)))
    assert await asyncio.to_thread(came.wait, 20)
    await purged(store, batch_id)
    may_answer.set()
    await telling
    await tell(it, to(receiver))
    assert [request.type for request in receiver.requests] == ["batch.planned", "batch.completed"]


# --- what is told ---


async def test_a_batchs_life_is_told_in_order_as_signed_cloudevents(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    began = time.time()
    batch_id = await lived(store)
    await tell(it, to(receiver))
    assert shape(receiver.requests) == LIFE
    assert len(set(ids(receiver.requests))) == len(LIFE)
    for request in receiver.requests:
        event = request.event
        assert request.verified() is not None
        assert (event.get_source(), event.get_subject()) == ("/expunge/sandbox/m1", batch_id)
        assert request.headers["webhook-id"] == event.get_id()
        assert (request.data["batch"], request.data["rows"]) == (batch_id, 5)
        assert (request.data["environment"], request.data["merchant"]) == ("sandbox", "m1")
        happened = event.get_time()
        assert happened is not None
        assert began - 1 <= happened.timestamp() <= time.time() + 1
    assert receiver.requests[-1].data["tally"]["deleted"] == 5
    assert receiver.requests[-1].path == "/told?key=in-the-query"


async def test_a_cancelled_batch_is_told(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    batch_id = await made(store)
    await control.cancel(store.batches, store.shards, batch_id, lambda _: None, "anna")
    await tell(it, to(receiver))
    assert [request.type for request in receiver.requests] == ["batch.planned", "batch.cancelled"]
    assert receiver.requests[-1].data["tally"]["skipped"] == 5


async def test_no_customer_file_reference_or_person_is_in_what_is_told(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    await lived(store)
    await made(store, known={0: Result(Reason.INVALID_ID)}, reference="ticket-4712")
    await tell(it, to(receiver))
    assert len(receiver.requests) == len(LIFE) + 1
    everything = b"".join(repr(request.headers).encode() + request.body for request in receiver.requests)
    for private in (*IDS, SOURCE, "ticket", "customer_id", "anna", "ben", "cleo"):
        assert private.encode() not in everything
    sha256s = [entry.detail["sha256"] async for entry in store.audit.entries() if "sha256" in entry.detail]
    assert sha256s
    assert not any(sha256.encode() in everything for sha256 in sha256s)


async def test_what_is_no_batchs_news_is_not_told(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    await store.tokens.add("expunge_00000000_" + "x" * 43, "ada", Role.ADMIN, None)
    await made(store)
    await tell(it, to(receiver))
    assert [request.type for request in receiver.requests] == ["batch.planned"]


async def test_only_batches_of_the_own_target_are_told(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    await made(store, target=replace(TARGET, merchant="m2"))
    await made(store, target=replace(TARGET, upstream="0" * 12))
    own = await made(store, reference="another")
    await tell(it, to(receiver))
    assert [request.data["batch"] for request in receiver.requests] == [own]
    assert not await store.callbacks.is_behind(to(receiver))


async def test_however_much_others_do_it_is_passed_over_at_once(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    for _ in range(250):
        await store.audit.refused(Guard.ROLE, Act.CANCEL, TARGET, actor="anna", claimed=None, batch_id=None)
    await made(store)
    pauses = [await it.look(to(receiver)) for _ in range(4)]
    assert pauses == [0.0, 0.0, 0.0, EVERY]
    assert [request.type for request in receiver.requests] == ["batch.planned"]


async def test_a_new_address_is_not_told_what_was_before(store: Store, receiver: Receiver, teller: Open) -> None:
    batch_id = await made(store)
    it = await teller()
    await paused(store, batch_id)
    await tell(it, to(receiver))
    assert [request.type for request in receiver.requests] == ["batch.paused"]


async def test_a_batch_that_has_expired_holds_up_nobody(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    gone = await made(store, needs_approval=True)
    receiver.script(204, 500)
    await it.look(to(receiver))
    await it.look(to(receiver))
    await store.redis.delete(keys.of_batch(gone, "meta"))
    await made(store, needs_approval=True, reference="another")
    await tell(it, to(receiver))
    assert [request.type for request in receiver.taken] == [
        "batch.planned",
        "batch.planned",
        "batch.awaiting_approval",
    ]


# --- signatures ---


async def test_two_secrets_sign_at_once_so_that_one_can_be_changed(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller(secrets=(SECOND_SECRET, SECRET))
    await made(store)
    await tell(it, to(receiver))
    (request,) = receiver.requests
    assert request.verified(SECRET) == request.verified(SECOND_SECRET)
    assert len(request.headers["webhook-signature"].split(" ")) == 2


async def test_a_secret_that_was_taken_out_signs_no_more(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller(secrets=(SECOND_SECRET,))
    await made(store)
    await tell(it, to(receiver))
    (request,) = receiver.requests
    request.verified(SECOND_SECRET)
    with pytest.raises(WebhookVerificationError):
        request.verified(SECRET)


async def test_each_try_is_signed_anew_so_that_a_late_one_is_not_too_old(
    store: Store, receiver: Receiver, teller: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await teller()
    await made(store)
    receiver.script(500)
    with monkeypatch.context() as patch:
        patch.setattr("worker.pipeline.telling.time.time", lambda: 1_000_000.0)
        await it.look(to(receiver))
    await tell(it, to(receiver))
    late, well = receiver.requests
    assert late.headers["webhook-timestamp"] == "1000000"
    with pytest.raises(WebhookVerificationError):
        late.verified()
    well.verified()


# --- what is not taken ---


@pytest.mark.parametrize("reply", [500, 503, 404, 429, 400, 301, Reply(hang=True)], ids=str)
async def test_what_is_not_taken_is_told_again_by_the_same_id_and_before_all_that_follows(
    store: Store, receiver: Receiver, teller: Open, monkeypatch: pytest.MonkeyPatch, reply: Reply | int
) -> None:
    if isinstance(reply, Reply):  # only where nothing comes is there something to wait for in vain
        monkeypatch.setattr(client, "TIMEOUT", 1.0)
    it = await teller()
    batch_id = await lived(store)
    receiver.script(204, 204, reply, reply, 204, reply)
    await tell(it, to(receiver))
    assert shape(receiver.taken) == LIFE
    assert [request.type for request in receiver.requests[2:5]] == ["batch.resumed"] * 3
    assert len(set(ids(receiver.requests[2:5]))) == 1
    assert len(receiver.requests) == len(LIFE) + 3
    assert {request.data["batch"] for request in receiver.requests} == {batch_id}
    assert await untold(store) == []


async def test_an_address_where_nobody_listens_is_tried_until_somebody_does(store: Store, teller: Open) -> None:
    there = Receiver()
    there.port = free_port()
    it = await teller(to(there))
    await lived(store)
    for _ in range(3):
        await asyncio.sleep(await it.look(to(there)))
    standing = await store.callbacks.standing(to(there))
    assert standing is not None
    assert standing.failures >= 1
    assert standing.problem == "refuses connections"
    with there:
        await tell(it, to(there))
    assert shape(there.requests) == LIFE


async def test_a_receiver_that_asks_for_time_gets_it(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    await made(store)
    receiver.script(Reply(503, {"Retry-After": "1800"}))
    await it.look(to(receiver))
    standing = await store.callbacks.standing(to(receiver))
    assert standing is not None
    assert standing.since is not None
    assert 1790 <= standing.next_at - standing.since <= 1800
    assert await it.look(to(receiver)) == pytest.approx(5.0)
    assert len(receiver.requests) == 1


async def test_an_event_is_given_up_in_the_end_noted_and_the_next_is_told(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller(schedule=Schedule(delays=(0.02,), give_up=0.3))
    batch_id = await made(store, needs_approval=True)
    receiver.reply = lambda request: Reply(500 if request.type == "batch.planned" else 204)
    await tell(it, to(receiver))
    assert [request.type for request in receiver.taken] == ["batch.awaiting_approval"]
    assert len(receiver.requests) >= 3
    port = receiver.port
    assert await untold(store) == [{"event": "batch.planned", "host": f"127.0.0.1:{port}", "why": "given_up"}]
    assert [entry.batch_id async for entry in store.audit.entries() if entry.deed is Deed.UNTOLD] == [batch_id]
    await tell(it, to(receiver))
    assert len(receiver.taken) == 1


async def test_after_days_away_what_is_too_old_is_given_up_and_what_is_not_is_told(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller(schedule=Schedule(delays=(0.02,), give_up=1.5))
    batch_id = await made(store)
    await paused(store, batch_id)
    receiver.reply = lambda _: Reply(500)
    while len(await untold(store)) < 2:
        pause = await it.look(to(receiver))
        await asyncio.sleep(min(pause, 0.1))
    await resumed(store, batch_id)
    for _ in range(5):
        await asyncio.sleep(min(await it.look(to(receiver)), 0.1))
    receiver.reply = lambda _: Reply()
    await tell(it, to(receiver))
    assert [entry["event"] for entry in await untold(store)] == ["batch.planned", "batch.paused"]
    assert [request.type for request in receiver.taken] == ["batch.resumed"]


async def test_what_waited_while_no_worker_ran_is_not_given_up_at_its_first_try(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller(schedule=Schedule(delays=(0.02,), give_up=0.5))
    await made(store)
    await asyncio.sleep(0.6)
    receiver.script(500, 500)
    await tell(it, to(receiver))
    assert [request.type for request in receiver.taken] == ["batch.planned"]


async def test_a_receiver_that_wants_no_more_is_left_alone_until_a_worker_is_started_again(
    store: Store, receiver: Receiver, teller: Open
) -> None:
    it = await teller()
    batch_id = await made(store)
    receiver.script(410)
    await tell(it, to(receiver))
    await paused(store, batch_id)
    await tell(it, to(receiver))
    assert [request.reply.status for request in receiver.requests] == [410]
    assert [entry["why"] for entry in await untold(store)] == ["gone"]
    restarted = await teller()
    assert await restarted.look(to(receiver), again=True) == 5.0
    await tell(it, to(receiver))
    assert [request.type for request in receiver.taken] == ["batch.planned", "batch.paused"]


async def test_a_redirect_is_not_followed(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller(schedule=Schedule(delays=(600.0,)))
    await made(store)
    with Receiver() as elsewhere:
        receiver.script(Reply(307, {"Location": elsewhere.url}))
        await tell(it, to(receiver))
        assert elsewhere.requests == []
    standing = await store.callbacks.standing(to(receiver))
    assert standing is not None
    assert standing.problem == "answered 307, a redirect, which is not followed"


async def test_the_body_of_an_answer_is_not_waited_for(store: Store, receiver: Receiver, teller: Open) -> None:
    it = await teller()
    await made(store)
    receiver.script(Reply(200, endless=True))
    await tell(it, to(receiver))
    assert [request.reply for request in receiver.requests] == [Reply(200, endless=True)]
    assert not await store.callbacks.is_behind(to(receiver))


# --- several addresses, several processes ---


async def test_an_address_that_hangs_holds_up_no_other(store: Store, receiver: Receiver, teller: Open) -> None:
    with Receiver(lambda _: Reply(hang=True)) as slow:
        it = await teller(to(slow))
        async with beside(it.tell_forever()):
            await lived(store)
            await asyncio.to_thread(receiver.wait_for, lambda one: len(one.taken) == len(LIFE))
            assert len(slow.requests) == 1
    assert shape(receiver.requests) == LIFE


async def test_one_process_at_a_time_tells_an_address(store: Store, receiver: Receiver, teller: Open) -> None:
    first, second = await teller(), await teller()
    await lived(store)
    await first.look(to(receiver))
    await tell(second, to(receiver))
    assert len(receiver.requests) == 1
    await tell(first, to(receiver))
    assert shape(receiver.requests) == LIFE


async def test_another_process_goes_on_where_one_died(store: Store, receiver: Receiver, teller: Open) -> None:
    first, second = await teller(), await teller()
    await lived(store)
    receiver.script(204, 500)
    await first.look(to(receiver))
    await first.look(to(receiver))
    await take_over(store.redis, to(receiver))
    await tell(second, to(receiver))
    assert shape(receiver.taken) == LIFE
    assert len(receiver.requests) == len(LIFE) + 1


async def test_how_often_it_was_tried_survives_a_restart(store: Store, receiver: Receiver, teller: Open) -> None:
    schedule = Schedule(delays=(0.0, 600.0))
    first = await teller(schedule=schedule)
    await made(store)
    receiver.script(500, 500)
    await tell(first, to(receiver))
    before = await store.callbacks.standing(to(receiver))
    await take_over(store.redis, to(receiver))
    await tell(await teller(schedule=schedule), to(receiver))
    assert before is not None
    assert before.failures == 2
    assert await store.callbacks.standing(to(receiver)) == before
    assert len(receiver.requests) == 2


async def test_who_lost_the_turn_does_not_move_what_another_keeps(store: Store, receiver: Receiver) -> None:
    callback = to(receiver)
    old = await store.callbacks.turn(callback, "old")
    assert old is not None
    await take_over(store.redis, callback)
    assert await store.callbacks.turn(callback, "new") is not None
    assert not await store.callbacks.keep(callback, "old", replace(old.standing, position="9-9"), ("b", {"why": "x"}))
    assert await store.callbacks.standing(callback) == old.standing
    assert await untold(store) == []


async def test_a_failing_store_or_receiver_ends_no_telling(
    store: Store, receiver: Receiver, teller: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await teller()
    await made(store)
    monkeypatch.setattr("worker.pipeline.telling._OTHERS", 0.05)
    whole = store.audit.since
    failed: list[str] = []

    async def broken(position: str, count: int) -> object:
        if len(failed) < 3:
            failed.append(position)
            raise RuntimeError("unforeseen")
        return await whole(position, count)

    monkeypatch.setattr(store.audit, "since", broken)
    async with beside(it.tell_forever()):
        await asyncio.to_thread(receiver.wait_for, lambda one: bool(one.taken))
    assert len(failed) == 3


async def test_while_redis_is_full_each_event_is_told_once_and_what_is_not_taken_less_and_less_often(
    store: Store, receiver: Receiver, teller: Open, redis: Redis
) -> None:
    """Redis may be full for hours; that is no reason to ask a receiver again and again."""
    it = await teller(schedule=Schedule(delays=(600.0,)))
    await lived(store)
    receiver.script(204, 500)
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            await redis.set("key", "value")
        pauses = [await it.look(to(receiver)) for _ in range(10)]
    finally:
        await redis.config_set("maxmemory", "0")
    assert shape(receiver.requests) == LIFE[:2]
    assert pauses[:2] == [0.0, 0.0]
    assert min(pauses[2:]) > 0.0


async def test_the_end_of_telling_can_be_waited_for(store: Store, receiver: Receiver, teller: Open) -> None:
    it, here = await teller(), [to(receiver)]
    await made(store)
    assert await caught_up(store.callbacks, here, 0.2, lambda: True) == here
    telling = asyncio.create_task(tell(it, here[0]))
    assert await caught_up(store.callbacks, here, 20, lambda: True) == []
    await telling


async def test_what_is_kept_of_an_address_is_not_its_url_and_expires(
    store: Store, receiver: Receiver, teller: Open, redis: Redis
) -> None:
    it = await teller()
    await made(store)
    receiver.script(500)
    await tell(it, to(receiver))
    name = keys.callback(TARGET, to(receiver).name)
    raw = repr(await redis.hgetall(name)) + name
    assert "told" not in raw
    assert "in-the-query" not in raw
    assert 0 < await redis.ttl(name) <= 90 * 86_400


def test_a_callback_shows_its_host_alone(receiver: Receiver) -> None:
    assert "in-the-query" not in repr(to(receiver))
    settings = make_settings(
        "", callback_urls=(SecretStr(receiver.url),), callback_secrets=SECRET, callback_allow_private=True
    )
    assert "in-the-query" not in repr(settings)
    assert SECRET not in repr(settings)


async def test_batches_of_two_targets_on_one_redis_each_go_to_their_own_addresses(
    store: Store, receiver: Receiver
) -> None:
    """The same address of two targets stands for each of them."""
    other = Callbacks(store.redis, replace(TARGET, merchant="m2"))
    await store.callbacks.begin(to(receiver))
    assert await other.standing(to(receiver)) is None


def test_ids_have_no_full_stop_which_would_part_what_is_signed() -> None:
    assert "." not in new_batch_id()
