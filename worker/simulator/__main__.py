"""``python -m worker.simulator``: the simulator alone; its first line on stdout is its base URL."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.simulator import BUILT_IN, Scenario, ScenarioError, SimulatorError, parse_rule, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; exit code 2 if the scenario or the port cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m worker.simulator", description="A fake of the payments API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (default) for any free one")
    parser.add_argument("--prefix", default="", help="what comes before /customer/customer/")
    parser.add_argument("--scenario", default="clean", help=f"{', '.join(BUILT_IN)}, or a TOML file")
    parser.add_argument("--log", type=Path, help="append each DELETE to this file as a line of JSON")
    parser.add_argument("--latency", help="50ms, or 20ms..80ms")
    parser.add_argument("--rate-limit", help="100/s, or 1000/m")
    parser.add_argument("--rule", action="append", default=[], help="server_error:share=0.1,times=2; repeatable")
    options = parser.parse_args(arguments)
    try:
        scenario = Scenario.load(options.scenario).with_overrides(
            latency=options.latency,
            rate_limit=options.rate_limit,
            rules=[parse_rule(text) for text in options.rule],
        )
        serve(scenario, options.host, options.port, options.log, ready=_say, prefix=options.prefix)
    except (ScenarioError, SimulatorError) as error:
        sys.stderr.write(f"simulator: {error}\n")
        return 2
    return 0


def _say(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
