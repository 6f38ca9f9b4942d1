"""What integration tests of several use cases share: an upstream, and workers of several processes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import make_settings
from worker.outfit import Worker, open_worker
from worker.pipeline.attempts import RetryPolicy
from worker.simulator import Scenario, SimulatorThread

Open = Callable[..., Awaitable[Worker]]
QUICK = RetryPolicy(max_attempts=3, first=0.02)


@pytest.fixture
def upstream() -> Iterator[SimulatorThread]:
    """The payments API, which answers well until it is told otherwise."""
    with SimulatorThread(Scenario()) as simulator:
        yield simulator


@pytest.fixture
async def worker(redis_url: str, upstream: SimulatorThread) -> AsyncIterator[Open]:
    """Open what a worker process has, several times if asked, for several processes."""
    async with AsyncExitStack() as stack:

        async def start(stopping: Callable[[], bool] = lambda: False, **settings: Any) -> Worker:
            given: dict[str, Any] = {"upstream_url": upstream.url, "concurrency": 8, "timeout": 5.0} | settings
            made = await stack.enter_async_context(open_worker(make_settings(redis_url, **given), stopping))
            return replace(made, tools=replace(made.tools, policy=QUICK))

        yield start
