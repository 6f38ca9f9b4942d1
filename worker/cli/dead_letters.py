"""``expunge events dead-letters``: events that could not be taken, with the reason."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import emit, say
from worker.domain.errors import UsageError
from worker.domain.people import Act
from worker.outfit import entry_reader
from worker.pipeline.letters import Letters, TakenAgain, take_again
from worker.reports.columns import rfc3339
from worker.settings import Settings, load_settings
from worker.store.dead_letters import DeadLetter
from worker.wiring import Store

_AT_ONCE = 200
_ID = re.compile(r"\d{1,20}-\d{1,20}")


def dead_letters(
    letter_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Only these, by the ID that the list has.")
    ] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="With --again or --remove: every one.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Take them in once more.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget them: what they ask for is not done.")] = False,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """List events that could not be taken, the oldest first; take them in once more, or forget them."""
    settings = load_settings()
    ids = letter_ids or []
    _check(ids, all_of_them=all_of_them, again=again, remove=remove)
    if again:
        _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    # A letter's content may hold personal data: whoever reads it must be one who may ask for deletions.
    caller = Caller(settings, me, Act.SUBMIT if again or remove or json else Act.LOOK)
    with caller.audited():
        if again:
            _tell_again(asyncio.run(_again(caller, settings, ids)), json=json)
        elif remove:
            _tell_removed(asyncio.run(_remove(caller, settings, ids)), json=json)
        else:
            asyncio.run(_list(caller, settings, ids, json=json))


def _check(ids: list[str], *, all_of_them: bool, again: bool, remove: bool) -> None:
    if again and remove:
        raise UsageError("--again and --remove: choose one")
    if all_of_them and not (again or remove):
        raise UsageError("--all: is for --again or --remove; without any of them all are listed")
    if (again or remove) and bool(ids) == all_of_them:
        raise UsageError("name the IDs that are meant, or --all")
    for letter_id in ids:
        if not _ID.fullmatch(letter_id):
            raise UsageError(f"'{letter_id}' is no ID of a dead letter; `expunge events dead-letters` lists them")


async def _chosen(store: Store, ids: list[str]) -> AsyncIterator[Letters]:
    """The letters of these IDs, or all, some at a time; raises ``UsageError`` if one is not there."""
    if ids:
        found = [(each, await store.dead_letters.find(each)) for each in sorted(set(ids), key=_order)]
        if missing := [each for each, letter in found if letter is None]:
            raise UsageError(f"there is no dead letter {missing[0]}; nothing was done")
        yield [(each, letter) for each, letter in found if letter is not None]
        return
    after = ""
    while some := await store.dead_letters.list(_AT_ONCE, after):
        yield some
        after = some[-1][0]


async def _list(caller: Caller, settings: Settings, ids: list[str], *, json: bool) -> None:
    listed: list[dict[str, Any]] = []
    async with session.opened_store(settings) as store:
        await caller.admitted(store)
        count = 0
        async for some in _chosen(store, ids):
            count += len(some)
            for letter_id, letter in some:
                if json:
                    listed.append(_as_json(letter_id, letter))
                else:
                    typer.echo(f"{letter_id}  {_at(letter_id)}  {letter.way}  {letter.place}  {letter.reason}")
    if json:
        emit({"dead_letters": listed})
    elif not count:
        say("there are no dead letters")


async def _again(caller: Caller, settings: Settings, ids: list[str]) -> TakenAgain:
    taken, left = 0, list[tuple[str, str]]()
    async with session.opened_store(settings) as store:
        await caller.admitted(store)
        reader = entry_reader(settings)
        async for some in _chosen(store, ids):
            done = await take_again(store.dead_letters, store.gatherer, reader, some)
            taken += done.taken
            left += done.left
    return TakenAgain(taken, left)


def _tell_again(done: TakenAgain, *, json: bool) -> None:
    for letter_id, reason in done.left:
        say(f"{letter_id}: {reason}")
    say(f"{done.taken:,} taken in again, {len(done.left):,} left")
    if json:
        emit({"taken": done.taken, "left": [{"id": each, "reason": reason} for each, reason in done.left]})
    if done.left:
        raise typer.Exit(3)


async def _remove(caller: Caller, settings: Settings, ids: list[str]) -> int:
    removed = 0
    async with session.opened_store(settings) as store:
        name = await caller.admitted(store)
        async for some in _chosen(store, ids):
            removed += await store.dead_letters.drop([letter_id for letter_id, _ in some], name)
    return removed


def _tell_removed(removed: int, *, json: bool) -> None:
    say(f"{removed:,} removed")
    if json:
        emit({"removed": removed})


def _as_json(letter_id: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter_id,
        "at": _at(letter_id),
        "way": letter.way,
        "place": letter.place,
        "reason": letter.reason,
        "content": letter.content.decode(errors="replace"),
    }


def _order(letter_id: str) -> tuple[int, int]:
    at, _, number = letter_id.partition("-")
    return int(at), int(number)


def _at(letter_id: str) -> str:
    return rfc3339(int(letter_id.partition("-")[0]) / 1000)
