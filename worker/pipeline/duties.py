"""Work that has no end: done beside other work, and told of when it cannot be done."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.logs import where

log = structlog.get_logger(__name__)


@asynccontextmanager
async def beside(*duties: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do these until the context ends; then all of them have ended, too."""
    tasks = {asyncio.create_task(duty) for duty in duties}
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Trouble:
    """What keeps a duty from being done. An outage may last for hours: of each kind it is told once, and its end once.

    A round of the duty is a ``with`` block, which swallows what is raised: the next round must come, whatever it is.
    """

    def __init__(self, duty: str, **more: str) -> None:
        """What the lines of the log have."""
        self._named = {"duty": duty, **more}
        self._told: set[str] = set()

    def over(self) -> None:
        """It was done. Where processes take turns, only the one whose turn it was can say so."""
        if self._told:
            log.info("goes on", **self._named)
        self._told.clear()

    def met(self, error: Exception) -> None:
        """It was not done because of this."""
        if isinstance(error, RedisError | OperationalError):
            what, tell, words = type(error).__name__, log.warning, "waits for Redis"
        else:
            what, tell, words = where(error), log.error, "failed"
        if what not in self._told:
            tell(words, error=what, **self._named)
        self._told.add(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.met(error)
            return True
        return False
