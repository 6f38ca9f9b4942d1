"""What the endpoint answers, in the shapes that its documentation shows (see ``upstream/`` in the specification).

Only the customer ID, the request ID and the time differ between two deletions, so their reply is dumped once, at
import, and filled in for each request.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from itertools import count

import orjson

from worker.simulator.rules import Injection

OTHER_CUSTOMER = "customer_000000000000000000000000000000ff"
"""The customer that a reply of the fault ``other_customer`` names."""

PERSON: dict[str, str | None] = {
    "first_name": "Quillana",
    "last_name": "Featherwick",
    "dob": "1903-02-27",
    "email": "quillana.featherwick@example.org",
    "nationality": "ZZ",
    "address_country": "ZZ",
    "address_state": "UPPER ZEMBLA",
    "address_city": "KINBOTEVILLE",
    "address_line1": "Lavender Steps 17",
    "address_line2": "Third Door",
    "address_zip_code": "ZB-90817",
    "country_of_residence": "ZZ",
    "phone_number": "5550190817",
    "phone_country_code": "+999",
    "phone_number_e164": "+9995550190817",
    "identification_type": "NATIONAL_ID",
    "identification_custom_type": None,
    "identification_value": "ZBL-4471-9083",
}
"""The personal file of every customer: made up, and unlike anything else, so that a test can look for where it went."""

PERSONAL_VALUES: tuple[str, ...] = tuple(
    value for value in PERSON.values() if value is not None and len(value) > 4 and value != "NATIONAL_ID"
)
"""The strings of PERSON that occur nowhere by chance: no file, log or store of a client may contain one."""

_JSON = {"Content-Type": "application/json; charset=utf-8"}
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_request_numbers = count(int.from_bytes(os.urandom(15), "big"))
_PROXY_PAGE = (
    "<html><head><title>{title}</title></head>"
    "<body><center><h1>{title}</h1></center><hr><center>nginx</center></body></html>\n"
)


def _template(*, is_active: bool) -> bytes:
    return orjson.dumps(
        {
            "status": True,
            "message": "OK",
            "data": {
                "request_id": "%b",
                "request_time": "%b",
                "success": True,
                "status_code": 200,
                "status_text": "OK",
                "data": {
                    "customer_id": "%b",
                    "org_id": "org_00000000000000000000000000000001",
                    "type": "individual",
                    "description": "MADE UP BY THE SIMULATOR",
                    "webhook_url": None,
                    "metadata": None,
                    "is_active": is_active,
                    "is_wallet_ready": False,
                    "organization_reference_id": None,
                    "is_gca_enabled": False,
                    "gca_activation_status": "NOT_STARTED",
                    "gca_activated_at": None,
                    "is_sender_validation_enabled": False,
                    "payin_sender_id_list": None,
                    "company_domain": None,
                    "individual": PERSON,
                    "created_by": "api_access_key:AK_SIMULATOR",
                    "created_at": "2024-01-02T03:04:05.006Z",
                    "updated_at": "%b",
                },
            },
        }
    )


_DELETED = _template(is_active=False)
_STILL_ACTIVE = _template(is_active=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def new_request_id() -> str:
    """Return 32 hex digits, as the endpoint gives each request; never the same twice."""
    return f"{next(_request_numbers):032x}"


def deleted(customer_id: str, status: int = 200) -> Reply:
    """The documented reply: the customer's whole file, no longer active."""
    return Reply(status, _JSON, _fill(_DELETED, customer_id))


def still_active(customer_id: str, status: int = 200) -> Reply:
    """The same file, still active: the deletion did not happen, or not yet."""
    return Reply(status, _JSON, _fill(_STILL_ACTIVE, customer_id))


def deleted_with_missing_field(customer_id: str, names: str | tuple[str, ...], shape: str) -> Reply:
    """A confirmed deletion that says what the customer's file lacked."""
    facts = {"is_wallet_ready": False, "missing_field": names}
    if shape == "schema":
        body = _envelope(200, facts)
    else:
        body = _envelope(200, {"data": {"customer_id": customer_id, "is_active": False, **facts}})
    return Reply(200, _JSON, body)


def refused(status: int, message: str | None = None, more: Mapping[str, object] | None = None) -> Reply:
    """An error in the API's envelope; its documentation shows none, so this is the success envelope with ``false``."""
    return Reply(status, _JSON, _envelope(status, more or {}, message))


def customer_not_found() -> Reply:
    """The API's 404: there is no such customer."""
    return refused(404, "Customer not found")


def proxy_page(status: int, **headers: str) -> Reply:
    """An HTML page, as a proxy in front of the API, or the wrong server, would answer."""
    title = f"{status} {_phrase(status)}"
    return Reply(status, {**_HTML, **headers}, _PROXY_PAGE.format(title=title).encode())


def injected(injection: Injection, customer_id: str) -> Reply:
    """The reply of a fault that has one."""
    status = injection.status or injection.kind.status or 200
    if injection.body is not None:
        reply = _with_body(injection.body, status, customer_id)
    else:
        reply = _BUILDERS.get(injection.fault, _plain)(injection, status, customer_id)
    retry_after = injection.retry_after or ("1" if injection.fault == "rate_limited" else None)
    if retry_after is None:
        return reply
    return Reply(reply.status, {**reply.headers, "Retry-After": retry_after}, reply.body)


def _with_body(text: str, status: int, customer_id: str) -> Reply:
    body = text.replace("{customer_id}", customer_id).replace("{request_id}", new_request_id())
    return Reply(status, _JSON if body.lstrip().startswith(("{", "[")) else _HTML, body.encode())


def _plain(_: Injection, status: int, customer_id: str) -> Reply:
    if status in {204, 205, 304}:
        return Reply(status, {}, b"")
    if status < 300:
        return deleted(customer_id, status)
    return refused(status)


def _rejected(injection: Injection, status: int, customer_id: str) -> Reply:
    if injection.missing_field is None:
        return refused(status)
    facts = {"is_wallet_ready": False, "missing_field": injection.missing_field}
    if injection.shape == "example":
        return refused(status, more={"data": {"customer_id": customer_id, **facts}})
    return refused(status, more=facts)


def _deleted_with_missing_field(injection: Injection, _: int, customer_id: str) -> Reply:
    names = ("tax_id",) if injection.missing_field is None else injection.missing_field
    return deleted_with_missing_field(customer_id, names, injection.shape or "schema")


def _unreadable(injection: Injection, status: int, customer_id: str) -> Reply:
    if injection.shape == "truncated":
        body = deleted(customer_id).body
        return Reply(status, _JSON, body[: len(body) // 2])
    return proxy_page(status)


def _redirect(injection: Injection, status: int, customer_id: str) -> Reply:
    # Followed, it would delete somebody else, which the log then shows.
    return proxy_page(status, Location=injection.location or f"{customer_id}_moved")


_BUILDERS: dict[str, Callable[[Injection, int, str], Reply]] = {
    "rejected": _rejected,
    "deleted_with_missing_field": _deleted_with_missing_field,
    "unreadable": _unreadable,
    "absent": lambda *_: customer_not_found(),
    "still_active": lambda _, status, customer_id: still_active(customer_id, status),
    "accepted": lambda _, status, __: Reply(status, _JSON, _envelope(status, {}, "Accepted")),
    "other_customer": lambda *_: deleted(OTHER_CUSTOMER),
    "redirect": _redirect,
    "not_the_api": lambda _, status, __: proxy_page(status),
}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"


def _now() -> str:
    return _rfc3339(time.time_ns() // 1_000_000)


@lru_cache(maxsize=1)  # many requests share a millisecond
def _rfc3339(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def _envelope(status: int, more: Mapping[str, object], message: str | None = None) -> bytes:
    success = status < 300
    data = {
        "request_id": new_request_id(),
        "request_time": _now(),
        "success": success,
        "status_code": status,
        "status_text": "OK" if status == 200 else _phrase(status).upper().replace(" ", "_"),
        **more,
    }
    return orjson.dumps({"status": success, "message": message or _phrase(status), "data": data})


def _fill(template: bytes, customer_id: str) -> bytes:
    # An ID is of [A-Za-z0-9_-] here, so it needs no escape in JSON.
    now = _now().encode()
    return template % (new_request_id().encode(), now, customer_id.encode(), now)
