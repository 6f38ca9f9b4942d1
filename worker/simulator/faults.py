"""The faults that the simulator can inject: what each does to the customer, and how its exchange ends."""

from dataclasses import dataclass, field
from enum import Enum


class Ending(Enum):
    """How the exchange ends for the client."""

    REPLY = "a reply"
    HANG = "no reply, the connection stays open"
    RESET = "no reply, the connection is reset"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    ``status`` is the default status of its reply, and ``executes`` whether the customer is deleted; ``options`` are the
    keys that a rule may set for it, beyond those that every rule has (``ids``, ``share``, ``times``, ``latency``).
    """

    status: int | None = None
    executes: bool = False
    ending: Ending = Ending.REPLY
    options: frozenset[str] = field(default_factory=frozenset)
    requires: frozenset[str] = field(default_factory=frozenset)


def _fault(status: int, *options: str, executes: bool = False) -> Fault:
    return Fault(status, executes, options=frozenset(options))


FAULTS: dict[str, Fault] = {
    # A status of 2xx executes unless the rule says otherwise: see Rule.executes.
    "status": Fault(options=frozenset({"status", "retry_after", "body", "executed"}), requires=frozenset({"status"})),
    "rate_limited": _fault(429, "retry_after", "body"),
    "server_error": _fault(503, "status", "retry_after", "body", "executed"),
    "timeout_before": Fault(ending=Ending.HANG),
    "timeout_after": Fault(ending=Ending.HANG, executes=True),
    "reset_before": Fault(ending=Ending.RESET),
    "reset_after": Fault(ending=Ending.RESET, executes=True),
    "rejected": _fault(400, "status", "missing_field", "shape", "body"),
    "deleted_with_missing_field": _fault(200, "missing_field", "shape", executes=True),
    "unreadable": _fault(200, "shape", "body", "executed", executes=True),
    "absent": _fault(404),
    "still_active": _fault(200, "executed"),
    "accepted": _fault(202, "executed"),
    "other_customer": _fault(200, "executed"),
    "redirect": _fault(302, "status", "location"),
    "not_the_api": _fault(404, "status", "body"),
    "unauthorized": _fault(401, "body"),
    "forbidden": _fault(403, "body"),
    "latency": Fault(executes=True, requires=frozenset({"latency"})),
}
