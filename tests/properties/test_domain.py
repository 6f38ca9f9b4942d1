"""The small parts of the domain: what is written can be read again, and what is promised holds of any value."""

from hypothesis import assume, given
from hypothesis import strategies as st

from worker.domain.batch_ids import is_batch_id, make_batch_id, pack_batch_id, unpack_batch_id
from worker.domain.batches import Description, Environment, Tally, Target
from worker.domain.customer_ids import Digester, IdRule
from worker.domain.outcomes import GONE, Outcome, Reason
from worker.domain.rates import Rate, Window

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, 2.3

moments = st.floats(0, 4_398_046_511.0)  # seconds; 42 bits of milliseconds, to the year 2109
randomness = st.integers(0, 2**64)
batch_ids = st.builds(make_batch_id, moments, randomness)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True)
merchants = st.from_regex(r"[A-Za-z0-9_-]{0,12}", fullmatch=True)

# --- batch IDs ---


@given(batch_ids)
def test_a_batch_id_packs_into_eight_bytes_and_comes_back(batch_id: str) -> None:
    packed = pack_batch_id(batch_id)
    assert len(packed) == 8
    assert unpack_batch_id(packed) == batch_id


@given(st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_are_a_batch_id(packed: bytes) -> None:
    assert is_batch_id(unpack_batch_id(packed))
    assert pack_batch_id(unpack_batch_id(packed)) == packed


@given(batch_ids)
def test_a_batch_id_is_thirteen_letters_and_digits_that_nobody_mistakes(batch_id: str) -> None:
    assert is_batch_id(batch_id)
    assert len(batch_id) == 13
    assert batch_id.isascii()
    assert batch_id.isalnum()
    assert batch_id == batch_id.lower()
    assert not set("ilou") & set(batch_id)


@given(moments, moments, randomness, randomness)
def test_batch_ids_sort_by_time_as_text_and_packed(first: float, second: float, one: int, other: int) -> None:
    assume(int(first * 1000) < int(second * 1000))
    earlier, later = make_batch_id(first, one), make_batch_id(second, other)
    assert earlier < later
    assert pack_batch_id(earlier) < pack_batch_id(later)


@given(moments, st.integers(0, 2**22 - 1), st.integers(0, 2**22 - 1))
def test_batch_ids_of_one_instant_differ_by_their_randomness(now: float, one: int, other: int) -> None:
    assert (make_batch_id(now, one) == make_batch_id(now, other)) is (one == other)


@given(st.text(max_size=20) | st.text("0123456789abcdefghjkmnpqrstvwxyzILOU", min_size=12, max_size=14))
def test_what_passes_for_a_batch_id_can_be_packed(text: str) -> None:
    if is_batch_id(text):
        assert unpack_batch_id(pack_batch_id(text)) == text


# --- rates ---

windows = st.builds(Window, st.integers(1, 9_999_999), st.sampled_from([1, 60, 3600]))


@given(st.lists(windows, min_size=1, max_size=4))
def test_a_rate_reads_back_as_it_is_written_with_the_fastest_window_first(given_windows: list[Window]) -> None:
    rate = Rate.parse(",".join(map(str, given_windows)))
    assert Rate.parse(str(rate)) == rate
    assert sorted(map(str, rate.windows)) == sorted(map(str, given_windows))
    paces = [window.per_second for window in rate.windows]
    assert paces == sorted(paces, reverse=True)
    assert rate.sustained == min(paces)


@given(st.text(max_size=12) | st.text("0123456789/smh, .-", max_size=12))
def test_a_text_is_a_rate_or_is_refused_with_how_one_is_written(text: str) -> None:
    try:
        rate = Rate.parse(text)
    except ValueError as error:
        assert "50/s" in str(error)  # noqa: PT017 - both ways must be looked at
    else:
        assert rate.windows
        assert all(window.limit > 0 for window in rate.windows)


# --- customer IDs ---


@given(ids)
def test_every_id_of_the_default_pattern_is_accepted(customer_id: str) -> None:
    assert IdRule.of().accepts(customer_id)


@given(st.text(max_size=8) | st.text("./%?#a \r\n\\", max_size=6), st.sampled_from(["(?s).*", ".+", "[^/]*"]))
def test_a_pattern_never_widens_what_is_safe_in_a_path(customer_id: str, pattern: str) -> None:
    if IdRule.of(pattern).accepts(customer_id):
        assert customer_id
        assert set(customer_id) <= UNRESERVED
        assert customer_id not in (".", "..")


@given(ids | st.text("0123456789", min_size=1, max_size=9))
def test_a_pattern_narrows_what_is_accepted_and_must_match_the_whole_id(customer_id: str) -> None:
    assert IdRule.of("c[0-9]+").accepts("c" + customer_id) is customer_id.isdigit()
    assert not IdRule.of("c[0-9]+").accepts("x" + customer_id)


# --- digests ---


def digests(digester: Digester, customer_id: str, batch_id: str) -> tuple[bytes, str, str]:
    return (
        digester.ledger(customer_id),
        digester.log(customer_id),
        digester.idempotency_key(customer_id, batch_id),
    )


@given(ids, batch_ids, merchants, st.binary(min_size=1, max_size=40))
def test_a_digest_is_the_same_each_time_and_of_a_fixed_size(
    customer_id: str, batch_id: str, scope: str, key: bytes
) -> None:
    found = digests(Digester(key, scope), customer_id, batch_id)
    assert found == digests(Digester(key, scope), customer_id, batch_id)
    assert tuple(map(len, found)) == (12, 8, 32)


@given(st.lists(ids, min_size=2, max_size=2, unique=True), batch_ids)
def test_a_digester_keeps_nothing_of_one_id_for_the_next(pair: list[str], batch_id: str) -> None:
    one = Digester(b"key", "scope")
    assert [digests(one, each, batch_id) for each in pair] == [
        digests(Digester(b"key", "scope"), each, batch_id) for each in pair
    ]
    assert one.ledger(pair[0]) != one.ledger(pair[1])


@given(ids, batch_ids, st.lists(merchants, min_size=2, max_size=2, unique=True))
def test_digests_of_one_id_differ_by_scope(customer_id: str, batch_id: str, scopes: list[str]) -> None:
    one, other = (digests(Digester(b"key", scope), customer_id, batch_id) for scope in scopes)
    assert one[0] != other[0]
    assert one[2] != other[2]


@given(ids, batch_ids, st.binary(min_size=1, max_size=32), st.binary(min_size=1, max_size=32))
def test_digests_of_one_id_differ_by_key(customer_id: str, batch_id: str, key: bytes, another: bytes) -> None:
    assume(key.rstrip(b"\0") != another.rstrip(b"\0"))  # HMAC pads a key with zeros
    one, other = (digests(Digester(each, "scope"), customer_id, batch_id) for each in (key, another))
    assert one[0] != other[0]
    assert one[2] != other[2]


@given(merchants, merchants, ids)
def test_a_scope_and_an_id_do_not_run_together(scope: str, more: str, customer_id: str) -> None:
    """Merchant ``m`` with ID ``1x`` is not merchant ``m1`` with ID ``x``."""
    assume(more)
    joined, apart = Digester(b"key", scope + more), Digester(b"key", scope)
    assert joined.ledger(customer_id) != apart.ledger(more + customer_id)


@given(ids, st.lists(batch_ids, min_size=2, max_size=2, unique=True))
def test_the_idempotency_key_of_an_id_is_another_in_every_batch(customer_id: str, batches: list[str]) -> None:
    digester = Digester(b"key", "scope")
    one, other = (digester.idempotency_key(customer_id, batch_id) for batch_id in batches)
    assert one != other


@given(st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True), batch_ids)
def test_a_digest_never_contains_the_id(customer_id: str, batch_id: str) -> None:
    ledger, log, key = digests(Digester(b"key", "scope"), customer_id, batch_id)
    assert customer_id.encode() not in ledger
    assert customer_id not in log
    assert customer_id not in key


# --- tallies and shards ---

counts = st.dictionaries(st.sampled_from(Reason), st.integers(0, 10**6))


@given(st.integers(0, 10**6), counts)
def test_a_tally_always_sums_to_the_number_of_records(pending: int, reasons: dict[Reason, int]) -> None:
    tally = Tally(pending, reasons)
    assert tally.total == pending + sum(reasons.values())
    assert sum(tally[outcome] for outcome in Outcome) == tally.total
    assert sum(tally.by_outcome().values()) == tally.total
    assert tally.done == tally.total - tally[Outcome.PENDING]
    assert list(tally.by_outcome()) == [outcome.value for outcome in Outcome]


@given(st.integers(0, 2), counts)
def test_all_are_gone_only_if_every_record_is_deleted_absent_or_a_duplicate(
    pending: int, reasons: dict[Reason, int]
) -> None:
    left = [reason for reason, count in reasons.items() if count and reason is not Reason.DUPLICATE]
    assert Tally(pending, reasons).all_gone is (pending == 0 and {reason.outcome for reason in left} <= GONE)


@given(st.integers(0, 5000), st.integers(1, 500))
def test_shards_hold_every_row_exactly_once_and_in_order(rows: int, size: int) -> None:
    description = Description(Target(Environment.SANDBOX, "m"), "f.csv", "0" * 64, rows, size, "id", ("id",))
    shards = [list(description.rows_of(shard)) for shard in range(description.shards)]
    assert [row for shard in shards for row in shard] == list(range(1, rows + 1))
    assert all(shards)
    assert all(len(shard) == size for shard in shards[:-1])
