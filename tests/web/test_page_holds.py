"""The page of holds: page by page, a thousand at once, and nobody is released who is not on hold."""

import html
import re

from tests.web.conftest import Client
from tests.web.reading import PAGE, text_of, words
from worker.domain.holds import Term
from worker.wiring import Store


async def test_all_who_are_on_hold_are_on_one_of_the_pages(ada: Client, web_store: Store) -> None:
    await web_store.holds.add([f"c{number}" for number in range(120)], Term("7/2026"), replace=False)
    found, address = list[str](), "/holds"
    while address:
        text = await text_of(ada, address)
        assert "120 on hold" in words(text)
        found += re.findall(r'name="customer_ids" value="(c\d+)"', text)
        more = re.search(r'href="([^"]+)" rel="next"', text)
        address = html.unescape(more[1]) if more else ""
    assert sorted(found) == sorted(f"c{number}" for number in range(120))


async def test_a_thousand_at_once_are_held_and_no_more(ada: Client, web_store: Store) -> None:
    ids = [f"c{number}" for number in range(1001)]
    said = {"ground": "7/2026"}
    refused = await ada.post("/holds", data=said | {"customer_ids": "\n".join(ids)}, headers=PAGE)
    assert refused.status_code == 422
    assert "At most 1,000 IDs at once" in words(refused.text)
    assert await web_store.holds.all() == []
    held = await ada.post("/holds", data=said | {"customer_ids": "\r\n".join([*ids[1:], ""])}, headers=PAGE)
    assert (held.status_code, held.headers["location"]) == (303, "/holds")
    assert len(await web_store.holds.all()) == 1000


async def test_nobody_is_released_where_somebody_is_not_on_hold(ada: Client, web_store: Store) -> None:
    await web_store.holds.add(["c1"], Term("7/2026"), replace=False)
    for path in ("/holds/release", "/holds/release/confirmed"):
        refused = await ada.post(path, data={"customer_ids": "c1\nc9"}, headers=PAGE)
        assert refused.status_code == 422
        assert "Not on hold" in words(refused.text)
        assert "c9" not in refused.url.query.decode()
    assert len(await web_store.holds.all()) == 1
