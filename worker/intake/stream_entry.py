"""Entries of a Redis Stream into events (SPEC 8): a CloudEvent in one field, or one customer in flat fields."""

import json
from collections.abc import Sequence
from typing import Final

from worker.domain.events import BadEventError, Event, EventRule
from worker.intake.cloud_events import CloudEventReader

LARGEST: Final = 256 << 10
"""Bytes of an entry, names and values of its fields together."""
EVENT: Final = "event"
"""The one field of an entry that holds a CloudEvent as JSON."""
FLAT: Final = ("customer_id", "id", "source", "reference", "due", "lane")
"""The fields of any other."""
_EVENT = EVENT.encode()
_FLAT = frozenset(name.encode() for name in FLAT)


class EntryReader:
    """Reads entries, whose fields are given as Redis has them: name, value, name, value."""

    def __init__(self, cloud_events: CloudEventReader, rule: EventRule) -> None:
        self._cloud_events = cloud_events
        self._rule = rule

    def read(self, stream: str, entry_id: str, fields: Sequence[bytes]) -> Event:
        """The event of an entry; raises ``BadEventError``.

        Without an ID of its own it is known by the stream and the entry's, which a redelivery has as well.
        """
        size = sum(map(len, fields))
        if size > LARGEST:
            raise BadEventError(f"it has {size:,} bytes; at most {LARGEST:,} are taken")
        if len(fields) == 2 and fields[0] == _EVENT:
            return self._cloud_events.structured(fields[1])
        return self._flat(stream, entry_id, fields)

    def _flat(self, stream: str, entry_id: str, fields: Sequence[bytes]) -> Event:
        names = fields[::2]
        if not _FLAT.issuperset(names):  # which one is not said: it may be a customer
            raise BadEventError(f"its fields must be {EVENT} alone, or some of {', '.join(FLAT)}")
        try:
            said = {name.decode(): value.decode() for name, value in zip(names, fields[1::2], strict=True)}
        except UnicodeDecodeError:
            raise BadEventError("it is not UTF-8") from None
        if len(said) < len(names):
            raise BadEventError("it has a field twice; an entry names one customer")
        source, event_id, customer = said.get("source"), said.get("id"), said.get("customer_id")
        if not event_id:
            event_id = f"{stream}/{entry_id}" if source else entry_id
        return self._rule.event(source or stream, event_id, [customer] if customer else [], said)


def kept(fields: Sequence[bytes]) -> bytes:
    """An entry as a dead letter keeps it: a CloudEvent as it came, other fields as a JSON array.

    What is no UTF-8 comes back as it was: with other bytes in place of it, two events could become one. Nothing is kept
    of an entry that is too large.
    """
    if sum(map(len, fields)) > LARGEST:
        return b""
    if len(fields) == 2 and fields[0] == _EVENT:
        return fields[1]
    return json.dumps([part.decode(errors="surrogateescape") for part in fields]).encode()


def restored(content: bytes) -> list[bytes]:
    """The fields of an entry that a dead letter kept."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) % 2 == 0 and all(isinstance(part, str) for part in found):
        return [part.encode(errors="surrogateescape") for part in found]
    return [_EVENT, content]
