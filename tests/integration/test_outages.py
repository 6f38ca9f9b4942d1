"""While Redis is away each duty of a worker process says so in one line, and in one that it goes on."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.acceptance.servers import RedisServer
from tests.conftest import make_settings
from tests.receiver import SECRET, Receiver
from worker.outfit import open_worker
from worker.pipeline.duties import Trouble, beside
from worker.pipeline.telling import begin
from worker.simulator import SimulatorThread

DUTIES = {"reconciler", "gathering of events", "reader of Celery producers' events", "callback"}
PAUSES = ("reconcile.EVERY", "gather.EVERY", "celery_events.EVERY", "celery_events._PATIENCE", "telling._OTHERS")


async def test_an_outage_of_several_tries_is_one_line_of_each_duty(
    tmp_path: Path, upstream: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PAUSES:
        monkeypatch.setattr(f"worker.pipeline.{name}", 0.02)
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    with Receiver() as receiver:
        settings = make_settings(
            redis.url,
            upstream_url=upstream.url,
            callback_urls=receiver.url,
            callback_secrets=SECRET,
            callback_allow_private=True,
        )
        async with open_worker(settings, lambda: False) as worker:
            await begin(worker.store.callbacks, settings.callbacks)
            tries: Counter[str] = Counter()
            _count(monkeypatch, tries)
            duties = (
                worker.store.feeder.reconcile_forever("here"),
                worker.store.gatherer.close_forever(),
                worker.celery_events.take_forever(),
                worker.teller.tell_forever(),
            )
            with capture_logs() as told:
                async with beside(*duties), asyncio.timeout(60):
                    redis.kill()
                    while set(tries) != DUTIES or min(tries.values()) < 3:  # noqa: ASYNC110 - other tasks fail
                        await asyncio.sleep(0.05)
                    redis.start()
                    while {line["duty"] for line in told if line["event"] == "goes on"} != DUTIES:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                    redis.kill()
    lines = Counter((line["duty"], line["event"], line.get("error", "")) for line in told)
    assert set(lines.values()) == {1}, lines


def _count(monkeypatch: pytest.MonkeyPatch, tries: "Counter[str]") -> None:
    met = Trouble.met

    def counted(self: Trouble, error: Exception) -> None:
        tries[self._named["duty"]] += 1
        met(self, error)

    monkeypatch.setattr(Trouble, "met", counted)
