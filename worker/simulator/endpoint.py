"""The endpoint's behaviour, without sockets: what a DELETE does to the customers, and what is to be answered."""

import re
from collections import deque
from random import Random
from typing import NamedTuple

from worker.simulator import replies
from worker.simulator.amounts import Latency, Rate
from worker.simulator.faults import Ending
from worker.simulator.replies import Reply
from worker.simulator.rules import Injection, RuleBook
from worker.simulator.scenario import Scenario

PATH = "/customer/customer/"
_CUSTOMER_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Answer(NamedTuple):
    """What the endpoint decided about one request, the moment it arrived."""

    customer_id: str
    attempt: int
    executed: bool
    fault: str | None
    ending: Ending
    delay: float
    reply: Reply | None


class Endpoint:
    """The customers of one simulator, and the scenario it plays; ``now`` is seconds on any monotonic clock."""

    def __init__(self, scenario: Scenario, prefix: str = "") -> None:
        self._base = prefix + PATH
        self._attempts: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._first: float | None = None
        self.use(scenario)

    def use(self, scenario: Scenario) -> None:
        """Play another scenario from now on; who is deleted already, and the count of requests, stay."""
        self._scenario = scenario
        self._rules = RuleBook(scenario.rules, scenario.seed)
        self._limit = None if scenario.rate_limit is None else _Window(scenario.rate_limit)
        # S311: latencies are drawn, not secrets; the seed makes a run repeatable.
        self._random = Random(scenario.seed)  # noqa: S311

    def names_customer(self, path: str) -> bool:
        """Whether a raw path is that of one customer."""
        return path.startswith(self._base) and _CUSTOMER_ID.fullmatch(path, len(self._base)) is not None

    def delete(self, path: str, merchant: str | None, kind: str | None, now: float) -> Answer:
        """Take a DELETE for the raw ``path``, with the values of its two required headers."""
        if self._first is None:
            self._first = now
        known = self.names_customer(path)
        customer_id = path[len(self._base) :] if known else path
        attempt = self._attempts[customer_id] = self._attempts.get(customer_id, 0) + 1
        if not known:
            return self._answer(customer_id, attempt, replies.proxy_page(404))
        injection = self._outage(now - self._first)
        if injection is None:
            if self._limit is not None and not self._limit.admit(now):
                return self._answer(customer_id, attempt, self._too_many(), fault="rate_limit")
            if not merchant or kind not in {"sandbox", "production"}:
                lacking = "X-Type" if merchant else "X-Merchant-Identifier-Id"
                return self._answer(customer_id, attempt, replies.refused(400, f"{lacking} is missing or wrong"))
            injection = self._rules.find(customer_id, attempt)
        if injection is None:
            return self._ordinary(customer_id, attempt)
        return self._injected(injection, customer_id, attempt)

    def _ordinary(self, customer_id: str, attempt: int, injection: Injection | None = None) -> Answer:
        executed = self._execute(customer_id)
        reply = replies.deleted(customer_id) if executed else replies.customer_not_found()
        return self._answer(customer_id, attempt, reply, executed=executed, injection=injection)

    def _injected(self, injection: Injection, customer_id: str, attempt: int) -> Answer:
        if injection.fault == "latency":
            return self._ordinary(customer_id, attempt, injection)
        executed = injection.executes and self._execute(customer_id)
        reply: Reply | None = None
        if injection.fault == "deleted_with_missing_field" and not executed:
            reply = replies.customer_not_found()
        elif injection.kind.ending is Ending.REPLY:
            reply = replies.injected(injection, customer_id)
        return self._answer(customer_id, attempt, reply, executed=executed, injection=injection)

    def _answer(
        self,
        customer_id: str,
        attempt: int,
        reply: Reply | None,
        *,
        executed: bool = False,
        fault: str | None = None,
        injection: Injection | None = None,
    ) -> Answer:
        latency, ending = self._scenario.latency, Ending.REPLY
        if injection is not None:
            fault, ending = injection.fault, injection.kind.ending
            latency = injection.latency or latency
        return Answer(customer_id, attempt, executed, fault, ending, self._draw(latency), reply)

    def _draw(self, latency: Latency) -> float:
        low, high = latency
        return low if low == high else self._random.uniform(low, high)

    def _outage(self, since_first: float) -> Injection | None:
        return next((outage for outage in self._scenario.outages if outage.covers(since_first)), None)

    def _execute(self, customer_id: str) -> bool:
        customers = self._scenario.customers
        if customer_id in self._deleted or (customers is not None and customer_id not in customers):
            return False
        self._deleted.add(customer_id)
        return True

    def _too_many(self) -> Reply:
        reply = replies.refused(429)
        return Reply(reply.status, {**reply.headers, "Retry-After": self._scenario.retry_after}, reply.body)


class _Window:
    """Counts arrivals, refused ones too, in a window that slides."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._arrivals: deque[float] = deque()

    def admit(self, now: float) -> bool:
        arrivals = self._arrivals
        while arrivals and arrivals[0] <= now - self._rate.seconds:
            arrivals.popleft()
        arrivals.append(now)
        return len(arrivals) <= self._rate.requests
