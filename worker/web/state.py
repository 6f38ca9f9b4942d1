"""What every request may use, made once when the process starts."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from worker.intake.cloud_events import CloudEventReader
from worker.pipeline.trail import Trail
from worker.settings import Settings
from worker.web.counting import Metrics
from worker.web.following import Hub
from worker.web.keeping import KeptFiles
from worker.web.limits import Limits
from worker.web.pages.charts import Charts
from worker.web.pages.fragments import Fragments
from worker.web.provider import Provider
from worker.web.signatures import Signatures
from worker.wiring import Store


@dataclass(frozen=True, slots=True)
class Web:
    """The parts that live as long as the process."""

    settings: Settings
    store: Store
    limits: Limits
    trail: Trail
    hub: Hub
    metrics: Metrics
    kept: KeptFiles
    charts: Charts
    fragments: Fragments
    provider: Provider | None
    signatures: Signatures
    reader: CloudEventReader


def web_of(request: Request) -> Web:
    """The parts, as the lifespan made them."""
    found: Web = request.app.state.web
    return found


# Coroutines, since FastAPI would send each request to a thread and back for a function.


async def _web(request: Request) -> Web:
    return web_of(request)


async def _store(request: Request) -> Store:
    return web_of(request).store


async def _settings(request: Request) -> Settings:
    return web_of(request).settings


TheStore = Annotated[Store, Depends(_store)]
TheSettings = Annotated[Settings, Depends(_settings)]
TheWeb = Annotated[Web, Depends(_web)]
