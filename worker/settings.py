"""Settings: environment variables with the prefix ``EXPUNGE_``, an ``.env`` file, secrets also from files (SPEC 7).

Built once in the entry points and handed down as plain values.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from os import environ
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import jsonpath
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker.domain import callbacks, sentinels
from worker.domain.addresses import is_loopback
from worker.domain.batches import Environment, Target
from worker.domain.brakes import LEAST, Brakes
from worker.domain.callbacks import Callback
from worker.domain.customer_ids import DEFAULT_PATTERN, IdRule
from worker.domain.errors import SettingsError
from worker.domain.identities import SUBJECT, RoleRule, SignOn
from worker.domain.people import ApprovalRule
from worker.domain.rates import Rate
from worker.domain.rules import Rules
from worker.domain.sentinels import SentinelAddress

PREFIX = "EXPUNGE_"
_LONGEST_SHOWN = 200
_CANARY = 20  # records, in production (SPEC 6)
_SHORTEST_SECRET = 24  # bytes, by Standard Webhooks
_ALIKE = 0.85  # of difflib: one or two letters
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/.*?)??/?"
)
_HEADERS_FORM = "must be headers written as 'Name: value', several joined by ';', or as one JSON object"
_OWN_HEADERS = {"x-merchant-identifier-id", "x-type", "idempotency-key", "host", "content-length", "transfer-encoding"}


_SIGN_ON = ("oidc_issuer", "oidc_client_id", "oidc_roles", "web_url")
"""Settings that are needed for sign-in by an identity provider, all of them."""


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


def _event_secrets(value: Any) -> Any:
    """Secrets of Standard Webhooks; its package would read another key out of what is not quite base64."""
    if not isinstance(value, str):
        return value
    found = value.replace(",", " ").split()
    for secret in found:
        text = secret.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            key = b""
        if text == secret or len(key) < _SHORTEST_SECRET:
            raise ValueError(
                f"must be whsec_ and base64 of at least {_SHORTEST_SECRET} bytes, several joined by ','; "
                'make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
    return frozenset(map(SecretStr, found))


def _json_path(text: str) -> str:
    try:
        jsonpath.compile(text)
    except jsonpath.JSONPathError as error:
        problem = str(error).splitlines()[0]
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
        callbacks.read_secret(secret.get_secret_value())
    return secrets


class Settings(BaseSettings):
    """Every setting, its default and what it is for; ``docs/settings.md`` says the same in prose."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    redis_url: Annotated[SecretStr | None, AfterValidator(lambda url: _redis_url(url) if url else None)] = Field(
        None, description="Redis 7+ or Valkey 8+, results store and broker; unset: `run` starts an embedded server"
    )
    broker_url: Annotated[SecretStr | None, AfterValidator(lambda url: _redis_url(url) if url else None)] = Field(
        None, description="Celery's broker, if not the Redis of EXPUNGE_REDIS_URL"
    )
    replicas: NonNegativeInt = Field(
        0, le=10, description="replicas that must have acknowledged what is written, so that a failover loses nothing"
    )
    upstream_url: str | None = Field(
        None, description="base address of the payments API, such as https://api.example.com"
    )
    upstream_name: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="stands for the upstream in place of its address"
    )
    upstream_path: Annotated[str, AfterValidator(_path_template)] = Field(
        "/customer/customer/{customer_id}", description="path of *Delete customer* below the base address"
    )
    upstream_headers: Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_headers)] = Field(
        default_factory=dict, description="further headers, as `Name: value`, joined by `;`; secret"
    )
    upstream_ca_file: FilePath | None = Field(
        None, description="PEM file of the authority that signed the upstream's certificate"
    )
    upstream_allow_http: bool = Field(False, description="allow an http:// address that is not on this machine")
    merchant_id: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,128}$", description="sent as X-Merchant-Identifier-Id")
    environment: Environment = Field(Environment.SANDBOX, description="`sandbox` or `production`, sent as X-Type")
    rate_limit: Annotated[Rate, NoDecode, BeforeValidator(_rate)] = Field(
        Rate.parse("50/s"), description="for all workers together: a number per `s`, `m` or `h`; several joined by `,`"
    )
    concurrency: PositiveInt = Field(64, le=1000, description="requests in flight per worker process")
    timeout: PositiveFloat = Field(
        10.0, le=120, description="seconds for one attempt, from connecting to the last byte"
    )
    max_attempts: PositiveInt = Field(5, le=100, description="attempts for one record")
    shard_size: PositiveInt = Field(250, le=500, description="records in one Celery message")
    max_batch: PositiveInt = Field(1_000_000, description="most rows in one batch")
    failure_threshold: PositiveFloat = Field(
        0.5, le=1, description="share of rejected, failed and unknown records that pauses a batch"
    )
    not_found_threshold: PositiveFloat = Field(0.5, le=1, description="the same of `not_found`")
    canary: NonNegativeInt | None = Field(
        None, lt=LEAST, description="records that run alone before the rest; unset: 20 in production, 0 in sandbox"
    )
    approval_above: NonNegativeInt | None = Field(
        None, description="batches of more rows wait for the approval of somebody other than their submitter"
    )
    approval_in_production: bool = Field(False, description="whether all batches of production wait for approval")
    token: SecretStr | None = Field(None, description="shows that the name of `--as` is yours; secret")
    retention_days: PositiveInt = Field(30, description="days after its end that a batch is kept")
    ledger_days: NonNegativeInt = Field(
        365, description="days that a deletion is remembered, as a keyed digest; 0: never"
    )
    digest_key: SecretStr | None = Field(
        None, description="key of the digests in ledger and logs; unset: made and kept in Redis"
    )
    id_pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        DEFAULT_PATTERN, description="regular expression that a whole customer ID must match"
    )
    max_upload: PositiveInt = Field(256 << 20, description="most bytes of a file that is sent to `expunge web`")
    web_rate_limit: Annotated[Rate, NoDecode, BeforeValidator(_rate)] = Field(
        Rate.parse("50/s"), description="requests to `expunge web` for one token"
    )
    event_types: Annotated[frozenset[str], NoDecode, BeforeValidator(_words)] = Field(
        frozenset(), description="types of CloudEvents that ask for a deletion, joined by `,`"
    )
    event_customers: Annotated[str, AfterValidator(_json_path)] = Field(
        "$.customer_id", description="JSONPath (RFC 9535) of the customer IDs within an event's data"
    )
    event_secrets: Annotated[frozenset[SecretStr], NoDecode, BeforeValidator(_event_secrets)] = Field(
        frozenset(), description="secrets of Standard Webhooks by which events over HTTP are signed, joined by `,`"
    )
    event_batch_size: PositiveInt = Field(
        10_000, description="most records of a rolling batch; never more than EXPUNGE_MAX_BATCH"
    )
    event_batch_age: PositiveFloat = Field(
        300.0, le=86_400, description="seconds after which a rolling batch takes no more events"
    )
    web_url: str | None = Field(None, description="where browsers find `expunge web`, for sign-in by a provider")
    oidc_issuer: str | None = Field(None, description="identity provider (OpenID Connect) by which people sign in")
    oidc_client_id: str | None = Field(None, description="what the provider calls `expunge web`")
    oidc_client_secret: SecretStr | None = Field(None, description="shows the provider that it is that; secret")
    oidc_roles: Annotated[RoleRule | None, NoDecode, BeforeValidator(_roles)] = Field(
        None, description="claim and values that mean roles: `CLAIM: ROLE=VALUE; ROLE=VALUE`"
    )
    oidc_name_claim: str = Field(SUBJECT, min_length=1, description="claim that people are called by")
    oidc_scopes: str = Field(
        "openid profile", pattern=r"^(.* )?openid( .*)?$", description="what the provider is asked for"
    )
    callback_urls: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_several)] = Field(
        (), description="addresses that are told what becomes of batches; secret"
    )
    callback_secrets: Annotated[
        tuple[SecretStr, ...], NoDecode, BeforeValidator(_several), AfterValidator(_secrets)
    ] = Field((), description="`whsec_...`, each of which signs what is told; secret")
    callback_allow_private: bool = Field(False, description="allow callbacks to addresses that are not public")
    home: Path = Field(Path(".expunge"), description="folder of the embedded server's data")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="`debug`, `info`, `warning` or `error`"
    )

    @model_validator(mode="after")
    def _upstream_is_safe(self) -> "Settings":
        if self.upstream_url is not None:
            _check_address(
                "upstream_url",
                self.upstream_url,
                "https://api.example.com",
                allowed_by=None if self.upstream_allow_http else f"{PREFIX}UPSTREAM_ALLOW_HTTP=true",
            )
        return self

    @model_validator(mode="after")
    def _sign_on_is_whole_and_safe(self) -> "Settings":
        missing = [f"{PREFIX}{name.upper()}" for name in _SIGN_ON if getattr(self, name) is None]
        if len(missing) == len(_SIGN_ON) and self.oidc_client_secret is None:
            return self
        if missing:
            raise ValueError(f"{' and '.join(missing)}: not set; sign-in by an identity provider needs all or none")
        _check_address("oidc_issuer", self.oidc_issuer or "", "https://id.example.com/realms/main")
        if _check_address("web_url", self.web_url or "", "https://expunge.example.com"):
            raise ValueError(f"{PREFIX}WEB_URL: {_quoted(self.web_url or '')}: must be an address without a path")
        return self

    @model_validator(mode="after")
    def _events_have_types(self) -> "Settings":
        if self.event_secrets and not self.event_types:
            raise ValueError(
                "EXPUNGE_EVENT_TYPES: must name the types of events that are taken, since EXPUNGE_EVENT_SECRETS is set"
            )
        return self

    @model_validator(mode="after")
    def _callbacks_can_be_told(self) -> "Settings":
        if self.callbacks and not self.callback_secrets:
            raise ValueError(
                "EXPUNGE_CALLBACK_SECRETS: must be set, since EXPUNGE_CALLBACK_URLS is: whsec_ and 24 to 64 "
                "random bytes in base 64, by which receivers know that it is you"
            )
        if len(self.callbacks) > callbacks.MOST:
            raise ValueError(f"EXPUNGE_CALLBACK_URLS: must be at most {callbacks.MOST} addresses")
        return self

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Whom to tell what becomes of batches."""
        return tuple(self._callback(number, url) for number, url in enumerate(self.callback_urls, 1))

    def _callback(self, number: int, url: SecretStr) -> Callback:
        try:
            return Callback.parse(url.get_secret_value(), allow_private=self.callback_allow_private)
        except ValueError as error:
            of_several = f"no. {number} of {len(self.callback_urls)}: " if len(self.callback_urls) > 1 else ""
            raise ValueError(f"EXPUNGE_CALLBACK_URLS: {of_several}{error}") from None

    @property
    def callback_keys(self) -> tuple[bytes, ...]:
        """What signs the callbacks."""
        return tuple(callbacks.read_secret(secret.get_secret_value()) for secret in self.callback_secrets)

    @property
    def target(self) -> Target:
        """Whose customers, in which world, by which upstream; of the latter only a digest leaves the settings."""
        named = self.upstream_name or (self.upstream_prefix if self.upstream_url is not None else "")
        upstream = hashlib.sha256(named.encode()).hexdigest()[:12] if named else ""
        return Target(self.environment, self.merchant_id, upstream)

    def brakes(self, environment: Environment) -> Brakes:
        """Where the brakes of new batches are set."""
        canary = self.canary
        if canary is None:
            canary = _CANARY if environment is Environment.PRODUCTION else 0
        return Brakes(self.failure_threshold, self.not_found_threshold, canary)

    @property
    def approval(self) -> ApprovalRule:
        """Which batches wait for approval."""
        return ApprovalRule(self.approval_above, self.approval_in_production)

    @property
    def rules(self) -> Rules:
        """Under what a file becomes a batch of this merchant, environment and upstream."""
        brakes = self.brakes(self.environment)
        return Rules(self.target, self.shard_size, self.approval, brakes, self.id_rule, self.max_batch)

    @property
    def id_rule(self) -> IdRule:
        """Which IDs are accepted."""
        return IdRule.of(self.id_pattern)

    @property
    def sign_on(self) -> SignOn | None:
        """How people sign in by an identity provider; ``None`` if they do not."""
        if self.oidc_issuer is None or self.oidc_client_id is None or self.oidc_roles is None or self.web_url is None:
            return None
        secret = self.oidc_client_secret
        return SignOn(
            self.oidc_issuer,
            self.oidc_client_id,
            secret.get_secret_value() if secret is not None else None,
            self.oidc_roles,
            self.oidc_name_claim,
            self.oidc_scopes,
            self.web_url.rstrip("/"),
        )

    @property
    def upstream_prefix(self) -> str:
        """Everything before the ID in a request's URL; an upstream must be set."""
        if self.upstream_url is None:
            raise SettingsError(NO_UPSTREAM)
        return self.upstream_url.rstrip("/") + self.upstream_path.removesuffix("{customer_id}")


NO_UPSTREAM = (
    "no upstream is set: set EXPUNGE_UPSTREAM_URL to the address of the payments API, or use --simulate for a rehearsal"
)


def _check_address(name: str, url: str, example: str, *, allowed_by: str | None = "") -> str:
    """Refuse an address that would send to another place than it seems to, or in the clear (SPEC 2).

    ``allowed_by`` sets what allows ``http://``: ``None`` if it is allowed. Returns the path without its last slash.
    """
    variable = f"{PREFIX}{name.upper()}"
    match = _ADDRESS.fullmatch(url)
    if match is None or int(match["port"] or 1) > 65535 or not _is_plain_path(match["path"] or ""):
        raise ValueError(
            f"{variable}: {'' if '@' in url else _quoted(url) + ': '}must be an address such as "
            f"{example}, without user, query or '#'"
        )
    if match["scheme"] == "http" and allowed_by is not None and not is_loopback(match["host"].strip("[]")):
        way = f", or set {allowed_by} if the network is trusted" if allowed_by else ""
        raise ValueError(f"{variable}: {_quoted(url)}: http:// would send credentials in the clear; use https://{way}")
    return match["path"] or ""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, ``.env`` and ``EXPUNGE_SECRETS_DIR``; overrides, if not ``None``, come first.

    Raises ``SettingsError``: one line a variable, with its value unless it is secret, and what it should be.
    """
    secrets = environ.get(f"{PREFIX}SECRETS_DIR") or None
    if secrets is not None and not Path(secrets).is_dir():
        raise SettingsError(f"{PREFIX}SECRETS_DIR: '{secrets}' is not a folder")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        _refuse_misspelt([*environ, *DotEnvSettingsSource(Settings).env_vars])
        return Settings(_secrets_dir=secrets, **given)
    except ValidationError as error:
        raise SettingsError("; ".join(_lines(error.errors(include_url=False), given))) from None
    except (SourceError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings cannot be read: {error}") from None


def _refuse_misspelt(variables: Iterable[str]) -> None:
    """A guard that was set with a slip in its name would not be there. Other names may be a newer version's."""
    known = [*map(str.upper, Settings.model_fields), "SECRETS_DIR"]
    names = {name.upper().removeprefix(PREFIX) for name in variables if name.upper().startswith(PREFIX)}
    for name in sorted(names.difference(known)):
        if near := get_close_matches(name, known, n=1, cutoff=_ALIKE):
            raise SettingsError(f"{PREFIX}{name}: there is no such setting; {PREFIX}{near[0]} is meant, most likely")


_OPTIONS = {"rate_limit": "--rate", "merchant_id": "--merchant", "environment": "--environment"}
"""Settings that the command line sets as well."""


def _lines(errors: Iterable[ErrorDetails], given: dict[str, Any]) -> Iterable[str]:
    for error in errors:
        message = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            yield message
            continue
        name = str(error["loc"][0]).lower().removeprefix(PREFIX.lower())
        label = _OPTIONS.get(name, name) if name in given else f"{PREFIX}{name.upper()}"
        yield f"{label}: {_shown(name, error)}{message[:1].lower()}{message[1:]}"


def _shown(name: str, error: ErrorDetails) -> str:
    field = Settings.model_fields.get(name)
    if field is None or "Secret" in str(field.annotation) or "input" not in error:
        return ""
    return f"{_quoted(str(error['input']))}: "


def _quoted(value: str) -> str:
    """A value on one line."""
    return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")
