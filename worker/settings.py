"""Settings: environment variables with the prefix ``EXPUNGE_``, an ``.env`` file, secrets also from files (SPEC 7).

Built once in the entry points and handed down as plain values.
"""

import hashlib
from collections.abc import Iterable
from difflib import get_close_matches
from os import environ
from pathlib import Path
from typing import Any

from pydantic import (
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
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from worker.domain.batches import Environment, Target
from worker.domain.brakes import LEAST, Brakes
from worker.domain.callbacks import MOST, Callback, read_secret
from worker.domain.customer_ids import DEFAULT_PATTERN, IdRule
from worker.domain.errors import SettingsError
from worker.domain.identities import SUBJECT, SignOn
from worker.domain.people import ApprovalRule
from worker.domain.rates import Rate
from worker.domain.rules import Rules
from worker.setting_values import (
    PREFIX,
    Headers,
    JsonPath,
    PathTemplate,
    Pattern,
    RateText,
    RedisUrl,
    Roles,
    Secrets,
    WebhookSecrets,
    Words,
    check_address,
    quoted,
)

_CANARY = 20  # records, in production (SPEC 6)
_ALIKE = 0.85  # of difflib: one or two letters


_SIGN_ON = ("oidc_issuer", "oidc_client_id", "oidc_roles", "web_url")
"""Settings that are needed for sign-in by an identity provider, all of them."""


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

    redis_url: RedisUrl = Field(
        None, description="Redis 7+ or Valkey 8+, results store and broker; unset: `run` starts an embedded server"
    )
    broker_url: RedisUrl = Field(None, description="Celery's broker, if not the Redis of EXPUNGE_REDIS_URL")
    replicas: NonNegativeInt = Field(
        0, le=10, description="replicas that must have acknowledged what is written, so that a failover loses nothing"
    )
    upstream_url: str | None = Field(
        None, description="base address of the payments API, such as https://api.example.com"
    )
    upstream_name: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,64}$", description="stands for the upstream in place of its address"
    )
    upstream_path: PathTemplate = Field(
        "/customer/customer/{customer_id}", description="path of *Delete customer* below the base address"
    )
    upstream_headers: Headers = Field(
        default_factory=dict, description="further headers, as `Name: value`, joined by `;`; secret"
    )
    upstream_ca_file: FilePath | None = Field(
        None, description="PEM file of the authority that signed the upstream's certificate"
    )
    upstream_allow_http: bool = Field(False, description="allow an http:// address that is not on this machine")
    merchant_id: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,128}$", description="sent as X-Merchant-Identifier-Id")
    environment: Environment = Field(Environment.SANDBOX, description="`sandbox` or `production`, sent as X-Type")
    rate_limit: RateText = Field(
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
    id_pattern: Pattern = Field(DEFAULT_PATTERN, description="regular expression that a whole customer ID must match")
    max_upload: PositiveInt = Field(256 << 20, description="most bytes of a file that is sent to `expunge web`")
    web_rate_limit: RateText = Field(Rate.parse("50/s"), description="requests to `expunge web` for one token")
    event_types: Words = Field(frozenset(), description="types of CloudEvents that ask for a deletion, joined by `,`")
    event_customers: JsonPath = Field(
        "$.customer_id", description="JSONPath (RFC 9535) of the customer IDs within an event's data"
    )
    event_secrets: WebhookSecrets = Field(
        (), description="secrets of Standard Webhooks by which events over HTTP are signed, joined by `,`"
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
    oidc_roles: Roles = Field(None, description="claim and values that mean roles: `CLAIM: ROLE=VALUE; ROLE=VALUE`")
    oidc_name_claim: str = Field(SUBJECT, min_length=1, description="claim that people are called by")
    oidc_scopes: str = Field(
        "openid profile", pattern=r"^(.* )?openid( .*)?$", description="what the provider is asked for"
    )
    callback_urls: Secrets = Field((), description="addresses that are told what becomes of batches; secret")
    callback_secrets: WebhookSecrets = Field((), description="`whsec_...`, each of which signs what is told; secret")
    callback_allow_private: bool = Field(False, description="allow callbacks to addresses that are not public")
    home: Path = Field(Path(".expunge"), description="folder of the embedded server's data")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="`debug`, `info`, `warning` or `error`"
    )

    @model_validator(mode="after")
    def _upstream_is_safe(self) -> "Settings":
        if self.upstream_url is not None:
            check_address(
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
        check_address("oidc_issuer", self.oidc_issuer or "", "https://id.example.com/realms/main")
        if check_address("web_url", self.web_url or "", "https://expunge.example.com"):
            raise ValueError(f"{PREFIX}WEB_URL: {quoted(self.web_url or '')}: must be an address without a path")
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
        if len(self.callbacks) > MOST:
            raise ValueError(f"EXPUNGE_CALLBACK_URLS: must be at most {MOST} addresses")
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
        return tuple(read_secret(secret.get_secret_value()) for secret in self.callback_secrets)

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
    return f"{quoted(str(error['input']))}: "
