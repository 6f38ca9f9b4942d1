"""How IDs, results and histories lie in Redis: nothing is lost on the way, and it is as small as promised."""

import secrets
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.outcomes import Reason
from worker.domain.records import Doubt, History, Result
from worker.store.packing import pack_history, pack_ids, pack_result, unpack_history, unpack_ids, unpack_result
from worker.upstream.reply import MAX_NAME_LENGTH, MAX_NAMES, MAX_REQUEST_ID_LENGTH, Reply
from worker.upstream.verdict import Settled, judge

FINISHED_AT = 1_735_527_527.0

names = st.text(st.characters(exclude_categories=["C"], exclude_characters=";"), min_size=1, max_size=MAX_NAME_LENGTH)
hex_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
request_ids = (
    hex_ids
    | hex_ids.map(str.upper)
    | st.text("0123456789abcdefg-", min_size=31, max_size=33)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_REQUEST_ID_LENGTH)
)
results = st.builds(
    Result,
    reason=st.sampled_from(Reason),
    http_status=st.none() | st.integers(1, 999),
    attempts=st.integers(0, 255),
    request_id=st.none() | request_ids,
    missing_field=st.lists(names, max_size=MAX_NAMES).map(tuple),
    is_wallet_ready=st.none() | st.booleans(),
    first_row=st.none() | st.integers(1, 2**32 - 1),
    note=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    finished_at=st.integers(0, 2**32 - 1).map(float),
)


def stored(result: Result) -> bytes:
    """As record.lua keeps it: the clock's seconds, then what was packed."""
    return struct.pack(">I", int(result.finished_at or 0)) + pack_result(result)


@given(results)
def test_a_result_comes_back_from_the_store_as_it_was(result: Result) -> None:
    assert unpack_result(stored(result)) == result


@pytest.mark.parametrize("reason", Reason)
def test_a_result_of_every_reason_comes_back(reason: Reason) -> None:
    result = Result(reason, finished_at=FINISHED_AT)
    assert unpack_result(stored(result)) == result


@given(st.integers(255, 10**9))
def test_attempts_beyond_a_byte_read_as_the_most_it_holds(attempts: int) -> None:
    assert unpack_result(stored(Result(Reason.CONFIRMED, attempts=attempts))).attempts == 255
    assert unpack_history(pack_history(History(attempts))).attempts == 255


@given(hex_ids)
def test_a_confirmed_result_takes_21_bytes(request_id: str) -> None:
    """A million records in 120 MB (SPEC 10) leave no room for more."""
    result = Result(Reason.CONFIRMED, 200, 1, request_id, is_wallet_ready=False)
    assert len(pack_result(result)) == 21


def test_the_longest_that_a_reply_can_leave_behind_can_be_stored() -> None:
    names_in_bytes = "\U00010348".encode()  # four bytes a letter
    body = b'{"status":true,"missing_field":[%s],"request_id":"%s"}' % (
        b",".join(b'"%s"' % (names_in_bytes * 200) for _ in range(200)),
        b"x" * 500,
    )
    verdict = judge(Reply(200, body), "c1", 0.0)
    assert isinstance(verdict, Settled)
    facts = verdict.facts
    assert len(facts.missing_field) == MAX_NAMES
    result = Result(verdict.reason, 200, 1, facts.request_id, facts.missing_field, finished_at=FINISHED_AT)
    assert unpack_result(stored(result)) == result


@given(
    st.builds(
        History,
        attempts=st.integers(0, 255),
        doubt=st.integers(0, 7).map(Doubt),
        unanswered=st.sampled_from([None, Reason.NO_ANSWER, Reason.UNREADABLE_REPLY]),
        spared=st.integers(0, 255),
    )
)
def test_a_history_comes_back_from_the_store_as_it_was_in_four_bytes(history: History) -> None:
    history = replace(history, spared=min(history.spared, history.attempts))
    packed = pack_history(history)
    assert unpack_history(packed) == history
    assert len(packed) == 4


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=60))
def test_ids_come_back_in_order_whatever_their_cells_hold(ids: list[str]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


def test_a_shard_of_random_ids_is_kept_in_about_21_bytes_an_id() -> None:
    ids = [f"customer_{secrets.token_hex(16)}" for _ in range(250)]
    assert len(pack_ids(ids)) < 22 * len(ids)
