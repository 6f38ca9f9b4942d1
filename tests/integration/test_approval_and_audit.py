"""What awaits approval is not sent, tokens are kept as digests, the trail has every deed once and no customer."""

import secrets
import time

import pytest

from tests.conftest import TARGET, all_keys, claimed, existing, finish, submit, written
from worker.domain.audit import Deed, Entry
from worker.domain.batches import BatchState, StateReason
from worker.domain.brakes import Brakes, Despite
from worker.domain.errors import Guard, RefusedError, UsageError
from worker.domain.holds import Term
from worker.domain.outcomes import Reason
from worker.domain.people import WORKER, Act, Role, digest_of, make_token
from worker.domain.records import Result
from worker.pipeline import control
from worker.store import keys
from worker.store.shards import NotClaimed
from worker.wiring import Store

IDS = [f"customer_{secrets.token_hex(8)}" for _ in range(5)]


async def waiting(store: Store) -> str:
    accepted = await submit(store.batches, IDS, submitted_by="anna", needs_approval=True)
    return accepted.batch_id


async def trail(store: Store, batch_id: str | None = None) -> list[Entry]:
    return [entry async for entry in store.audit.entries(batch_id)]


async def deeds(store: Store, batch_id: str | None = None) -> list[tuple[str | None, Deed]]:
    return [(entry.actor, entry.deed) for entry in await trail(store, batch_id)]


# Approval


async def test_nothing_of_a_batch_that_awaits_approval_is_given_to_anybody(store: Store) -> None:
    batch_id = await waiting(store)
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.goes_on, batch.tally.pending) == (BatchState.AWAITING_APPROVAL, False, 5)
    assert batch_id not in await store.batches.active(TARGET)
    assert await store.shards.feed(batch_id, 10) is None
    assert await store.shards.next_due(batch_id) is None
    assert await store.shards.claim(batch_id, 0, "t1") is NotClaimed.NOT_RUNNING


async def test_neither_a_resume_nor_the_circuit_lets_it_go(store: Store) -> None:
    batch_id = await waiting(store)
    with pytest.raises(RefusedError, match=r"is awaiting_approval.*approved or cancelled"):
        await control.resume(store.batches, store.feeder, batch_id, "ben")
    await store.batches.circuit_opened(batch_id, 1.0)
    await store.batches.circuit_closed(batch_id)
    assert (await existing(store.batches, batch_id)).state is BatchState.AWAITING_APPROVAL
    assert batch_id not in await store.batches.active(TARGET)


async def test_an_approved_batch_runs_and_says_by_whom(store: Store) -> None:
    batch_id = await waiting(store)
    await control.approve(store.batches, store.feeder, batch_id, "ben")
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.approved_by) == (BatchState.RUNNING, "ben")
    assert batch.approved_at is not None
    assert batch.created_at <= batch.approved_at <= batch.created_at + 60
    assert batch_id in await store.batches.active(TARGET)
    await claimed(store.shards, batch_id)


async def test_an_approval_is_of_the_input_by_its_digest(store: Store) -> None:
    batch_id = await waiting(store)
    await control.approve(store.batches, store.feeder, batch_id, "ben")
    (approval,) = [entry for entry in await trail(store, batch_id) if entry.deed is Deed.APPROVED]
    assert approval.detail == {"sha256": (await existing(store.batches, batch_id)).description.sha256}


async def test_the_same_file_again_needs_another_approval(store: Store) -> None:
    first = await submit(store.batches, IDS, sha256="a" * 64, submitted_by="anna", needs_approval=True)
    await control.approve(store.batches, store.feeder, first.batch_id, "ben")
    second = await submit(store.batches, IDS, sha256="a" * 64, again=True, submitted_by="anna", needs_approval=True)
    assert (await existing(store.batches, second.batch_id)).state is BatchState.AWAITING_APPROVAL


async def test_a_batch_of_which_nothing_is_to_be_sent_completes_without_approval(store: Store) -> None:
    known = dict.fromkeys(range(5), Result(Reason.ON_HOLD))
    batch_id = (await submit(store.batches, IDS, known=known, submitted_by="anna", needs_approval=True)).batch_id
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.approved_by) == (BatchState.COMPLETED, None)
    submitted, completed = await trail(store, batch_id)
    assert (submitted.detail["state"], completed.deed) == ("running", Deed.COMPLETED)


@pytest.mark.parametrize("state", [state for state in BatchState if state is not BatchState.AWAITING_APPROVAL])
async def test_only_what_awaits_approval_can_be_approved(store: Store, state: BatchState) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    await store.redis.hset(keys.of_batch(batch_id, "meta"), "state", state.value)
    with pytest.raises(RefusedError, match=f"is {state.value}") as refusal:
        await control.approve(store.batches, store.feeder, batch_id, "ben")
    assert refusal.value.guard is Guard.STATE
    batch = await store.batches.get(batch_id)
    assert batch is not None
    assert batch.approved_by is None


async def test_a_batch_that_awaits_approval_can_be_cancelled(store: Store) -> None:
    batch_id = await waiting(store)
    await control.cancel(store.batches, store.shards, batch_id, lambda _: None, "anna")
    batch = await existing(store.batches, batch_id)
    assert (batch.state, batch.tally.pending, batch.approved_by) == (BatchState.CANCELLED, 0, None)
    assert await deeds(store, batch_id) == [("anna", Deed.SUBMITTED), ("anna", Deed.CANCELLED)]


# The trail


async def test_the_trail_has_what_was_done_to_a_batch_and_by_whom(store: Store) -> None:
    batch_id = await waiting(store)
    await control.approve(store.batches, store.feeder, batch_id, "ben")
    await control.pause(store.batches, batch_id, "cleo")
    await control.resume(store.batches, store.feeder, batch_id)
    await finish(store.shards, batch_id, 2)
    assert await deeds(store, batch_id) == [
        ("anna", Deed.SUBMITTED),
        ("ben", Deed.APPROVED),
        ("cleo", Deed.PAUSED),
        (None, Deed.RESUMED),
        (WORKER, Deed.COMPLETED),
    ]
    submitted = (await trail(store, batch_id))[0]
    description = (await existing(store.batches, batch_id)).description
    assert submitted.detail == {
        "state": "awaiting_approval",
        "rows": "5",
        "sha256": description.sha256,
        "environment": "sandbox",
        "merchant": "m1",
    }


async def test_what_a_batch_does_by_itself_is_the_workers(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    for _ in range(3):  # each probe that fails moves the time of the next
        await store.batches.circuit_opened(batch_id, 1.0)
    await store.batches.circuit_closed(batch_id)
    await store.batches.circuit_closed(batch_id)
    await store.batches.move(batch_id, BatchState.RUNNING, BatchState.PAUSED, StateReason.CREDENTIALS_REFUSED)
    noted = [(entry.actor, entry.deed, entry.detail.get("reason")) for entry in await trail(store, batch_id)][1:]
    assert noted == [
        (WORKER, Deed.PAUSED, "circuit_open"),
        (WORKER, Deed.RESUMED, None),
        (WORKER, Deed.PAUSED, "credentials_refused"),
    ]


async def test_a_brake_is_noted_as_the_workers_and_who_goes_on_despite_it_with_the_brake(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS, 5, brakes=Brakes(canary=2))).batch_id
    claim = await claimed(store.shards, batch_id)
    refused = dict.fromkeys(range(2), Result(Reason.BAD_REQUEST))
    await store.shards.record(claim, written(claim, refused), time.time())
    await control.resume(store.batches, store.feeder, batch_id, "ben", despite=Despite.CANARY)
    assert [(entry.actor, entry.deed, entry.detail) for entry in await trail(store, batch_id)][1:] == [
        (WORKER, Deed.PAUSED, {"reason": "failure_threshold"}),
        ("ben", Deed.RESUMED, {"despite": "canary"}),
    ]


async def test_who_held_and_released_how_many_is_noted_but_no_customer_and_no_ground(store: Store) -> None:
    for replace in (False, False, True):
        await store.holds.add(IDS[:3], Term(f"litigation {replace}"), replace=replace, actor="anna")
    await store.holds.remove(IDS[:2], "ben")
    assert await store.holds.remove(IDS[:2], "ben") == [0, 1]
    whose = {"environment": "sandbox", "merchant": "m1"}
    assert [(entry.actor, entry.deed, entry.detail) for entry in await trail(store)] == [
        ("anna", Deed.HELD, {"customers": "3"} | whose),
        ("anna", Deed.HELD, {"customers": "3"} | whose),
        ("ben", Deed.RELEASED, {"customers": "2"} | whose),
    ]
    raw = repr(await store.redis.xrange(keys.AUDIT))
    assert not [word for word in [*IDS, "litigation"] if word in raw]


async def test_a_transition_that_was_not_made_is_not_noted(store: Store) -> None:
    batch_id = (await submit(store.batches, IDS)).batch_id
    before = await trail(store)
    await store.batches.move(batch_id, BatchState.PAUSED, BatchState.RUNNING)
    await submit(store.batches, IDS, sha256=(await existing(store.batches, batch_id)).description.sha256)
    assert await trail(store) == before


async def test_the_trail_is_read_of_one_batch_or_whole_in_its_order_however_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.audit._AT_ONCE", 2)
    ids = [(await submit(store.batches, IDS)).batch_id for _ in range(5)]
    assert [entry.batch_id for entry in await trail(store)] == ids
    assert [entry.batch_id for entry in await trail(store, ids[3])] == [ids[3]]
    times = [entry.at for entry in await trail(store)]
    assert times == sorted(times)


async def test_a_refusal_is_noted_with_its_guard(store: Store) -> None:
    await store.audit.refused(Guard.ROLE, Act.CANCEL, TARGET, actor="anna", claimed=None, batch_id=None)
    await store.audit.refused(Guard.IDENTITY, Act.LOOK, TARGET, actor=None, claimed="anna", batch_id=None)
    first, second = await trail(store)
    of = {"environment": "sandbox", "merchant": "m1"}
    assert (first.actor, first.deed, first.detail) == ("anna", Deed.REFUSED, {"act": "cancel", "guard": "role"} | of)
    assert (second.actor, second.batch_id) == (None, None)
    assert second.detail == {"act": "look", "guard": "identity", "claimed": "anna"} | of


async def test_what_is_too_old_goes_with_the_next_entry(store: Store) -> None:
    await store.redis.xadd(keys.AUDIT, {"actor": "", "deed": "paused", "batch": ""}, id="1-1")
    await submit(store.batches, IDS)
    assert [entry.deed for entry in await trail(store)] == [Deed.SUBMITTED]
    assert 0 < await store.redis.ttl(keys.AUDIT) <= 3 * 365 * 86_400


async def test_no_customer_is_in_the_trail(store: Store) -> None:
    batch_id = await waiting(store)
    await control.approve(store.batches, store.feeder, batch_id, "ben")
    await finish(store.shards, batch_id, 2)
    raw = repr(await store.redis.xrange(keys.AUDIT))
    assert batch_id in raw
    assert not [customer for customer in IDS if customer in raw]


# Tokens


def new_token() -> str:
    return make_token(secrets.token_hex(4), secrets.token_urlsafe(32))


async def test_a_token_is_found_by_its_text_until_it_is_revoked(store: Store) -> None:
    admin, text = new_token(), new_token()
    await store.tokens.add(admin, "ada", Role.ADMIN, None)
    await store.tokens.add(text, "anna", Role.SUBMITTER, "ada")
    found = await store.tokens.find(text)
    assert found is not None
    assert (found.name, found.role) == ("anna", Role.SUBMITTER)
    assert [token.name for token in await store.tokens.all()] == ["ada", "anna"]
    await store.tokens.revoke(found.id, "ada")
    assert await store.tokens.find(text) is None
    assert [(entry.actor, entry.deed, entry.detail["name"]) for entry in await trail(store)] == [
        (None, Deed.TOKEN_ADDED, "ada"),
        ("ada", Deed.TOKEN_ADDED, "anna"),
        ("ada", Deed.TOKEN_REVOKED, "anna"),
    ]


async def test_a_token_with_the_id_of_another_is_not_it(store: Store) -> None:
    text = new_token()
    await store.tokens.add(text, "ada", Role.ADMIN, None)
    forged = make_token(text.split("_")[1], secrets.token_urlsafe(32))
    assert await store.tokens.find(forged) is None
    assert await store.tokens.find(new_token()) is None
    assert await store.tokens.find("") is None


async def test_neither_token_nor_what_it_could_be_made_of_rests_in_redis(store: Store) -> None:
    text = new_token()
    await store.tokens.add(text, "ada", Role.ADMIN, None)
    assert set(await all_keys(store.redis)) - {keys.DIGEST_KEY} == {keys.AUDIT, keys.TOKENS, keys.NAMES}
    stored = repr([await store.redis.hgetall(keys.TOKENS), await store.redis.xrange(keys.AUDIT)])
    assert digest_of(text) in stored
    assert text not in stored
    assert text[-43:] not in stored


async def test_only_the_first_token_is_made_by_somebody_without_a_name(store: Store) -> None:
    assert not await store.tokens.exist()
    first = new_token()
    await store.tokens.add(first, "ada", Role.ADMIN, None)
    await store.tokens.add(first, "ada", Role.ADMIN, None)  # redis-py repeats a command that may have run
    with pytest.raises(RefusedError):
        await store.tokens.add(new_token(), "eve", Role.ADMIN, None)
    assert [token.name for token in await store.tokens.all()] == ["ada"]


async def test_the_last_admin_stays(store: Store) -> None:
    admin, other = new_token(), new_token()
    await store.tokens.add(admin, "ada", Role.ADMIN, None)
    await store.tokens.add(other, "anna", Role.APPROVER, "ada")
    with pytest.raises(RefusedError, match="last of an admin"):
        await store.tokens.revoke(admin.split("_")[1], "ada")
    with pytest.raises(UsageError, match="no token"):
        await store.tokens.revoke("12345678", "ada")
    await store.tokens.add(new_token(), "ben", Role.ADMIN, "ada")
    await store.tokens.revoke(admin.split("_")[1], "ada")
    assert await store.tokens.find(admin) is None
