"""Settings: the defaults of SPEC 7; a wrong value is refused with its name, itself and what it should be."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from worker.cli.children import _as_environment
from worker.domain.batches import Environment, Target
from worker.domain.brakes import Brakes
from worker.domain.errors import SettingsError
from worker.domain.rates import Rate
from worker.settings import Settings, load_settings

SECRET = "hunter2"
KEY = "whsec_" + "A" * 32


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Each test in an empty folder and with no variable of ours set."""
    for name in os.environ:
        if name.upper().startswith("EXPUNGE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> "Refusal":
    return Refusal(monkeypatch)


class Refusal:
    """Sets a variable and returns the line with which it is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def of(self, name: str, value: str) -> str:
        self._monkeypatch.setenv(f"EXPUNGE_{name}", value)
        with pytest.raises(SettingsError) as error:
            load_settings()
        assert error.value.__context__ is None or error.value.__suppress_context__  # or a traceback shows the input
        return str(error.value)


# --- values ---


def test_the_defaults_are_those_of_the_spec() -> None:
    settings = load_settings()
    assert {name: getattr(settings, name) for name in Settings.model_fields} == {
        "redis_url": None,
        "event_types": frozenset(),
        "event_customers": "$.customer_id",
        "event_secrets": (),
        "event_batch_size": 10_000,
        "event_batch_age": 300.0,
        "broker_url": None,
        "replicas": 0,
        "upstream_url": None,
        "upstream_name": "",
        "upstream_path": "/customer/customer/{customer_id}",
        "upstream_headers": {},
        "upstream_ca_file": None,
        "upstream_allow_http": False,
        "merchant_id": "",
        "environment": Environment.SANDBOX,
        "rate_limit": Rate.parse("50/s"),
        "concurrency": 64,
        "timeout": 10.0,
        "max_attempts": 5,
        "shard_size": 250,
        "max_batch": 1_000_000,
        "failure_threshold": 0.5,
        "not_found_threshold": 0.5,
        "canary": None,
        "approval_above": None,
        "approval_in_production": False,
        "token": None,
        "retention_days": 30,
        "ledger_days": 365,
        "digest_key": None,
        "id_pattern": "[A-Za-z0-9_-]{1,128}",
        "max_upload": 268_435_456,
        "web_rate_limit": Rate.parse("50/s"),
        "web_url": None,
        "oidc_issuer": None,
        "oidc_client_id": None,
        "oidc_client_secret": None,
        "oidc_roles": None,
        "oidc_name_claim": "sub",
        "oidc_scopes": "openid profile",
        "callback_urls": (),
        "callback_secrets": (),
        "callback_allow_private": False,
        "home": Path(".expunge"),
        "log_level": "info",
    }


VALUES: list[tuple[str, str, object]] = [
    ("REDIS_URL", "rediss://user:pw@host:6380/1", SecretStr("rediss://user:pw@host:6380/1")),
    ("REDIS_URL", "unix:///run/valkey.sock", SecretStr("unix:///run/valkey.sock")),
    ("BROKER_URL", "redis://host", SecretStr("redis://host")),
    ("UPSTREAM_URL", "https://api.example.com", "https://api.example.com"),
    ("UPSTREAM_URL", "https://api.example.com:8443/v2/", "https://api.example.com:8443/v2/"),
    ("UPSTREAM_PATH", "/api/v1/customer/{customer_id}", "/api/v1/customer/{customer_id}"),
    ("UPSTREAM_PATH", "/{customer_id}", "/{customer_id}"),
    ("MERCHANT_ID", "3kqrchza3j", "3kqrchza3j"),
    ("ENVIRONMENT", "production", Environment.PRODUCTION),
    ("RATE_LIMIT", "1000/m, 50/s", Rate.parse("50/s,1000/m")),
    ("CONCURRENCY", "1000", 1000),
    ("TIMEOUT", "2.5", 2.5),
    ("MAX_ATTEMPTS", "1", 1),
    ("SHARD_SIZE", "500", 500),
    ("FAILURE_THRESHOLD", "1", 1.0),
    ("NOT_FOUND_THRESHOLD", "0.07", 0.07),
    ("CANARY", "99", 99),
    ("CANARY", "0", 0),
    ("MAX_BATCH", "20", 20),
    ("APPROVAL_ABOVE", "0", 0),
    ("APPROVAL_IN_PRODUCTION", "true", True),
    ("TOKEN", "t", SecretStr("t")),
    ("RETENTION_DAYS", "1", 1),
    ("LEDGER_DAYS", "0", 0),
    ("DIGEST_KEY", "k", SecretStr("k")),
    ("ID_PATTERN", "customer_[0-9a-f]{32}", "customer_[0-9a-f]{32}"),
    ("CALLBACK_SECRETS", f"{KEY} {KEY}\n", (SecretStr(KEY),)),
    ("CALLBACK_ALLOW_PRIVATE", "true", True),
    ("HOME", "/var/lib/expunge", Path("/var/lib/expunge")),
    ("LOG_LEVEL", "debug", "debug"),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_every_setting_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"EXPUNGE_{name}", text)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"EXPUNGE_{name.upper()}", "")
    assert load_settings() == Settings(_env_file=None)


def test_an_empty_secrets_dir_counts_as_unset(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Or a file that happens to lie in the present folder would be taken for a secret."""
    (folder / "expunge_merchant_id").write_text("of-this-folder")
    monkeypatch.setenv("EXPUNGE_SECRETS_DIR", "")
    assert load_settings().merchant_id == ""


def test_headers_are_written_one_a_line_or_joined_by_a_semicolon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_UPSTREAM_HEADERS", "X-token: a:b ; X-Other:c\nX-Third:  d  ;;")
    headers = {name: secret.get_secret_value() for name, secret in load_settings().upstream_headers.items()}
    assert headers == {"X-token": "a:b", "X-Other": "c", "X-Third": "d"}


def test_headers_may_be_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_UPSTREAM_HEADERS", '{"X-token": "a;b: c", "X-Other": "d"}')
    headers = {name: secret.get_secret_value() for name, secret in load_settings().upstream_headers.items()}
    assert headers == {"X-token": "a;b: c", "X-Other": "d"}


def test_settings_do_not_change_after_the_start() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.concurrency = 1  # type: ignore[misc]


def test_an_option_comes_before_the_variable_and_an_option_not_given_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPUNGE_MERCHANT_ID", "of-the-environment")
    assert load_settings(merchant_id="of-the-option").merchant_id == "of-the-option"
    assert load_settings(merchant_id=None).merchant_id == "of-the-environment"


def test_a_worker_serves_the_merchant_and_environment_of_its_settings() -> None:
    settings = load_settings(merchant_id="m1", environment="production")
    assert settings.target == Target(Environment.PRODUCTION, "m1")


def test_a_worker_serves_the_upstream_of_its_settings_by_address_and_path_or_by_its_name() -> None:
    def upstream(url: str, **others: str) -> str:
        return load_settings(upstream_url=url, **others).target.upstream

    assert re.fullmatch("[0-9a-f]{12}", upstream("https://h"))
    assert upstream("https://h") == upstream("https://h/")
    others = [upstream("https://h2"), upstream("https://h/api"), upstream("https://h", upstream_path="/{customer_id}")]
    assert len({upstream("https://h"), *others}) == 4
    assert upstream("https://h", upstream_name="psp") == upstream("https://h2", upstream_name="psp") not in others


@pytest.mark.parametrize(
    ("url", "path", "prefix"),
    [
        ("https://h", "/customer/customer/{customer_id}", "https://h/customer/customer/"),
        ("https://h/", "/customer/customer/{customer_id}", "https://h/customer/customer/"),
        ("https://h/api/", "/v1/customer/{customer_id}", "https://h/api/v1/customer/"),
        ("https://h:8443", "/{customer_id}", "https://h:8443/"),
    ],
)
def test_what_is_called_is_the_address_then_the_path_then_the_id(url: str, path: str, prefix: str) -> None:
    assert load_settings(upstream_url=url, upstream_path=path).upstream_prefix == prefix


def test_without_an_upstream_it_is_said_what_to_set() -> None:
    with pytest.raises(SettingsError, match=r"EXPUNGE_UPSTREAM_URL.*--simulate"):
        _ = load_settings().upstream_prefix


# --- where they come from ---


def test_settings_are_read_from_a_dotenv_file_and_variables_come_first(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / ".env").write_text("EXPUNGE_MERCHANT_ID=of-the-file\nEXPUNGE_CONCURRENCY=8\nOTHER=1\nEXPUNGE_NEWER=1\n")
    monkeypatch.setenv("EXPUNGE_CONCURRENCY", "9")
    settings = load_settings()
    assert (settings.merchant_id, settings.concurrency) == ("of-the-file", 9)


@pytest.mark.parametrize(
    ("name", "meant"), [("APROVAL_IN_PRODUCTION", "APPROVAL_IN_PRODUCTION"), ("max_bach", "MAX_BATCH")]
)
def test_a_setting_with_a_slip_in_its_name_is_refused_rather_than_ignored(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, meant: str
) -> None:
    refusal = rf"^EXPUNGE_{name.upper()}: there is no such setting; EXPUNGE_{meant} is meant"
    monkeypatch.setenv(f"EXPUNGE_{name}", "1")
    with pytest.raises(SettingsError, match=refusal):
        load_settings()
    monkeypatch.delenv(f"EXPUNGE_{name}")
    (folder / ".env").write_text(f"EXPUNGE_{name}=1\n")
    with pytest.raises(SettingsError, match=refusal):
        load_settings()


def test_a_wrong_value_in_a_dotenv_file_is_refused_by_its_name(folder: Path) -> None:
    (folder / ".env").write_text("EXPUNGE_CONCURRENCY=many\n")
    with pytest.raises(SettingsError, match=r"^EXPUNGE_CONCURRENCY: 'many': "):
        load_settings()


def test_a_dotenv_file_that_is_not_text_is_refused_in_one_line_without_its_content(folder: Path) -> None:
    (folder / ".env").write_bytes(f"EXPUNGE_DIGEST_KEY={SECRET}\xff\n".encode("latin-1"))
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


def test_secrets_are_read_from_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "EXPUNGE_DIGEST_KEY").write_text(f"{SECRET}\n")
    (secrets / "expunge_redis_url").write_text("redis://:pw@host:6379/0\n")
    (secrets / "EXPUNGE_UPSTREAM_HEADERS").write_text(f"X-token: {SECRET}\n")
    monkeypatch.setenv("EXPUNGE_SECRETS_DIR", str(secrets))
    settings = load_settings()
    assert settings.digest_key == SecretStr(SECRET)
    assert settings.redis_url == SecretStr("redis://:pw@host:6379/0")
    assert settings.upstream_headers == {"X-token": SecretStr(SECRET)}


def test_a_variable_comes_before_a_file_of_secrets(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "EXPUNGE_DIGEST_KEY").write_text("of-the-file")
    monkeypatch.setenv("EXPUNGE_SECRETS_DIR", str(folder))
    monkeypatch.setenv("EXPUNGE_DIGEST_KEY", "of-the-variable")
    assert load_settings().digest_key == SecretStr("of-the-variable")


def test_a_secrets_dir_that_is_no_folder_is_refused(refusal: Refusal) -> None:
    line = refusal.of("SECRETS_DIR", "/nowhere")
    assert line == "EXPUNGE_SECRETS_DIR: '/nowhere' is not a folder"


def test_a_wrong_secret_in_a_file_is_refused_by_its_name_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "expunge_redis_url").write_text(f"http://:{SECRET}@host")
    monkeypatch.setenv("EXPUNGE_SECRETS_DIR", str(folder))
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith("EXPUNGE_REDIS_URL: ")
    assert SECRET not in str(error.value)


# --- wrong values: name, value, and what it should be ---

A_PATH = "must be a path that ends with /{customer_id}"
WRONG: list[tuple[str, str, str]] = [
    ("UPSTREAM_PATH", "/customer", A_PATH),
    ("UPSTREAM_PATH", "customer/{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/customer/{customer_id}/x", A_PATH),
    ("UPSTREAM_PATH", "/customer{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/a/../{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/a/./{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "//host/{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/a//{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/a%2fb/{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/find?id={customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/find?x=/{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/a#/{customer_id}", A_PATH),
    ("UPSTREAM_PATH", "/{customer_id}/{customer_id}", A_PATH),
    ("UPSTREAM_CA_FILE", "/nowhere/ca.pem", "file"),
    ("UPSTREAM_ALLOW_HTTP", "maybe", "boolean"),
    ("MERCHANT_ID", "two words", "match"),
    ("MERCHANT_ID", "x" * 129, "match"),
    ("ENVIRONMENT", "prod", "'sandbox' or 'production'"),
    ("ENVIRONMENT", "Production", "'sandbox' or 'production'"),
    ("RATE_LIMIT", "50", "such as 50/s"),
    ("RATE_LIMIT", "0/s", "such as 50/s"),
    ("RATE_LIMIT", "50/s,", "such as 50/s"),
    ("CONCURRENCY", "many", "integer"),
    ("CONCURRENCY", "0", "greater than 0"),
    ("CONCURRENCY", "1001", "less than or equal to 1000"),
    ("TIMEOUT", "soon", "number"),
    ("TIMEOUT", "0", "greater than 0"),
    ("TIMEOUT", "121", "less than or equal to 120"),
    ("TIMEOUT", "nan", "120"),
    ("TIMEOUT", "inf", "120"),
    ("MAX_ATTEMPTS", "0", "greater than 0"),
    ("MAX_ATTEMPTS", "101", "less than or equal to 100"),
    ("SHARD_SIZE", "0", "greater than 0"),
    ("FAILURE_THRESHOLD", "0", "greater than 0"),
    ("FAILURE_THRESHOLD", "50", "less than or equal to 1"),
    ("FAILURE_THRESHOLD", "nan", "less than or equal to 1"),
    ("NOT_FOUND_THRESHOLD", "-1", "greater than 0"),
    ("CANARY", "100", "less than 100"),
    ("CANARY", "-1", "greater than or equal to 0"),
    ("SHARD_SIZE", "501", "less than or equal to 500"),
    ("MAX_BATCH", "0", "greater than 0"),
    ("RETENTION_DAYS", "0", "greater than 0"),
    ("LEDGER_DAYS", "-1", "greater than or equal to 0"),
    ("ID_PATTERN", "[a-z", "regular expression"),
    ("LOG_LEVEL", "loud", "match"),
]


@pytest.mark.parametrize(("name", "value", "should_be"), WRONG)
def test_a_wrong_value_is_refused_with_its_name_the_value_and_what_it_should_be(
    refusal: Refusal, name: str, value: str, should_be: str
) -> None:
    line = refusal.of(name, value)
    assert line.startswith(f"EXPUNGE_{name}: '{value[:100]}")
    assert should_be in line.removeprefix(f"EXPUNGE_{name}: '{value}'")
    assert "\n" not in line


def test_a_wrong_value_of_several_lines_is_refused_in_one(refusal: Refusal) -> None:
    assert "\n" not in refusal.of("ENVIRONMENT", "sandbox\nproduction")


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    monkeypatch.setenv("EXPUNGE_CONCURRENCY", "0")
    line = refusal.of("ENVIRONMENT", "prod")
    assert "EXPUNGE_CONCURRENCY: '0': " in line
    assert "EXPUNGE_ENVIRONMENT: 'prod': " in line


@pytest.mark.parametrize(
    ("setting", "value", "option"),
    [("environment", "prod", "--environment"), ("merchant_id", "a b", "--merchant"), ("rate_limit", "50", "--rate")],
)
def test_a_wrong_option_is_refused_by_the_name_that_was_typed(setting: str, value: str, option: str) -> None:
    with pytest.raises(SettingsError, match=f"^{option}: '{value}': "):
        load_settings(**{setting: value})


# --- the address of the upstream ---

LOOPBACK = [
    "http://127.0.0.1:8080",
    "http://127.0.0.2",
    "http://[::1]:8080",
    "http://localhost",
    "http://LOCALHOST:1/x",
]
NOT_LOOPBACK = [
    "http://api.example.com",
    "http://10.0.0.1",
    "http://0.0.0.0",
    "http://localhost.example.com",
    "http://127.0.0.1.example.com",
    "http://127.0.0.1.",
    "http://[::2]",
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_http_is_allowed_to_this_machine(url: str) -> None:
    assert load_settings(upstream_url=url).upstream_url == url


@pytest.mark.parametrize("url", NOT_LOOPBACK)
def test_http_to_another_machine_is_refused_unless_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, refusal: Refusal, url: str
) -> None:
    line = refusal.of("UPSTREAM_URL", url)
    assert line.startswith("EXPUNGE_UPSTREAM_URL: ")
    assert "https://" in line
    assert "EXPUNGE_UPSTREAM_ALLOW_HTTP=true" in line
    monkeypatch.setenv("EXPUNGE_UPSTREAM_ALLOW_HTTP", "true")
    assert load_settings().upstream_url == url


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "//api.example.com",
        "ftp://api.example.com",
        "https://",
        "https:///customer",
        "https://[::1",
        "https://h:port",
        "https://h:99999",
        "https://h?key=1",
        "https://h?",
        "https://h/?",
        "https://h/a?",
        "https://h#part",
        "https://h#",
        "https://h/#",
        "https://h/a/../b",
        "https://h/./b",
        "https://h/a/..",
        "https://h/a//b",
        "https://h/a%2fb",
        "https://h/a b",
        "https://two words",
        "https://h\n",
        "https://h\t.example.com",
        "https://h ",
        "https://good.example.com\\.evil.example.com",
    ],
)
def test_an_address_that_would_call_another_place_than_it_seems_to_is_refused(refusal: Refusal, url: str) -> None:
    """Behind a ``?`` or ``#`` the ID would be no part of the path: the DELETE would hit what stands before it."""
    line = refusal.of("UPSTREAM_URL", url)
    assert line.startswith("EXPUNGE_UPSTREAM_URL: ")
    assert "\n" not in line


@pytest.mark.parametrize("url", ["ftp://api.example.com", "http://api.example.com", "https://h/a/../b"])
def test_a_wrong_address_of_the_upstream_is_shown(refusal: Refusal, url: str) -> None:
    assert f"'{url}'" in refusal.of("UPSTREAM_URL", url)


@pytest.mark.parametrize("user", ["user", f"user:{SECRET}", f":{SECRET}", ":", ""])
def test_an_address_with_a_user_or_password_is_refused_and_the_password_not_shown(refusal: Refusal, user: str) -> None:
    assert SECRET not in refusal.of("UPSTREAM_URL", f"https://{user}@api.example.com")


# --- callbacks ---


def test_callbacks_are_joined_by_spaces_commas_or_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "EXPUNGE_CALLBACK_URLS", " https://a.example/x?y=%2C, https://b.example\nhttps://a.example/x?y=%2C "
    )
    monkeypatch.setenv("EXPUNGE_CALLBACK_SECRETS", f"{KEY},whsec_{'B' * 32}")
    settings = load_settings()
    assert [callback.url for callback in settings.callbacks] == ["https://a.example/x?y=%2C", "https://b.example"]
    assert settings.callback_keys == (b"\0" * 24, b"\x04\x10A" * 8)


def test_no_callbacks_can_be_said(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """``run --simulate`` says so to its workers, whatever an environment file says."""
    (folder / ".env").write_text(f"EXPUNGE_CALLBACK_URLS=https://a.example\nEXPUNGE_CALLBACK_SECRETS={KEY}\n")
    monkeypatch.setenv("EXPUNGE_CALLBACK_URLS", ",")
    assert load_settings().callbacks == ()
    assert _as_environment(load_settings())["EXPUNGE_CALLBACK_URLS"] == ","


def test_callbacks_without_a_secret_are_refused(refusal: Refusal) -> None:
    assert refusal.of("CALLBACK_URLS", "https://a.example").startswith("EXPUNGE_CALLBACK_SECRETS: must be set")


def test_a_private_callback_is_refused_unless_it_is_allowed(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CALLBACK_SECRETS", KEY)
    line = refusal.of("CALLBACK_URLS", "https://a.example https://169.254.169.254/latest?x=1")
    assert line == (
        "EXPUNGE_CALLBACK_URLS: no. 2 of 2: 169.254.169.254: is not a public address; "
        "set EXPUNGE_CALLBACK_ALLOW_PRIVATE=true if it is meant"
    )
    monkeypatch.setenv("EXPUNGE_CALLBACK_ALLOW_PRIVATE", "true")
    assert [callback.host for callback in load_settings().callbacks] == ["a.example", "169.254.169.254"]


def test_more_than_ten_callbacks_are_refused(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CALLBACK_SECRETS", KEY)
    many = " ".join(f"https://a{number}.example" for number in range(11))
    assert refusal.of("CALLBACK_URLS", many) == "EXPUNGE_CALLBACK_URLS: must be at most 10 addresses"


# --- secrets ---


def test_secrets_never_show_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_REDIS_URL", f"redis://:{SECRET}@host")
    monkeypatch.setenv("EXPUNGE_BROKER_URL", f"redis://:{SECRET}@host")
    monkeypatch.setenv("EXPUNGE_DIGEST_KEY", SECRET)
    monkeypatch.setenv("EXPUNGE_UPSTREAM_HEADERS", f"X-token: {SECRET}")
    monkeypatch.setenv("EXPUNGE_CALLBACK_URLS", f"https://hooks.example.com/{SECRET}")
    monkeypatch.setenv("EXPUNGE_CALLBACK_SECRETS", KEY)
    settings = load_settings()
    assert KEY not in repr(settings) + settings.model_dump_json()
    assert SECRET not in repr(settings.callbacks)
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", f"http://:{SECRET}@host"),
        ("REDIS_URL", SECRET),
        ("REDIS_URL", f"redis://:{SECRET}@[::1"),
        ("REDIS_URL", f"redis://:{SECRET}\u2100@host"),
        ("REDIS_URL", f"redis://:{SECRET}@host:port"),
        ("BROKER_URL", f"amqp://:{SECRET}@host"),
        ("BROKER_URL", f"redis://:{SECRET}\u2100@host"),
        ("UPSTREAM_HEADERS", SECRET),
        ("UPSTREAM_HEADERS", f"X token: {SECRET}"),
        ("UPSTREAM_HEADERS", f": {SECRET}"),
        ("UPSTREAM_HEADERS", f"X-token: {SECRET}\x07"),
        ("UPSTREAM_HEADERS", f"X-token: {SECRET}\u043a"),
        ("UPSTREAM_HEADERS", f"X-Type: {SECRET}"),
        ("UPSTREAM_HEADERS", "X-token:"),
        ("UPSTREAM_HEADERS", f'{{"X-token": "{SECRET}"'),
        ("UPSTREAM_HEADERS", f'{{"X-token": "{SECRET}\\n"}}'),
        ("UPSTREAM_HEADERS", f'{{"X-Type": "{SECRET}"}}'),
        ("UPSTREAM_HEADERS", '{"X-token": null}'),
        ("CALLBACK_SECRETS", SECRET),
        ("CALLBACK_SECRETS", f"whsec_{SECRET}"),
        ("CALLBACK_SECRETS", f"{KEY}, {KEY}{SECRET}!"),
        ("CALLBACK_URLS", f"http://hooks.example.com/?key={SECRET}"),
        ("CALLBACK_URLS", f"https://user:{SECRET}@hooks.example.com/"),
        ("CALLBACK_URLS", f"https://hooks.example.com/ https://127.0.0.1/{SECRET}"),
        ("CALLBACK_URLS", f"hooks/{SECRET}"),
        ("UPSTREAM_HEADERS", f'{{"X-token": ["{SECRET}"]}}'),
    ],
)
def test_a_wrong_secret_is_refused_by_its_name_and_never_shown(refusal: Refusal, name: str, value: str) -> None:
    """A header's value must be ASCII: anything else cannot be sent, and would stop each worker at its start."""
    line = refusal.of(name, value)
    assert line.startswith(f"EXPUNGE_{name}: ")
    assert SECRET not in line
    assert re.search(r"must|not|invalid", line)
    assert "\n" not in line


@pytest.mark.parametrize(
    "name",
    ["X-Merchant-Identifier-Id", "x-type", "IDEMPOTENCY-KEY", "Host", "Content-Length", "Transfer-Encoding"],
)
def test_a_header_that_expunge_sets_itself_cannot_be_set(refusal: Refusal, name: str) -> None:
    assert refusal.of("UPSTREAM_HEADERS", f"X-token: 1; {name}: 2").startswith("EXPUNGE_UPSTREAM_HEADERS: must not set")


# --- brakes ---


@pytest.mark.parametrize(("environment", "size"), [(Environment.PRODUCTION, 20), (Environment.SANDBOX, 0)])
def test_production_has_a_canary_of_twenty_and_sandbox_none(environment: Environment, size: int) -> None:
    assert load_settings().brakes(environment) == Brakes(0.5, 0.5, size)


@pytest.mark.parametrize(("environment", "size"), [(Environment.PRODUCTION, "0"), (Environment.SANDBOX, "7")])
def test_a_canary_that_is_set_counts_in_every_environment(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, size: str
) -> None:
    monkeypatch.setenv("EXPUNGE_CANARY", size)
    assert load_settings().brakes(environment).canary == int(size)


def test_event_types_are_a_list_and_the_path_of_customers_is_a_json_path(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_EVENT_TYPES", "a.closed, b.closed")
    assert load_settings().event_types == {"a.closed", "b.closed"}
    line = refusal.of("EVENT_CUSTOMERS", "customer_id")
    assert line.startswith("EXPUNGE_EVENT_CUSTOMERS: 'customer_id': is no JSONPath: it must begin with $; ")
    assert "like $.customer_id " in line
    line = refusal.of("EVENT_CUSTOMERS", "$.a | $.b")
    assert line.startswith("EXPUNGE_EVENT_CUSTOMERS: '$.a | $.b': is no JSONPath: ")
    line = refusal.of("EVENT_CUSTOMERS", "$.a[")
    assert line.startswith("EXPUNGE_EVENT_CUSTOMERS: '$.a[': is no JSONPath: ")
    assert "\n" not in line


LONG, OTHER = "whsec_" + "QUJD" * 8, "whsec_" + "REVG" * 8


@pytest.mark.parametrize("given", [f"{LONG},{OTHER}", f" {LONG}   {OTHER} ", f"{LONG}, {OTHER}"])
def test_event_secrets_are_several_so_that_one_can_be_rotated(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("EXPUNGE_EVENT_TYPES", "a.closed")
    monkeypatch.setenv("EXPUNGE_EVENT_SECRETS", given)
    settings = load_settings()
    assert {secret.get_secret_value() for secret in settings.event_secrets} == {LONG, OTHER}
    assert "QUJD" not in f"{settings!r}{settings}"


@pytest.mark.parametrize(
    "given",
    [
        "hunter2",
        "whsec_hunter2",
        "whsec_",
        LONG.removeprefix("whsec_"),
        f"{LONG},whsec_{SECRET}",
        "whsec_" + "QUJD" * 7,
        "whsec_" + "-_-_" * 8,
        f"{LONG}=x",
    ],
)
def test_an_event_secret_that_is_none_is_refused_and_not_shown(refusal: Refusal, given: str) -> None:
    line = refusal.of("EVENT_SECRETS", given)
    assert line.startswith("EXPUNGE_EVENT_SECRETS: must be whsec_ and 24 to 64 random bytes")
    assert "\n" not in line
    assert not [part for part in given.split(",") if part.removeprefix("whsec_") and part in line]


def test_secrets_for_events_without_any_type_are_refused(refusal: Refusal) -> None:
    """Else each event would be refused for good."""
    assert refusal.of("EVENT_SECRETS", LONG).startswith("EXPUNGE_EVENT_TYPES: must name")
