"""Work that has no end, done beside other work."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

_CANCELLED = 0.1  # seconds after which what was cancelled should have ended


@asynccontextmanager
async def beside(*duties: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do these until the context ends; then all of them have ended, too."""
    tasks = {asyncio.create_task(duty) for duty in duties}
    try:
        yield
    finally:
        while tasks:  # redis-py swallows a cancellation while it connects
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=_CANCELLED)
