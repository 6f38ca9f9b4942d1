"""Rules: which requests meet a fault, and how it shows."""

import re
from collections.abc import Iterable
from fnmatch import translate
from hashlib import blake2b
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from worker.simulator.amounts import Latency, parse_latency
from worker.simulator.faults import FAULTS, Fault

Shape = Literal["schema", "example", "html", "truncated"]
_SHAPES: dict[str, frozenset[str]] = {
    "rejected": frozenset({"schema", "example"}),
    "deleted_with_missing_field": frozenset({"schema", "example"}),
    "unreadable": frozenset({"html", "truncated"}),
}
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")


def _known_fault(name: str) -> str:
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    return name


def _header_value(value: object) -> str:
    text = str(value)
    if isinstance(value, bool) or not _HEADER_VALUE.fullmatch(text):
        raise ValueError(f"{value!r} cannot stand in a header")
    return text


def _missing_field(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError(f"missing_field {value!r} is neither a list of names nor one name")


HeaderValue = Annotated[str, PlainValidator(_header_value)]


class Injection(BaseModel):
    """A fault and how it shows; what rules and outages have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Annotated[str, AfterValidator(_known_fault)]
    status: int | None = Field(None, ge=200, le=599)
    retry_after: HeaderValue | None = None
    body: str | None = None
    """Instead of the usual body; ``{customer_id}`` and ``{request_id}`` in it are filled in."""
    missing_field: Annotated[str | tuple[str, ...], PlainValidator(_missing_field)] | None = None
    shape: Shape | None = None
    location: HeaderValue | None = None
    latency: Annotated[Latency, PlainValidator(parse_latency)] | None = None
    executed: bool | None = None

    _selectors: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _options_belong_to_the_fault(self) -> Self:
        given = self.model_fields_set
        allowed = self.kind.options | self._selectors | {"fault", "latency"}
        if stray := sorted(given - allowed):
            raise ValueError(f"fault {self.fault!r} takes no {stray[0]!r}")
        if lacking := sorted(self.kind.requires - given):
            raise ValueError(f"fault {self.fault!r} needs {lacking[0]!r}")
        shapes = _SHAPES.get(self.fault, frozenset())
        if self.shape is not None and self.shape not in shapes:
            raise ValueError(f"fault {self.fault!r} has no shape {self.shape!r}; it has: {', '.join(sorted(shapes))}")
        return self

    @property
    def kind(self) -> Fault:
        return FAULTS[self.fault]

    @property
    def executes(self) -> bool:
        """Whether the customer is deleted by a request that meets this fault."""
        if self.executed is not None:
            return self.executed
        if self.fault == "status":
            return self.status is not None and self.status < 300
        return self.kind.executes


class Rule(Injection):
    """A fault for the first ``times`` requests for each ID that matches the glob ``ids`` and falls into ``share``."""

    ids: str | None = Field(None, min_length=1)
    share: float | None = Field(None, gt=0, le=1)
    times: int | None = Field(None, ge=1)

    _selectors: ClassVar[frozenset[str]] = frozenset({"ids", "share", "times"})


class Outage(Injection):
    """A fault for every request that arrives in a span of time, in seconds since the first request."""

    start: float = Field(0.0, ge=0)
    seconds: float = Field(gt=0)

    _selectors: ClassVar[frozenset[str]] = frozenset({"start", "seconds"})

    def covers(self, since_first: float) -> bool:
        return self.start <= since_first < self.start + self.seconds


class RuleBook:
    """Finds the rule for a request; made once for a scenario, since it is asked for each request."""

    def __init__(self, rules: Iterable[Rule], seed: int) -> None:
        self._key = seed.to_bytes(8, "big")
        self._rules: list[tuple[Rule, re.Pattern[str] | None, float, float]] = []
        edge = 0.0
        for rule in rules:
            low, high = 0.0, 1.0
            if rule.share is not None:
                low, edge = edge, edge + rule.share
                high = edge
            self._rules.append((rule, re.compile(translate(rule.ids)) if rule.ids else None, low, high))

    def find(self, customer_id: str, attempt: int) -> Rule | None:
        """Return the first rule that matches the ``attempt``-th request (from 1) for that ID, if any."""
        if not self._rules:
            return None
        point = self.point(customer_id)
        for rule, pattern, low, high in self._rules:
            if (
                low <= point < high
                and (rule.times is None or attempt <= rule.times)
                and (pattern is None or pattern.match(customer_id))
            ):
                return rule
        return None

    def point(self, customer_id: str) -> float:
        """Where an ID lies in [0, 1): always the same for one seed, and evenly spread."""
        digest = blake2b(customer_id.encode(), digest_size=6, key=self._key).digest()
        return int.from_bytes(digest, "big") / 2**48
