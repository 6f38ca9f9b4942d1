"""``expunge web``: the HTTP API and the pages."""

import asyncio
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.output import say
from worker.settings import Settings, load_settings


def web(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the HTTP API and the pages for the merchant and environment that are set, until SIGTERM."""
    settings = load_settings()
    _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    asyncio.run(_check(settings))
    from worker.web.serving import serve  # noqa: PLC0415 - what is wrong with the settings is said without it

    say(f"serving {session.shown_target(settings.target)} at http://{host}:{port}")
    serve(settings, host, port)


async def _check(settings: Settings) -> None:
    async with session.opened_store(settings) as store:
        await session.warn_of_problems(store, settings)
