"""``expunge run``: all of it in one command: submits, works, shows progress, writes the report."""

import asyncio
import secrets
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from redis.exceptions import RedisError

from worker.cli import session
from worker.cli.admission import Caller
from worker.cli.batches import exit_code
from worker.cli.children import IDLE, STOP_TIMEOUT, Children
from worker.cli.output import (
    ProgressDisplay,
    awaits,
    emit,
    say,
    state_of,
    tally_lines,
    to_go_on,
)
from worker.cli.plan import announce
from worker.cli.report import Format, check_output, format_of, refuse_overwriting, write_out
from worker.cli.simulator import RehearsalScenario
from worker.domain.batches import Batch, BatchState, Description, Lane, StateReason
from worker.domain.errors import Guard, RefusedError, UnwrittenError, UsageError
from worker.domain.people import NO_APPROVAL, Act
from worker.intake.csv_file import CsvFile
from worker.pipeline import control
from worker.pipeline.accept import describe
from worker.pipeline.submission import moment
from worker.pipeline.telling import begin, caught_up
from worker.reports.advice import why_paused
from worker.reports.as_json import batch_json
from worker.reports.columns import ReportFormat
from worker.reports.formats import check_cells, check_format
from worker.reports.writing import check_place
from worker.settings import Settings, load_settings
from worker.simulator import Scenario, ScenarioError, SimulatorThread
from worker.wiring import Store

_POLL = 0.25  # seconds
_TELLING = 10.0  # seconds that workers have to tell callbacks of the end


class _Interrupted(Exception):  # noqa: N818 - it is an ending, not an error
    """Ctrl-C or SIGTERM; a second one ends the process at once."""


def run(
    file: session.File,
    simulate: Annotated[bool, typer.Option("--simulate", help="Rehearse against the built-in simulator.")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="The report; by default FILE with .report.csv.")
    ] = None,
    report_format: Format = None,
    column: session.Column = "customer_id",
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes; 0 leaves it to those elsewhere.")] = 2,
    rate: session.Rate = None,
    environment: session.EnvironmentOption = None,
    merchant: session.Merchant = None,
    reference: session.Reference = None,
    lane: session.LaneOption = Lane.BULK,
    due: session.Due = None,
    keep: session.Keep = None,
    confirm: session.Confirm = None,
    again: session.Again = False,
    skip_bad_rows: session.SkipBadRows = False,
    scenario: RehearsalScenario = None,
    me: session.As = None,
    json: session.Json = False,
) -> None:
    """Delete the customers of a CSV, wait, and write what became of each; run again, it goes on where it stopped."""
    settings = load_settings(environment=environment, merchant_id=merchant, rate_limit=rate)
    deadline = moment("--due", due)
    if not simulate:
        _ = settings.upstream_prefix  # refuses at once when no upstream is set
    report_path = out or default_report(file, report_format or ReportFormat.CSV)
    chosen = format_of(report_path, report_format)
    if json and report_path == "-":
        raise UsageError("--json and --out - both write to stdout; name a file for the report")
    if scenario is not None and not simulate:
        raise UsageError(
            "--scenario is for rehearsals: add --simulate, or nothing is rehearsed and customers are deleted"
        )
    if not workers and settings.redis_url is None:
        raise UsageError("--workers 0 needs workers elsewhere, and so EXPUNGE_REDIS_URL")
    refuse_overwriting(report_path, file)
    check_output(report_path, chosen)
    check_place(report_path)
    caller = Caller(settings, me, Act.SUBMIT, simulate=simulate)
    with ExitStack() as stack:
        stack.enter_context(caller.audited())
        csv_file = stack.enter_context(session.open_csv(file, column, settings, skip_bad_rows=skip_bad_rows))
        if simulate:
            settings = stack.enter_context(_rehearsal(settings, scenario or "mixed"))
        check_format(chosen, csv_file.inspect().rows, csv_file.columns)
        check_cells(chosen, csv_file.columns, csv_file.cells())
        rules = replace(settings.rules, approval=NO_APPROVAL) if simulate else settings.rules
        description = describe(csv_file.inspect(), rules, reference=reference, lane=lane, due=deadline, keep=keep or ())
        if not simulate:
            session.refuse_unattended(description, confirm)
            asyncio.run(session.check_upstream(settings))
        home = session.embedded_home(settings, simulate=simulate)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else it would leave the server behind
        reachable = stack.enter_context(session.running_redis(settings, simulate=simulate, start=True))
        again_command = shlex.join(["expunge", *sys.argv[1:]])
        try:
            description = announce(csv_file, caller, reachable, description, again=again)
            if not simulate:
                session.guard_production(description, confirm)
            work = _Run(
                *(csv_file, description, caller, reachable, home, report_path, chosen), workers=workers, again=again
            )
            batch = asyncio.run(work.all())
        except (_Interrupted, KeyboardInterrupt):
            say(f"interrupted; nothing is lost. To go on: {again_command}")
            raise typer.Exit(130) from None
    if json:
        emit(_as_json(batch, report_path))
    raise typer.Exit(exit_code(batch))


def default_report(file: str, report_format: ReportFormat = ReportFormat.CSV) -> str:
    """``customers.csv`` gives ``customers.report.csv``."""
    report = f".report.{report_format.value}"
    if file == "-":
        return f"expunge{report}"
    for ending in (".csv.gz", ".csv", ".gz"):
        if file.lower().endswith(ending):
            return file[: -len(ending)] + report
    return file + report


@contextmanager
def _rehearsal(settings: Settings, scenario: str) -> Iterator[Settings]:
    """Settings that point to a simulator of our own, and to a ledger that knows nothing of other rehearsals."""
    try:
        simulator = SimulatorThread(Scenario.load(scenario))
    except ScenarioError as error:
        raise UsageError(f"--scenario: {error}") from None
    with simulator:
        yield settings.model_copy(
            update={
                "upstream_url": simulator.url,
                "upstream_name": "simulator",  # its address changes, and a rehearsal goes on nevertheless
                "upstream_path": "/customer/customer/{customer_id}",
                "upstream_headers": {},
                "merchant_id": settings.merchant_id or "simulated",
                "digest_key": SecretStr(secrets.token_hex(16)),
                "callback_urls": (),  # a rehearsal is nobody's news
            }
        )


class _Run:
    """One ``expunge run``, from the opened input to the report."""

    def __init__(
        self,
        csv_file: CsvFile,
        description: Description,
        caller: Caller,
        settings: Settings,
        home: Path | None,
        report_path: str,
        report_format: ReportFormat,
        *,
        workers: int,
        again: bool,
    ) -> None:
        self._csv_file, self._description, self._caller = csv_file, description, caller
        self._settings, self._home = settings, home
        self._report_path, self._format = report_path, report_format
        self._workers, self._again, self._simulate = workers, again, caller.simulate
        self._stop = asyncio.Event()
        self._children: Children | None = None

    async def all(self) -> Batch:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        async with session.opened_store(self._settings) as store:
            await session.warn_of_problems(store, self._settings)
            await begin(store.callbacks, self._settings.callbacks)
            batch = await self._take_in(store)
            if batch.goes_on:
                batch = await self._work(store, batch)
            if self._stop.is_set():
                raise _Interrupted
            await self._tell(store, batch)
            return batch

    def _interrupt(self) -> None:
        if self._stop.is_set():
            if self._children is not None:
                self._children.kill()
            raise KeyboardInterrupt
        say("stopping: letting requests in flight end ...")
        self._stop.set()

    async def _take_in(self, store: Store) -> Batch:
        batch, known_by = await session.take_in(store, self._csv_file, self._description, again=self._again)
        if known_by is None:
            say(f"batch {batch.id}: {batch.description.rows:,} rows of {batch.description.source} accepted")
            return batch
        if batch.state.ended and self._simulate:
            batch, _ = await session.take_in(store, self._csv_file, self._description, again=True)
            say(f"batch {batch.id}: another rehearsal of {batch.description.source}")
            return batch
        if batch.state.ended:
            raise RefusedError(
                f"this file is done already: batch {batch.id} ({batch.state.value}); its report: "
                f"expunge report {batch.id} --out {self._out()}; --again runs it once more",
                Guard.REPEAT,
                batch.id,
            )
        return await self._continue(store, batch)

    async def _continue(self, store: Store, batch: Batch) -> Batch:
        if batch.state is BatchState.AWAITING_APPROVAL:
            raise RefusedError(f"batch {batch.id} is {state_of(batch)}: {awaits(batch)}", Guard.APPROVAL, batch.id)
        if batch.description.target != self._description.target:
            theirs, ours = batch.description.target.upstream, self._description.target.upstream
            raise RefusedError(
                f"batch {batch.id} of this file is for upstream {theirs}, and what is set now is {ours}; set "
                f"EXPUNGE_UPSTREAM_URL and EXPUNGE_UPSTREAM_PATH as they were; or cancel it, and --again",
                Guard.RULE,
                batch.id,
            )
        if batch.state_reason is StateReason.CREDENTIALS_REFUSED:
            name = await replace(self._caller, act=Act.RESUME).admitted(store, batch)
            await control.resume(store.batches, store.feeder, batch.id, name)
        elif not batch.goes_on:
            why, guard = (f": {batch.tripped}", Guard.BRAKE) if batch.tripped else ("", Guard.STATE)
            raise RefusedError(
                f"batch {batch.id} is {state_of(batch)}{why}; to go on: {self._resume(batch)}", guard, batch.id
            )
        say(f"batch {batch.id}: going on after {batch.tally.done:,} of {batch.tally.total:,} records")
        return await session.found(store, batch.id)

    async def _work(self, store: Store, batch: Batch) -> Batch:
        """Run workers until the batch ends, is paused, or we are asked to stop."""
        follower = session.Follower(store, self._home)
        with ExitStack() as stack:
            if self._workers:
                self._children = stack.enter_context(Children(self._settings, self._workers))
            children = self._children
            display = stack.enter_context(ProgressDisplay())
            while batch.goes_on and not self._stop.is_set():
                display.show(batch)
                if children is not None:
                    children.restart_if_dead()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await self._stop.wait()
                batch = await follower.look(batch)
            display.show(batch)
            if children is not None:
                await self._let_tell(store)
                await asyncio.to_thread(children.stop, await self._patience(store))
        return await follower.look(batch)

    async def _let_tell(self, store: Store) -> None:
        """Our workers tell the callbacks, so they stop after that; what is not told then is told by the next ones."""
        with suppress(RedisError):
            here = self._settings.callbacks
            for callback in await caught_up(store.callbacks, here, _TELLING, lambda: not self._stop.is_set()):
                say(f"callback {callback.host} has not been told all yet; the next run or worker goes on with it")

    async def _patience(self, store: Store) -> float:
        """Our workers may be at work on another run's batch; without one, they have nothing to end."""
        with suppress(RedisError):
            if not await store.batches.active(self._settings.target) and not self._settings.callbacks:
                return IDLE
        return STOP_TIMEOUT

    async def _tell(self, store: Store, batch: Batch) -> None:
        say(f"batch {batch.id}: {state_of(batch)}")
        for line in tally_lines(batch.tally):
            say(line)
        if batch.state is BatchState.AWAITING_APPROVAL:
            say(f"{awaits(batch)}, then the same command again")
        if batch.state_reason is not None:
            say(f"paused: {why_paused(batch)}. To go on: {self._to_go_on(batch)}")
        try:
            await write_out(store, batch, self._csv_file, self._report_path, self._format)
        except UsageError as error:
            again = f"expunge report {batch.id}{' --simulate' if self._simulate else ''} --out {self._out()}"
            raise UnwrittenError(
                f"{error}; nothing else is lost, and the report can be written later: {again}"
            ) from None

    def _out(self) -> str:
        path = shlex.quote(self._report_path)
        return path if format_of(self._report_path) is self._format else f"{path} --format {self._format.value}"

    def _to_go_on(self, batch: Batch) -> str:
        if batch.state_reason is StateReason.CREDENTIALS_REFUSED:
            return "the same command again"
        return f"{self._resume(batch)}, then the same command again"

    def _resume(self, batch: Batch) -> str:
        return to_go_on(batch, simulate=self._simulate)


def _as_json(batch: Batch, report_path: str) -> dict[str, Any]:
    return batch_json(batch) | {"report": report_path, "manifest": f"{report_path}.manifest.json"}
