"""``python -m bench.rates``: does the upstream see at most the set rate in every second, and nearly all of it?

Also what it costs to ask: round trips to Redis, of the limiter and of all that the workers do. By the upstream's own
log and Redis' own counts.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from bench import promises
from bench.arrivals import most_in_a_second, rate
from bench.customers import write_csv
from bench.processes import expunge, say, started, stub
from bench.promises import Line, Part, at_least, at_most
from worker.embedded import embedded_server

_START = 60.0  # seconds for processes to start
_LATENCY = 0.01  # seconds
_COST_RATE = 1_000
"""At which the limiter's cost is due."""
_OVER = 2  # requests by which a window may exceed the limit


@dataclass(frozen=True, slots=True)
class Seen:
    """What a trial showed."""

    arrivals: list[float]
    limiter_calls: int
    """Round trips to Redis in which permits were asked for."""
    script_calls: int
    """All round trips in which a script was run; claims and outcomes are among them."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate, and how many processes of one worker share it."""

    rate: int
    processes: int
    seconds: int

    @property
    def records(self) -> int:
        return self.rate * self.seconds

    def measure(self) -> Seen:
        """Delete the records; the worker starts when they are in the store."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expunge-bench-")))
            write_csv(folder / "customers.csv", self.records)
            upstream = stack.enter_context(stub(_LATENCY, folder))
            redis_url = stack.enter_context(embedded_server(folder / "home"))
            redis = stack.enter_context(Redis.from_url(redis_url))
            env = {
                "EXPUNGE_REDIS_URL": redis_url,
                "EXPUNGE_UPSTREAM_URL": upstream.url,
                "EXPUNGE_RATE_LIMIT": f"{self.rate}/s",
                "EXPUNGE_MERCHANT_ID": "bench",
                "EXPUNGE_SHARD_SIZE": str(min(250, self.records // 16)),  # something to do for each process
            }
            with started(expunge("submit", "customers.csv"), folder, env) as submit:
                submit.wait(_START)
            _count_from_here(redis)
            worker = stack.enter_context(started(expunge("worker", "--processes", str(self.processes)), folder, env))
            upstream.wait_for(self.records, _START + 2 * self.seconds, worker.check_alive)
            return Seen(upstream.arrivals(), *_counted(redis))


def _count_from_here(redis: Redis) -> None:
    """Let the slow log keep every command: unlike the counts by command, it names a script's keys."""
    redis.config_set("slowlog-max-len", 10_000_000)
    redis.config_set("slowlog-log-slower-than", 0)
    redis.config_resetstat()


def _counted(redis: Redis) -> tuple[int, int]:
    redis.config_set("slowlog-log-slower-than", -1)
    commands: list[bytes] = [entry["command"] for entry in redis.slowlog_get(-1)]
    asked = sum(command.startswith(b"EVALSHA") and b" expunge:pace:" in command for command in commands)
    scripts: int = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    return asked, scripts


_SECONDS = {20: 20, 200: 15, 2_000: 12}
FULL = (
    *(Trial(limit, processes, seconds) for limit, seconds in _SECONDS.items() for processes in (1, 2, 4)),
    Trial(_COST_RATE, 1, 10),
    Trial(_COST_RATE, 2, 10),
)
SMOKE = (Trial(_COST_RATE, 2, 1),)


_HEAD = (
    "| limit | processes | records | most in any second | use | limiter's calls / 20 records | all scripts' / 20 |",
    "|--:|--:|--:|--:|--:|--:|--:|",
)


def measure(smoke: bool) -> Part:
    """Every trial on a server of its own, one after the other."""
    lines: list[Line] = []
    details = [*_HEAD]
    for trial in SMOKE if smoke else FULL:
        say(f"{trial.rate}/s with {trial.processes} processes ...")
        seen = trial.measure()
        used, most = rate(seen.arrivals) / trial.rate, most_in_a_second(seen.arrivals)
        limiter, scripts = (20 * calls / trial.records for calls in (seen.limiter_calls, seen.script_calls))
        of = f"{trial.rate:,}/s, processes: {trial.processes}"
        lines.append(at_least(f"a rate is used: {of}", 0.98, used, "{:.1%}"))
        lines.append(at_most(f"a rate is kept: most in any second, {of}", trial.rate + _OVER, most, "{:,}"))
        if trial.rate == _COST_RATE:
            lines.append(at_most(f"limiter's cost: round trips per 20 records, {of}", 1.0, limiter))
        details.append(
            f"| {trial.rate:,}/s | {trial.processes} | {trial.records:,} | {most:,} | {used:.1%} | {limiter:.2f} "
            f"| {scripts:.2f} |"
        )
    return Part("Rates", lines, "\n".join(details))


if __name__ == "__main__":
    promises.alone("bench.rates", __doc__, measure)
