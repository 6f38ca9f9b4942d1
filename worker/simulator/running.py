"""Ways to run a simulator: until a signal, or in a thread beside other work."""

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.simulator.journal import Entry
from worker.simulator.scenario import Scenario
from worker.simulator.server import Simulator, SimulatorError

_POLL_SECONDS = 0.02


def serve(
    scenario: Scenario,
    host: str,
    port: int,
    log: Path | None,
    *,
    ready: Callable[[str], None],
    stop: threading.Event | None = None,
    prefix: str = "",
) -> None:
    """Run a simulator until SIGINT or SIGTERM (in the main thread) or until ``stop`` is set; blocks.

    Calls ``ready`` with the base URL once it listens. Raises SimulatorError if it cannot.
    """
    _run(Simulator(scenario, prefix=prefix, log=log), host, port, ready, stop)


class SimulatorThread:
    """A simulator in a background thread with its own event loop; a context manager.

    ``start`` raises SimulatorError as Simulator.start does. Stopped and started again, it has the same URL, and
    remembers its customers and its log: an upstream that goes down and comes back.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: str = "",
        log: Path | None = None,
    ) -> None:
        self._simulator = Simulator(scenario, prefix=prefix, log=log)
        self._host = host
        self._port = port
        self._stop = threading.Event()
        self._executor: ThreadPoolExecutor | None = None
        self._ended: Future[None] = Future()
        self.url = ""

    @property
    def log(self) -> Sequence[Entry]:
        """Every DELETE so far; grows while requests arrive."""
        return self._simulator.log

    def stats(self) -> dict[str, object]:
        """Return the same counts as Simulator.stats."""
        return self._simulator.stats()

    def use(self, scenario: Scenario) -> None:
        """Play another scenario from the next request on; who is deleted stays deleted."""
        self._simulator.use(scenario)

    def start(self) -> None:
        """Listen, and set ``url``."""
        ready: Future[str] = Future()
        if self._executor is not None:
            raise SimulatorError("the simulator runs already")
        self._stop.clear()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="simulator")
        self._ended = self._executor.submit(_run, self._simulator, self._host, self._port, ready.set_result, self._stop)
        either: list[Future[Any]] = [ready, self._ended]
        wait(either, return_when=FIRST_COMPLETED)
        if not ready.done():
            self.stop()
        self.url = ready.result()
        self._port = int(self.url.removeprefix("http://").partition("/")[0].rpartition(":")[2])

    def stop(self) -> None:
        """Stop, wait for the thread to end, and raise what ended it if that was an error."""
        if self._executor is None:
            return
        self._stop.set()
        self._executor.shutdown()
        self._executor = None
        self._ended.result()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _run(
    simulator: Simulator, host: str, port: int, ready: Callable[[str], None], stop: threading.Event | None
) -> None:
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(simulator, host, port, ready, stop))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - there is none for Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(
    simulator: Simulator, host: str, port: int, ready: Callable[[str], None], stop: threading.Event | None
) -> None:
    halt = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, halt.set)
    url = await simulator.start(host, port)
    try:
        ready(url)
        await _until(halt, stop)
    finally:
        await simulator.stop()


async def _until(halt: asyncio.Event, stop: threading.Event | None) -> None:
    if stop is None:
        await halt.wait()
        return
    while not (halt.is_set() or stop.is_set()):
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL_SECONDS):
                await halt.wait()
