"""A system that sends events as any would: with the packages ``cloudevents`` and ``standardwebhooks`` alone."""

import base64
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

CLOSED = "com.example.account.closed"
PATH = "/v1/events"
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"


def make_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def cloud_event(event_id: str, customer_id: str | None = None, **attributes: Any) -> CloudEvent:
    """Of a customer, by default the one of the event's own name."""
    return CloudEvent(
        {"id": event_id, "source": "/crm", "type": CLOSED, **attributes}, {"customer_id": customer_id or event_id}
    )


def signature(secret: str, body: bytes, message_id: str = "m1", at: datetime | None = None) -> dict[str, str]:
    """The headers of Standard Webhooks."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
    }


def structured(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    message = to_structured(event, JSONFormat())
    return message.headers, message.body


def binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    message = to_binary(event, JSONFormat())
    return message.headers, message.body


def batched(*events: CloudEvent) -> tuple[dict[str, str], bytes]:
    """The package has no such mode: a JSON array of structured events."""
    body = b"[" + b",".join(structured(event)[1] for event in events) + b"]"
    return {"content-type": BATCHED}, body


def request(secret: str, message: tuple[Mapping[str, str], bytes], message_id: str = "m1") -> dict[str, Any]:
    """Headers and content of a signed request."""
    headers, body = message
    return {"headers": {**headers, **signature(secret, body, message_id)}, "content": body}


def raw(secret: str, body: bytes, **headers: str) -> dict[str, Any]:
    """A signed request with any body, structured unless another type is given."""
    given = {"content-type": STRUCTURED} | {name.replace("_", "-"): value for name, value in headers.items()}
    return {"headers": given | signature(secret, body), "content": body}


def answers(response: httpx.Response) -> list[dict[str, str]]:
    """What became of each event of a request that must have been taken."""
    assert response.status_code == 202, response.text
    found: list[dict[str, str]] = json.loads(response.content)["events"]
    return found
