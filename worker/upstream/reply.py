"""What comes back from the endpoint, reduced to what may be kept (SPEC 4, promise 8).

The documented reply holds the customer's whole file. Parsing goes through a schema that names only the few fields the
verdict needs, so the rest never becomes a Python object that could be logged, stored or shown in a traceback. The
schema is pydantic-core's own, without models around it: those took five times as long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, ValidationError, core_schema

MAX_NAMES = 50
MAX_NAME_LENGTH = 100
MAX_REQUEST_ID_LENGTH = 64
_OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class Reply:
    """A full reply. Its body is never shown."""

    status: int
    body: bytes
    retry_after: str | None = None

    def __repr__(self) -> str:
        return f"Reply(status={self.status}, body=<{len(self.body)} bytes>)"


class NoReply(Enum):
    """Why there is no reply."""

    NOT_SENT = "no connection was made"
    UNANSWERED = "sent, then no full reply: it may have been executed"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is kept of a reply."""

    http_status: int | None = None
    request_id: str | None = None
    missing_field: tuple[str, ...] = ()
    is_wallet_ready: bool | None = None


def _object(*names: str, data: CoreSchema | None = None) -> CoreSchema:
    """An object of which these fields are read and no others.

    They take any value, since the documentation contradicts itself. ``data`` is an object, null, or ``False`` for what
    is neither: nothing in it is looked at, so it must not confirm.
    """
    fields = {name: core_schema.typed_dict_field(core_schema.any_schema(), required=False) for name in names}
    if data is not None:
        or_false = core_schema.with_default_schema(data, default=False, on_error="default")
        fields["data"] = core_schema.typed_dict_field(core_schema.nullable_schema(or_false), required=False)
    return core_schema.typed_dict_schema(fields, extra_behavior="ignore")


_CUSTOMER = ("customer_id", "is_active", "is_wallet_ready", "missing_field")
_INNER = (*_CUSTOMER, "request_id", "success", "status_code")
_ENVELOPE = SchemaValidator(
    _object("status", "message", *_INNER, data=_object(*_INNER, data=_object(*_CUSTOMER))),
    CoreConfig(hide_input_in_errors=True),
)


class Envelope:
    """The reply's JSON object, in any documented shape: fields may sit at the top, in ``data`` or in ``data.data``."""

    __slots__ = ("_said", "_strange", "_top")

    def __init__(self, top: Mapping[str, Any]) -> None:
        """``top`` is what ``_ENVELOPE`` leaves of it."""
        inner = top.get("data")
        innermost = inner.get("data") if inner else None
        self._top = top
        self._strange = inner is False or innermost is False
        self._said: dict[str, list[Any]] = {}
        """For each field the values that are not null, from the innermost place to the outermost."""
        for layer in (innermost, inner, top):
            if layer:
                for name, value in layer.items():
                    if value is not None:
                        self._said.setdefault(name, []).append(value)

    @classmethod
    def parse(cls, body: bytes) -> "Envelope | None":
        """Read a body; ``None`` when it is no JSON object."""
        try:
            return cls(_ENVELOPE.validate_json(body))
        except (ValidationError, RecursionError):
            return None

    @property
    def is_the_api(self) -> bool:
        """Whether it is an object with ``status`` or ``message``, as the API's own replies are."""
        return "status" in self._top or "message" in self._top

    def facts(self, http_status: int) -> Facts:
        """What may be kept."""
        return Facts(
            http_status=http_status,
            request_id=_request_id(self._first("request_id")),
            missing_field=_names(self._first("missing_field")),
            is_wallet_ready=_flag(self._first("is_wallet_ready")),
        )

    def names_another(self, customer_id: str) -> bool:
        """Whether the reply, anywhere, is about a customer that is not the one asked for."""
        return any(str(named) != customer_id for named in self._all("customer_id"))

    def still_active(self) -> bool:
        """Whether the reply says, anywhere and in whatever way, that the customer still is active."""
        return any(value is not False for value in self._all("is_active"))

    def refuses(self) -> bool:
        """Whether ``status`` or any ``success`` is false."""
        return self._top.get("status") is False or any(value is False for value in self._all("success"))

    def confirms(self) -> bool:
        """Whether ``status`` is true, so is ``success`` wherever it is given, and ``data``, if any, is an object."""
        said_yes = self._top.get("status") is True and not self._strange
        return said_yes and all(value is True for value in self._all("success"))

    def inner_status(self) -> Any:
        """The inner ``status_code``: an integer if it can be read as one, else as it stands; ``None`` when absent.

        Of several, the first that is no 2xx: a reply that contradicts itself confirms nothing.
        """
        codes = self._all("status_code")
        for code in map(_code, codes):
            if code not in _OK:
                return code
        return _code(codes[0]) if codes else None

    def _all(self, name: str) -> Sequence[Any]:
        return self._said.get(name, ())

    def _first(self, name: str) -> Any:
        for value in self._said.get(name, ()):
            if value != []:
                return value
        return None


def _code(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 3:
        return int(value)
    return value


def _request_id(value: Any) -> str | None:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return None
    return value[:MAX_REQUEST_ID_LENGTH] or None


def _names(value: Any) -> tuple[str, ...]:
    """``missing_field`` may be a list, a string, null or absent (SPEC 2); anything else in it is passed over."""
    if not value:
        return ()
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    names = (_printable(name)[:MAX_NAME_LENGTH].strip() for name in listed if isinstance(name, str))
    return tuple(name for name in names if name)[:MAX_NAMES]


def _printable(text: str) -> str:
    """Without control characters, and without the semicolon that joins names in a report."""
    return "".join(char for char in text if char.isprintable() and char != ";")


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
