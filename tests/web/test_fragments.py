"""What many look at is made once a second (worker/web/pages/fragments.py)."""

import pytest

from tests.conftest import submit
from tests.web.conftest import Client
from tests.web.reading import PAGE
from worker.store.shards import Presence
from worker.web.pages import fragments
from worker.web.pages.fragments import Fragments
from worker.wiring import Store


async def test_whoever_looks_within_a_second_sees_what_was_made_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = 100.0, 0

    async def render() -> str:
        nonlocal made
        made += 1
        return str(made)

    monkeypatch.setattr("time.monotonic", lambda: now)
    parts = Fragments()
    assert [await parts.of("a", render), await parts.of("a", render), await parts.of("b", render)] == ["1", "1", "2"]
    now += 0.99
    assert await parts.of("a", render) == "1"
    now += 0.02
    assert await parts.of("a", render) == "3"


async def test_no_more_are_kept_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "_MOST", 2)
    parts, made = Fragments(), list[str]()

    async def ask(key: str) -> None:
        async def render() -> str:
            made.append(key)
            return key

        assert await parts.of(key, render) == key

    for key in ("a", "b", "a", "c", "a", "b"):
        await ask(key)
    assert made == ["a", "b", "c", "b"], "the one that was not looked at for the longest time goes"


async def test_of_fifty_who_follow_a_batch_few_cost_more_than_a_look_at_it(
    ada: Client, web_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "_FRESH", 60.0)
    batch, counted = (await submit(web_store.batches, ["c1"])).batch_id, 0
    count = Presence.count

    async def counting(self: Presence) -> int:
        nonlocal counted
        counted += 1
        return await count(self)

    monkeypatch.setattr(Presence, "count", counting)
    seen = {(await ada.get(f"/batches/{batch}/live?seen=running", headers=PAGE)).text for _ in range(50)}
    assert (counted, len(seen)) == (1, 1)
