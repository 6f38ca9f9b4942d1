"""What comes back from the endpoint, reduced to what may be kept (SPEC 4, promise 8).

The documented reply holds the customer's whole file. Parsing goes through models that name only the few fields the
verdict needs, so the rest never becomes a Python object that could be logged, stored or shown in a traceback.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator

MAX_NAMES = 50
MAX_NAME_LENGTH = 100
MAX_REQUEST_ID_LENGTH = 64


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


class _Lenient(BaseModel):
    """Ignores unknown fields; takes any value for the known ones, since the documentation contradicts itself."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _or_false(value: Any, handler: Callable[[Any], Any]) -> Any:
    """An object, null, or ``False`` for what is neither: nothing in it is looked at, so it must not confirm."""
    try:
        return handler(value)
    except ValidationError:
        return False


class _Customer(_Lenient):
    customer_id: Any = None
    is_active: Any = None
    is_wallet_ready: Any = None
    missing_field: Any = None


class _Inner(_Customer):
    request_id: Any = None
    success: Any = None
    status_code: Any = None
    data: Annotated[_Customer | Literal[False] | None, WrapValidator(_or_false)] = None


class Envelope(_Inner):
    """The reply's JSON object, in any documented shape: fields may sit at the top, in ``data`` or in ``data.data``."""

    status: Any = None
    message: Any = None
    data: Annotated[_Inner | Literal[False] | None, WrapValidator(_or_false)] = None

    @classmethod
    def parse(cls, body: bytes) -> "Envelope | None":
        """Read a body; ``None`` when it is no JSON object."""
        try:
            return cls.model_validate_json(body)
        except (ValidationError, RecursionError):
            return None

    @property
    def is_the_api(self) -> bool:
        """Whether it is an object with ``status`` or ``message``, as the API's own replies are."""
        return bool({"status", "message"} & self.model_fields_set)

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
        return self.status is False or any(value is False for value in self._all("success"))

    def confirms(self) -> bool:
        """Whether ``status`` is true, so is ``success`` wherever it is given, and ``data``, if any, is an object."""
        strange = self.data is False or (self.data is not None and self.data.data is False)
        return self.status is True and not strange and all(value is True for value in self._all("success"))

    def inner_status(self) -> Any:
        """The inner ``status_code``: an integer if it can be read as one, else as it stands; ``None`` when absent.

        Of several, the first that is no 2xx: a reply that contradicts itself confirms nothing.
        """
        codes = [_code(value) for value in self._all("status_code")]
        for code in codes:
            if code not in range(200, 300):
                return code
        return codes[0] if codes else None

    @cached_property
    def _said(self) -> dict[str, list[Any]]:
        """For each field the values that are not null, from the innermost place to the outermost."""
        inner = self.data
        said: dict[str, list[Any]] = {}
        for layer in (inner.data if inner else None, inner, self):
            if layer:
                for name, value in vars(layer).items():
                    if value is not None:
                        said.setdefault(name, []).append(value)
        return said

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
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    names = (_printable(name)[:MAX_NAME_LENGTH].strip() for name in listed if isinstance(name, str))
    return tuple(name for name in names if name)[:MAX_NAMES]


def _printable(text: str) -> str:
    """Without control characters, and without the semicolon that joins names in a report."""
    return "".join(char for char in text if char.isprintable() and char != ";")


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
