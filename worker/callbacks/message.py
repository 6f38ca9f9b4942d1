"""What is sent: a CloudEvent in structured mode (CloudEvents 1.0), signed as Standard Webhooks say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cloudevents.core.bindings.http import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

from worker.domain.batches import Target


@dataclass(frozen=True, slots=True)
class Message:
    """A body, and the headers that belong to it."""

    id: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def envelope(
    message_id: str, kind: str, target: Target, at: float, data: dict[str, Any], subject: str | None = None
) -> Message:
    """An event that is not signed yet; ``at`` is when it happened. No '.' in the ID: it parts what is signed."""
    attributes: dict[str, Any] = {
        "id": message_id,
        "type": kind,
        "source": "/".join(filter(None, ("/expunge", target.environment.value, target.merchant))),
        "time": datetime.fromtimestamp(at, UTC),
        "datacontenttype": "application/json",
    }
    if subject is not None:
        attributes["subject"] = subject
    structured = to_structured(CloudEvent(attributes, data), JSONFormat())
    return Message(message_id, structured.body, structured.headers)


class Signer:
    """Signs with every key there is, so that receivers with the old one and those with the new one both are content."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._webhooks = [Webhook(key) for key in keys]

    def sign(self, message: Message, now: float) -> Message:
        """The message with its signatures; ``now`` is when it is sent, which receivers compare with their clocks."""
        sent = datetime.fromtimestamp(int(now), UTC)  # the library reads any other zone as if it were UTC
        text = message.body.decode()
        signed = {
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": " ".join(each.sign(message.id, sent, text) for each in self._webhooks),
        }
        return Message(message.id, message.body, {**message.headers, **signed})
