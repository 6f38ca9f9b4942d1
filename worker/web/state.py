"""What every request may use, made once when the process starts."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from worker.settings import Settings
from worker.web.limits import Limits
from worker.wiring import Store


@dataclass(frozen=True, slots=True)
class Web:
    """The parts that live as long as the process."""

    settings: Settings
    store: Store
    limits: Limits


def web_of(request: Request) -> Web:
    """The parts, as the lifespan made them."""
    found: Web = request.app.state.web
    return found


def _store(request: Request) -> Store:
    return web_of(request).store


def _settings(request: Request) -> Settings:
    return web_of(request).settings


TheStore = Annotated[Store, Depends(_store)]
TheSettings = Annotated[Settings, Depends(_settings)]
