"""What Prometheus reads."""

from tests.conftest import submit
from tests.web.conftest import Client
from worker.wiring import Store


async def test_requests_are_counted_by_route_and_nobody_is_named(vera: Client, web_store: Store) -> None:
    batch_id = (await submit(web_store.batches, ["c1"])).batch_id
    for _ in range(3):
        await vera.get(f"/v1/batches/{batch_id}")
    await vera.get("/v1/batches/c1")
    await vera.request("BREW", "/coffee")
    text = (await vera.get("/metrics")).text
    route = 'method="GET",route="/v1/batches/{batch_id}"'
    assert f'expunge_http_requests_total{{{route},status="200"}} 3.0' in text
    assert f'expunge_http_requests_total{{{route},status="404"}} 1.0' in text
    assert f"expunge_http_request_seconds_count{{{route}}} 4.0" in text
    assert 'method="other",route="none",status="404"' in text
    assert "expunge_followers 0.0" in text
    assert not [word for word in (batch_id, "vera", "coffee") if word in text]
