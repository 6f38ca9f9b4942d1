"""Scenarios: which customers exist, how fast the simulator answers, and which faults it injects into which requests.

A scenario is a TOML file, or one of those built in, ``clean`` and ``mixed``::

    seed = 7                    # decides which IDs fall into which share
    latency = "20ms..80ms"      # of every reply
    rate_limit = "100/s"        # answers 429 to what arrives above it
    retry_after = 1             # seconds or an HTTP date, said with that 429
    customers = "ids.txt"       # or a list; without it, every well-formed ID exists

    [[rule]]                    # the first rule that matches decides
    fault = "server_error"      # see faults.FAULTS
    ids = "customer_bad_*"      # a glob, and/or
    share = 0.02                # a share of all IDs; the shares of a scenario never overlap
    times = 2                   # only the first 2 requests for each of them

    [[outage]]                  # goes before the rules, and hits every ID
    start = 5.0                 # seconds since the first request
    seconds = 10.0
    fault = "server_error"
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from worker.simulator.amounts import Latency, Rate, parse_latency, parse_rate
from worker.simulator.rules import HeaderValue, Outage, Rule

BUILT_IN = ("clean", "mixed")
_TABLES: dict[str, type[BaseModel]] = {"rule": Rule, "outage": Outage}


class ScenarioError(ValueError):
    """A scenario, or a rule given as text, that cannot be used; the message is one line that says where and why."""


class Scenario(BaseModel):
    """What the simulator does; frozen. Made by ``load``, or in Python with the field names below."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    seed: int = Field(0, ge=0, lt=2**63)
    latency: Annotated[Latency, PlainValidator(parse_latency)] = Latency(0.0, 0.0)
    rate_limit: Annotated[Rate, PlainValidator(parse_rate)] | None = None
    retry_after: HeaderValue = "1"
    customers: frozenset[str] | None = None
    rules: tuple[Rule, ...] = Field((), alias="rule")
    outages: tuple[Outage, ...] = Field((), alias="outage")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        total = sum(rule.share or 0.0 for rule in self.rules)
        if total > 1 + 1e-9:
            raise ValueError(f"the shares of all rules add up to {total:g}, more than 1")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Return the built-in scenario of that name, or the one in that file; raises ScenarioError.

        A path in ``customers`` is relative to the scenario file; it holds one ID a line.
        """
        path = Path(name_or_path)
        if name_or_path == "clean":
            return cls()
        try:
            if name_or_path == "mixed":
                content = tomllib.loads(files("worker.simulator").joinpath("mixed.toml").read_text("utf-8"))
            else:
                content = tomllib.loads(path.read_text("utf-8"))
            if isinstance(listed := content.get("customers"), str):
                content["customers"] = (path.parent / listed).read_text("utf-8").split()
        except FileNotFoundError as error:
            raise ScenarioError(f"{error.filename}: no such file; built-in scenarios: {', '.join(BUILT_IN)}") from None
        except OSError as error:
            raise ScenarioError(f"{error.filename}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ScenarioError(f"{path.name}: not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise ScenarioError(f"{path.name}: not TOML: {error}") from None
        with _one_line(path.name):
            return cls.model_validate(content)

    def with_overrides(
        self, *, latency: str | float | None = None, rate_limit: str | None = None, rules: Iterable[Rule] = ()
    ) -> "Scenario":
        """Return this scenario with another latency or rate limit, and with ``rules`` before its own.

        Since the shares of a scenario are laid out in the order of its rules, new shares move the old ones to other
        IDs. Raises ScenarioError.
        """
        content: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        content["rules"] = (*rules, *self.rules)
        if latency is not None:
            content["latency"] = latency
        if rate_limit is not None:
            content["rate_limit"] = rate_limit
        with _one_line("options"):
            return Scenario.model_validate(content)


def parse_rule(text: str) -> Rule:
    """Read a rule written ``FAULT[:KEY=VALUE,...]``, such as ``server_error:share=0.1,times=2``; raises ScenarioError.

    The keys are those of a ``[[rule]]``; several names of ``missing_field`` are joined by ``+``.
    """
    fault, _, rest = text.partition(":")
    content: dict[str, object] = {"fault": fault.strip()}
    # An HTTP date contains a comma itself, so only a comma before the next key separates.
    for pair in re.split(r",(?=\s*\w+\s*=)", rest) if rest.strip() else []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ScenarioError(f"rule {text!r}: {pair.strip()!r} is not KEY=VALUE")
        content[key.strip()] = value.strip()
    if isinstance(names := content.get("missing_field"), str):
        content["missing_field"] = names.split("+")
    with _one_line(f"rule {text!r}"):
        return Rule.model_validate(content)


@contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Turn pydantic's report into one line that names the rule and the key."""
    try:
        yield
    except ValidationError as error:
        raise ScenarioError(f"{source}: {_first_complaint(error)}") from None


def _first_complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where, keys = "", list(first["loc"])
    model: type[BaseModel] = Rule if error.title == "Rule" else Scenario
    if len(keys) > 1 and keys[0] in _TABLES and isinstance(keys[1], int):
        where, model = f"{keys[0]} {keys[1] + 1}: ", _TABLES[str(keys[0])]
        keys = keys[2:]
    key = ".".join(map(str, keys))
    match first["type"]:
        case "extra_forbidden":
            known = (field.alias or name for name, field in model.model_fields.items())
            return f"{where}unknown key {key!r}; known: {', '.join(known)}"
        case "missing":
            return f"{where}{key!r} is missing"
        case "value_error":
            return where + first["msg"].removeprefix("Value error, ")
        case _:
            return f"{where}{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {str(first['input'])[:60]!r}"
