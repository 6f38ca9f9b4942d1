"""``python -m bench.rates``: does the upstream see at most the set rate in every second, and nearly all of it?

Promise 6 of SPEC 4, and issue 2: no window over 105 % of the limit, at least 97 % use. By the upstream's own clock.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.customers import write_csv
from bench.machine import facts
from bench.processes import expunge, started, stub
from worker.embedded import embedded_server

_START = 60.0  # seconds for processes to start


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate, and how many separate workers of one process share it."""

    rate: int
    workers: int
    records: int
    latency: float = 0.01

    def measure(self) -> list[float]:
        """When each DELETE came, in seconds."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="expunge-bench-")))
            write_csv(folder / "customers.csv", self.records)
            upstream = stack.enter_context(stub(self.latency, folder))
            env = {
                "EXPUNGE_REDIS_URL": stack.enter_context(embedded_server(folder / "home")),
                "EXPUNGE_UPSTREAM_URL": upstream.url,
                "EXPUNGE_RATE_LIMIT": f"{self.rate}/s",
                "EXPUNGE_MERCHANT_ID": "bench",
            }
            with started(expunge("submit", "customers.csv"), folder, env) as submit:
                submit.wait(_START)
            workers = [
                stack.enter_context(started(expunge("worker", "--processes", "1"), folder, env))
                for _ in range(self.workers)
            ]

            def check() -> None:
                for worker in workers:
                    worker.check_alive()

            upstream.wait_for(self.records, _START + 2 * self.records / self.rate, check)
            return upstream.arrivals()


FULL = (Trial(100, 3, 1_500), Trial(20, 1, 300), Trial(20, 2, 300), Trial(1_000, 1, 10_000), Trial(1_000, 2, 10_000))
SMOKE = (Trial(100, 2, 200),)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.rates", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one short trial")
    lines = [
        "| limit | workers | records | most in any second | of the limit | use of the limit |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for trial in SMOKE if parser.parse_args(arguments).smoke else FULL:
        print(f"{trial.rate}/s with {trial.workers} workers ...", file=sys.stderr, flush=True)
        arrivals = trial.measure()
        most = most_in_a_second(arrivals)
        lines.append(
            f"| {trial.rate}/s | {trial.workers} | {len(arrivals):,} | {most} | {most / trial.rate:.1%} "
            f"| {use(arrivals, trial.rate):.1%} |"
        )
    print("\n".join([*lines, "", f"From the first to the last request, by the upstream's clock. {facts()}", ""]))


def most_in_a_second(arrivals: Sequence[float]) -> int:
    """The largest number of requests in any second, wherever it begins."""
    most = first = 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def use(arrivals: Sequence[float], rate: int) -> float:
    """Of the requests that the limit would have allowed from the first to the last, the share that came."""
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) / rate


if __name__ == "__main__":
    main()
