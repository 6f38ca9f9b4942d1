"""``expunge events listen``: takes the entries of a Redis Stream until it is asked to stop."""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer
import uvloop
from redis.exceptions import RedisError

from worker import logs
from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.output import PLAIN_EVERY, emit, say
from worker.domain.errors import ExpungeError, UsageError
from worker.domain.people import Act
from worker.outfit import entry_reader
from worker.pipeline.duties import beside
from worker.pipeline.listen import Counts, Listener, Problem, kind_of
from worker.settings import load_settings
from worker.store.connection import readable_errors
from worker.store.streams import EventStream, GroupGoneError, NoStreamError
from worker.wiring import Store, redis_url

_DRAIN = 10.0  # seconds for what is in hand when it is asked to stop
_SIDE_BY_SIDE = 2  # so that one reads what came while Redis works for the other
_LOOKS = 4  # for what others left, in the time after which it is claimed
_LONGEST_NAME = 200
_OURS = "expunge:"


def listen(
    stream: Annotated[str, typer.Option("--stream", metavar="NAME", help="Key of the stream in EXPUNGE_REDIS_URL.")],
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="Consumer group: all listeners of one share its entries.")
    ] = "expunge",
    claim_after: Annotated[
        float,
        typer.Option(
            "--claim-after",
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="When entries that a dead listener had are taken.",
        ),
    ] = 60.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete from the stream what was taken or refused.")] = False,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Take events from a Redis Stream until SIGTERM or Ctrl-C. Start as many as you like, on any machine."""
    settings = load_settings()
    _ = settings.upstream_prefix  # a batch is bound to its upstream, so one must be set
    _check_names(stream, group)
    caller = Caller(settings, me, Act.SUBMIT)
    listening = _Listening(caller, stream, group, claim_after, delete=delete)
    with caller.audited():
        uvloop.run(listening.run())
    if json:
        emit(listening.as_json())
    if listening.stopped_by is signal.SIGINT:
        raise typer.Exit(130)


def _check_names(stream: str, group: str) -> None:
    for option, name in (("--stream", stream), ("--group", group)):
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise UsageError(f"{option}: must be 1 to {_LONGEST_NAME} printable characters")
    if stream.startswith(_OURS):
        raise UsageError(f"--stream: '{stream}' is a key of Expunge itself; name the stream that other systems write")


class _Listening:
    """One run of the command."""

    def __init__(self, caller: Caller, stream: str, group: str, claim_after: float, *, delete: bool) -> None:
        self._caller, self._settings = caller, caller.settings
        self._name, self._group, self._claim_after, self._delete = stream, group, claim_after, delete
        self._stopping = asyncio.Event()
        self._counts = Counts()
        self._problem: Problem | None = None
        self.stopped_by: signal.Signals | None = None

    async def run(self) -> None:
        async with session.opened_store(self._settings) as store:
            await self._caller.admitted(store)
            await session.warn_of_problems(store, self._settings)
            streams = [self._stream(store) for _ in range(_SIDE_BY_SIDE)]
            await streams[0].create()
            self._say_beginning()
            logs.configure(self._settings.log_level)
            await self._listen(store, streams)

    def _stream(self, store: Store) -> EventStream:
        return EventStream(
            store.redis, self._name, self._group, store.dead_letters, self._claim_after, delete=self._delete
        )

    async def _listen(self, store: Store, streams: Sequence[EventStream]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        every, reader = self._claim_after / _LOOKS, entry_reader(self._settings)
        listeners = [Listener(each, reader, store.gatherer, every, self._tell, self._counts) for each in streams]
        mains = [asyncio.create_task(listener.listen(self._stopping)) for listener in listeners]
        asked = asyncio.create_task(self._stopping.wait())
        async with beside(store.gatherer.close_forever(), self._show(streams[0])):
            try:
                await asyncio.wait([*mains, asked], return_when=asyncio.FIRST_COMPLETED)
                self._stopping.set()  # one that cannot go on ends the others
                await asyncio.wait(mains, timeout=_DRAIN)
            finally:
                for task in mains:
                    task.cancel()
                await asyncio.wait(mains)
        for task in mains:
            if not task.cancelled():
                task.result()
        say(f"stopped: {self._told()}")

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self.stopped_by = signal.Signals(number)
        self._stopping.set()  # first: whoever read stderr may be gone
        say("stopping: taking what is in hand ...")

    def _say_beginning(self) -> None:
        where = session.shown_target(self._settings.target)
        say(f"listening to stream '{self._name}' as group '{self._group}', for {where}")
        if not self._settings.event_types:
            say("EXPUNGE_EVENT_TYPES is not set: CloudEvents are refused, and only flat entries are taken")

    def _tell(self, problem: Problem | None) -> None:
        before, self._problem = self._problem, problem
        if kind_of(problem) is kind_of(before):
            return  # the other one has told it
        if problem is None:
            say("the stream is back" if isinstance(before, NoStreamError) else "Redis is back")
            return
        try:
            with readable_errors(redis_url(self._settings)):
                raise problem
        except NoStreamError as error:
            say(f"{error}; waiting until it is a stream again ...")
        except ExpungeError as readable:
            say(f"{readable}; nothing is lost, waiting for it ...")

    async def _show(self, stream: EventStream) -> None:
        """A line every few seconds in which something came."""
        shown, at = 0, time.monotonic()
        while True:
            await asyncio.sleep(PLAIN_EVERY)
            with suppress(RedisError, GroupGoneError, NoStreamError):
                waiting = await stream.waiting()
                done, now = self._done(), time.monotonic()
                if done != shown:
                    rate = (done - shown) / (now - at)
                    say(f"{self._told()}, waiting {'?' if waiting is None else f'{waiting:,}'}  {rate:,.1f}/s")
                shown, at = done, now

    def _told(self) -> str:
        counts = self._counts
        return f"taken {counts.taken:,}, repeated {counts.repeated:,}, refused {counts.refused:,}"

    def _done(self) -> int:
        return sum(vars(self._counts).values())

    def as_json(self) -> dict[str, str | int]:
        return {"stream": self._name, "group": self._group, **vars(self._counts)}
