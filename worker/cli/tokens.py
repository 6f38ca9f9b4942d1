"""``expunge token``: who has a name here, and which role."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Annotated

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.errors import Guard, RefusedError, UsageError
from worker.domain.people import Act, Role, Token, id_of, is_name, make_token
from worker.pipeline.admission import FIRST_TOKEN
from worker.reports.columns import rfc3339
from worker.settings import load_settings
from worker.wiring import Store

_NO_NAME = "'{}' must be 1 to 64 of a-z, 0-9, '.', '_', '@', '-', and not 'worker'"


def token() -> None:
    """Make tokens for people, list and revoke them, and end sessions on the pages."""


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: lower-case letters, digits, . _ @ -")],
    role: Annotated[Role, typer.Option("--role", help="What it is for (docs/safety.md).")],
    me: session.As = None,
) -> None:
    """Make a token and print it: it is shown only now. The first one is an admin's."""
    if not is_name(name):
        raise UsageError(_NO_NAME.format(name))
    text = make_token(secrets.token_hex(4), secrets.token_urlsafe(32))

    async def act(store: Store, by: str | None) -> None:
        if by is None and role is not Role.ADMIN:
            raise RefusedError(f"the first token must be an admin's: {FIRST_TOKEN}", Guard.ROLE)
        await store.tokens.add(text, name, role, by)

    _with_store(me, act, start=True)
    typer.echo(text)
    say(f"this is the token of {name}, {role}; it is not shown again. Use: EXPUNGE_TOKEN=... expunge ... --as {name}")


def list_(me: session.As = None, json: session.Json = False) -> None:
    """List the tokens: their IDs, names and roles."""
    listed: list[Token] = []

    async def act(store: Store, _by: str | None) -> None:
        listed.extend(await store.tokens.all())

    _with_store(me, act)
    if json:
        shown = [
            {"token": each.id, "name": each.name, "role": each.role.value, "created_at": rfc3339(each.created_at)}
            for each in listed
        ]
        emit({"tokens": shown})
        return
    for each in listed:
        typer.echo(f"{each.id}  {rfc3339(each.created_at)}  {each.role:<9}  {each.name}")
    if not listed:
        say(f"nobody has a token; the first is made by: {FIRST_TOKEN}")


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="ID of the token, as `expunge token list` has it.")],
    me: session.As = None,
) -> None:
    """Revoke a token: from now on it is refused."""

    named = id_of(token_id) or token_id  # who has a token only as a whole may give that

    async def act(store: Store, by: str | None) -> None:
        await store.tokens.revoke(named, by or "")

    _with_store(me, act)
    say(f"token {named} is revoked")


def signout(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose sessions, as the pages and the audit trail say.")],
    me: session.As = None,
) -> None:
    """End all sessions of somebody on the pages, however they signed in."""
    if not is_name(name):
        raise UsageError(_NO_NAME.format(name))

    async def act(store: Store, by: str | None) -> None:
        await store.sessions.end_all(name, by)

    _with_store(me, act)
    say(f"{name} is signed out everywhere; whoever still may, can sign in again")


SUBCOMMANDS = {"add": add, "list": list_, "revoke": revoke, "signout": signout}


def _with_store(
    me: str | None, act: Callable[[Store, str | None], Coroutine[None, None, None]], *, start: bool = False
) -> None:
    caller = Caller(load_settings(), me, Act.TOKEN)
    with caller.audited(), session.running_redis(caller.settings, start=start) as reachable:

        async def run() -> None:
            async with session.opened_store(reachable) as store:
                await act(store, await caller.admitted(store))

        asyncio.run(run())
