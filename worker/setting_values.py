"""How the value of a setting is read from a text; raises ``ValueError``, whose text says what it should be."""

import json
import re
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from worker.domain import sentinels
from worker.domain.addresses import is_loopback
from worker.domain.callbacks import read_secret
from worker.domain.customer_ids import IdRule
from worker.domain.identities import RoleRule
from worker.domain.rates import Rate
from worker.domain.sentinels import SentinelAddress

PREFIX = "EXPUNGE_"
_LONGEST_SHOWN = 200
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/.*?)??/?"
)
_HEADERS_FORM = "must be headers written as 'Name: value', several joined by ';', or as one JSON object"
_OWN_HEADERS = {"x-merchant-identifier-id", "x-type", "idempotency-key", "host", "content-length", "transfer-encoding"}


def _rate(value: Any) -> Any:
    return Rate.parse(value) if isinstance(value, str) else value


def _roles(value: Any) -> Any:
    return RoleRule.parse(value) if isinstance(value, str) else value


def _pattern(text: str) -> str:
    try:
        IdRule.of(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _words(value: Any) -> Any:
    return frozenset(value.replace(",", " ").split()) if isinstance(value, str) else value


def _json_path(text: str) -> str:
    """A query of RFC 9535; the library's own reading would take more, and a name alone as a path."""
    import jsonpath  # noqa: PLC0415 - takes a while, and few set one

    try:
        jsonpath.compile(text, strict=True)
    except jsonpath.JSONPathError as error:
        problem = error.args[0] if text.startswith("$") else "it must begin with $"
        raise ValueError(f"is no JSONPath: {problem}; write it like $.customer_id or $.customers[*].id") from None
    return text


def _path_template(text: str) -> str:
    prefix = text.removesuffix("{customer_id}")
    if prefix == text or not prefix.endswith("/") or not _is_plain_path(prefix[:-1]):
        raise ValueError("must be a path that ends with /{customer_id}, such as /customer/customer/{customer_id}")
    return text


def _is_plain_path(path: str) -> bool:
    """Whether no URL parser would read it as another path."""
    return _PATH.fullmatch(path) is not None and {".", ".."}.isdisjoint(path.split("/"))


def _redis_url(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if url.startswith(sentinels.SCHEME):
        SentinelAddress.parse(url)
        return secret
    try:
        parts = urlsplit(url)
        known, _ = parts.scheme in ("redis", "rediss", "unix"), parts.port
    except ValueError:  # its text holds the password
        known = False
    if not known:
        raise ValueError("must be an address that begins with redis://, rediss://, unix:// or sentinel://")
    return secret


def _headers(value: Any) -> Any:
    """``Name: value`` pairs, one a line or joined by ``;``; or one JSON object."""
    if not isinstance(value, str):
        return value
    headers: dict[str, SecretStr] = {}
    for name, content in _header_pairs(value):
        if not _HEADER_NAME.fullmatch(name) or not content or not content.isascii() or not content.isprintable():
            raise ValueError(_HEADERS_FORM)
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"must not set {name}, which Expunge sets itself")
        headers[name] = SecretStr(content)
    return headers


def _header_pairs(text: str) -> list[tuple[str, str]]:
    if text.lstrip().startswith("{"):
        try:
            pairs = list(json.loads(text).items())
        except ValueError:
            raise ValueError(_HEADERS_FORM) from None
        if not all(isinstance(content, str) for _, content in pairs):
            raise ValueError(_HEADERS_FORM)
        return pairs
    parts = [part.partition(":") for part in re.split(r"[\n;]", text) if part.strip()]
    return [(name.strip(), content.strip()) for name, _, content in parts]


def _several(value: Any) -> Any:
    """What is joined by spaces, commas or line ends; each of it once."""
    if not isinstance(value, str):
        return value
    return tuple(SecretStr(each) for each in dict.fromkeys(re.split(r"[\s,]+", value)) if each)


def _secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for secret in secrets:
        read_secret(secret.get_secret_value())
    return secrets


RedisUrl: TypeAlias = Annotated[SecretStr | None, AfterValidator(lambda url: _redis_url(url) if url else None)]
PathTemplate: TypeAlias = Annotated[str, AfterValidator(_path_template)]
Headers: TypeAlias = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_headers)]
RateText: TypeAlias = Annotated[Rate, NoDecode, BeforeValidator(_rate)]
Pattern: TypeAlias = Annotated[str, AfterValidator(_pattern)]
Words: TypeAlias = Annotated[frozenset[str], NoDecode, BeforeValidator(_words)]
JsonPath: TypeAlias = Annotated[str, AfterValidator(_json_path)]
Roles: TypeAlias = Annotated[RoleRule | None, NoDecode, BeforeValidator(_roles)]
Secrets: TypeAlias = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_several)]
WebhookSecrets: TypeAlias = Annotated[Secrets, AfterValidator(_secrets)]


def check_address(name: str, url: str, example: str, *, allowed_by: str | None = "") -> str:
    """Refuse an address that would send to another place than it seems to, or in the clear (SPEC 2).

    ``allowed_by`` sets what allows ``http://``: ``None`` if it is allowed. Returns the path without its last slash.
    """
    variable = f"{PREFIX}{name.upper()}"
    match = _ADDRESS.fullmatch(url)
    if match is None or int(match["port"] or 1) > 65535 or not _is_plain_path(match["path"] or ""):
        raise ValueError(
            f"{variable}: {'' if '@' in url else quoted(url) + ': '}must be an address such as "
            f"{example}, without user, query or '#'"
        )
    if match["scheme"] == "http" and allowed_by is not None and not is_loopback(match["host"].strip("[]")):
        way = f", or set {allowed_by} if the network is trusted" if allowed_by else ""
        raise ValueError(f"{variable}: {quoted(url)}: http:// would send credentials in the clear; use https://{way}")
    return match["path"] or ""


def quoted(value: str) -> str:
    """A value on one line."""
    return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")
