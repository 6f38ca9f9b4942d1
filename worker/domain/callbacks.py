"""Callbacks: whom to tell what becomes of batches, how it is signed, and what follows when somebody does not listen."""

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from worker.domain.addresses import is_loopback, is_public

MOST = 10
"""Addresses that may be set: each has a task of its own in every worker process."""
_SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark of one, by Standard Webhooks
_SECRET_SIZES = range(24, 65)  # bytes (Standard Webhooks, "Signature scheme")
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?([/?].*)?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_FORM = "must be an address such as https://hooks.example.com/expunge, without user, password or '#'"
PRIVATE = "is not a public address; set EXPUNGE_CALLBACK_ALLOW_PRIVATE=true if it is meant"
"""What is wrong with an address of one's own network."""


@dataclass(frozen=True, slots=True)
class Callback:
    """An address that is told. Path and query may hold a secret: only the host is ever shown."""

    url: str = field(repr=False)
    host: str
    """With its port, if it has one."""

    @classmethod
    def parse(cls, url: str, *, allow_private: bool) -> "Callback":
        """Check what can be checked without asking anybody; a name's addresses are checked when it is called.

        Raises ``ValueError``, whose text has no more of the URL than its host.
        """
        match = _URL.fullmatch(url)
        if match is None or not url.isascii() or not url.isprintable() or "#" in url:
            raise ValueError(_FORM)
        if not 0 < int(match["port"] or 443) <= 65_535:
            raise ValueError(_FORM)
        name = match["host"].strip("[]")
        callback = cls(url, urlsplit(url).netloc)
        if match["scheme"] == "http" and not (allow_private and is_loopback(name)):
            raise ValueError(
                f"{callback.host}: must begin with https://; http:// is for this machine alone, and only with "
                "EXPUNGE_CALLBACK_ALLOW_PRIVATE=true"
            )
        if problem := _problem_of_address(name, allow_private=allow_private):
            raise ValueError(f"{callback.host}: {problem}")
        return callback

    @property
    def name(self) -> str:
        """Stands for the URL where it is not to be read."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]


def _problem_of_address(host: str, *, allow_private: bool) -> str | None:
    """What is wrong with a host that is an address and no name."""
    try:
        ip_address(host)
    except ValueError:
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):  # to the system 2130706433 and 0x7f.1 are addresses
            return "must be written as a name, or as an address of four decimal numbers"
        private = is_loopback(host)
    else:
        private = not is_public(host)
    return PRIVATE if private and not allow_private else None


def read_secret(text: str) -> bytes:
    """The key behind a ``whsec_`` secret (Standard Webhooks); raises ``ValueError``, which does not show it."""
    encoded = text.removeprefix(_SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if encoded == text or len(key) not in _SECRET_SIZES:
        raise ValueError(
            "must be whsec_ and 24 to 64 random bytes in base 64, several joined by ','; "
            'make one with: echo "whsec_$(openssl rand -base64 32)"'
        )
    return key


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to try again what was not taken."""

    delays: tuple[float, ...] = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
    """Seconds after the first, second, ... try in a row that failed; the last stands for all further ones."""
    give_up: float = 86_400.0
    """Seconds that an event is tried."""

    def delay(self, failures: int, wait: float | None, jitter: float) -> float:
        """Seconds to the next try after so many that failed; ``wait`` is what the receiver asked for."""
        return max(self.delays[min(failures, len(self.delays)) - 1] * jitter, wait or 0.0)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an address has been told."""

    position: str
    """Of the last entry in the audit trail with which it is done."""
    part: int = 0
    """How many events of the next entry it took already."""
    failures: int = 0
    """Tries in a row that it did not take."""
    since: float | None = None
    """When the first of these was; seconds since the epoch, by the store's clock, as the next."""
    next_at: float = 0.0
    """Not before this is it tried again."""
    stopped: bool = False
    """It answered 410: it wants no more."""
    problem: str = ""
    """What the last try met."""

    def beyond(self, position: str, *, last: bool = True) -> "Standing":
        """Done with an event of the entry at ``position``; the ``last`` one ends the entry."""
        return replace(self, position=position, part=0) if last else replace(self, part=self.part + 1)

    def taken(self, position: str, *, last: bool) -> "Standing":
        """It took an event: what failed before is forgotten."""
        return Standing(self.position, self.part).beyond(position, last=last)

    def not_taken(self, schedule: Schedule, now: float, wait: float | None, jitter: float, problem: str) -> "Standing":
        """The same event is to be tried again."""
        failures = self.failures + 1
        delay = schedule.delay(failures, wait, jitter)
        return replace(
            self, failures=failures, since=self.since or now, next_at=now + delay, stopped=False, problem=problem
        )

    def given_up(self, position: str, next_at: float, *, last: bool) -> "Standing":
        """After ``not_taken``: the next event is tried soon, since it may be this one alone that is not taken."""
        return replace(self, next_at=next_at).beyond(position, last=last)

    def is_hopeless(self, schedule: Schedule, at: float, now: float) -> bool:
        """Whether an event of the time ``at`` has waited long enough, and nothing was taken for as long.

        So what waited while no worker ran is not given up at its first try, and an address that is away for days does
        not get a day for each event.
        """
        return now - max(at, self.since or now) >= schedule.give_up
