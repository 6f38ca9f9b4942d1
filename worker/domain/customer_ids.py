"""Customer IDs (SPEC 2): which are accepted, and how they are named where the ID itself must not appear."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_PATTERN = "[A-Za-z0-9_-]{1,128}"
_DEFAULT = re.compile(DEFAULT_PATTERN)
_PATH_SAFE = re.compile(r"[A-Za-z0-9._~-]+")  # RFC 3986 unreserved: the only characters no URL parser rewrites


@dataclass(frozen=True, slots=True)
class IdRule:
    """Accepts an ID only if it matches the whole pattern and cannot change which resource a DELETE hits."""

    pattern: re.Pattern[str]

    @classmethod
    def of(cls, pattern: str = DEFAULT_PATTERN) -> "IdRule":
        """Compile the pattern; raises ``re.error`` when it is no regular expression."""
        return cls(_DEFAULT if pattern == DEFAULT_PATTERN else re.compile(pattern))

    def accepts(self, customer_id: str) -> bool:
        """Whether the ID may be put into a request path.

        A pattern from the settings can narrow what is safe but never widen it: ``/ ? # %``, control characters and
        the segments ``.`` and ``..`` are refused whatever it says.
        """
        if self.pattern.fullmatch(customer_id) is None:
            return False
        if self.pattern is _DEFAULT:  # accepts nothing that would be unsafe
            return True
        return _PATH_SAFE.fullmatch(customer_id) is not None and customer_id not in (".", "..")


USUAL_IDS = IdRule.of()


class Digester:
    """Keyed digests of customer IDs: for the ledger (10 bytes) and for logs (8 hex digits)."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes, scope: str) -> None:
        """``scope`` keeps equal IDs of different merchants or environments apart."""
        self._keyed = hmac.new(key, scope.encode() + b"\0", hashlib.sha256)

    def ledger(self, customer_id: str) -> bytes:
        """12 bytes: two that choose a bucket, ten that are its field."""
        return self._digest(customer_id)[:12]

    def event(self, source: str, event_id: str) -> bytes:
        """12 bytes as of the ledger, that stand for an event."""
        return self._digest(f"event\0{len(source)}\0{source}{event_id}")[:12]

    def customers(self, customer_ids: Iterable[str]) -> bytes:
        """6 bytes that stand for some customers, in whatever order they are named."""
        return self._digest("\0".join(["customers", *sorted(set(customer_ids))]))[:6]

    def log(self, customer_id: str) -> str:
        """A short name of the customer for log lines, not to be turned back into the ID without the key."""
        return self._digest(customer_id)[-4:].hex()

    def idempotency_key(self, customer_id: str, batch_id: str) -> str:
        """The same for every attempt of a record, another in every batch; 32 hex digits."""
        return self._digest(f"{batch_id}\0{customer_id}")[:16].hex()

    def _digest(self, text: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(text.encode("utf-8", "surrogatepass"))
        return keyed.digest()
