"""``expunge worker``: a Celery worker of this deployment."""

import asyncio
import os
import sys
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.output import say
from worker.settings import Settings, load_settings

Processes = Annotated[
    int, typer.Option("--processes", "-n", min=1, max=64, help="Pool processes; each has 64 in flight.")
]


def worker_command(processes: int) -> list[str]:
    """The command line of a worker; it is named, since this package never imports the tasks.

    ``-P``: a folder of that name where somebody happens to be is not ours.
    """
    return [sys.executable, "-P", "-m", "tasks", str(processes)]


def worker(processes: Processes = 1) -> None:
    """Work on the batches of EXPUNGE_REDIS_URL until SIGTERM. Start as many as you like, on any machine."""
    settings = load_settings()
    _ = settings.upstream_prefix  # refuses at once when no upstream is set
    asyncio.run(_check(settings))
    say(f"working for {session.shown_target(settings.target)}, at most {settings.rate_limit}, processes: {processes}")
    command = worker_command(processes)
    os.execv(command[0], command)  # noqa: S606 - the same interpreter; signals then go to Celery itself


async def _check(settings: Settings) -> None:
    async with session.opened_store(settings) as store:
        await session.warn_of_problems(store, settings)
