"""``expunge simulator``: the fake upstream alone, for tests and demonstrations."""

from pathlib import Path
from typing import Annotated

import typer

from worker.cli.output import say
from worker.domain.errors import UsageError
from worker.simulator import BUILT_IN, FAULTS, Scenario, ScenarioError, SimulatorError, parse_rule, serve

ScenarioOption = Annotated[
    str,
    typer.Option(
        "--scenario", metavar="NAME|FILE", help=f"{' or '.join(BUILT_IN)}, or a TOML file (docs/simulator.md)."
    ),
]

RehearsalScenario = Annotated[
    str | None,
    typer.Option("--scenario", metavar="NAME|FILE", help="Of a rehearsal: mixed (default), clean, or a TOML file."),
]


def simulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8900,
    prefix: Annotated[str, typer.Option(metavar="PATH", help="What comes before /customer/customer/.")] = "",
    scenario: ScenarioOption = "clean",
    latency: Annotated[str | None, typer.Option(metavar="TIME", help="50ms, or 20ms..80ms.")] = None,
    rate_limit: Annotated[str | None, typer.Option(metavar="RATE", help="Answer 429 above it, such as 100/s.")] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE", help="A fault, such as server_error:share=0.1,times=2; may be given several times."
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append each DELETE to it as a line of JSON.")
    ] = None,
) -> None:
    """Run a fake of the payments API's Delete customer, with faults on request, until Ctrl-C."""
    try:
        chosen = Scenario.load(scenario).with_overrides(
            latency=latency, rate_limit=rate_limit, rules=[parse_rule(text) for text in rule or []]
        )
        serve(chosen, host, port, log, ready=_ready, prefix=prefix)
    except (ScenarioError, SimulatorError) as error:
        raise UsageError(f"simulator: {error}") from None


def _ready(url: str) -> None:
    typer.echo(url)
    say(f"listening; use it with EXPUNGE_UPSTREAM_URL={url}. Faults: {', '.join(FAULTS)}")
