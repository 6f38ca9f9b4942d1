"""Settings of sign-in by an identity provider: all or none, no address that is not what it seems, no secret shown."""

from pathlib import Path

import pytest

from tests.unit.test_settings import Refusal, folder, refusal  # noqa: F401 - fixtures
from worker.domain.errors import SettingsError
from worker.domain.people import Role
from worker.settings import load_settings

SECRET = "hunter2"
WHOLE = {
    "OIDC_ISSUER": "https://id.example.com/realms/main",
    "OIDC_CLIENT_ID": "expunge",
    "OIDC_ROLES": "realm_access.roles: viewer=v; admin=a",
    "WEB_URL": "https://expunge.example.com",
}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:  # noqa: F811, ARG001
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"EXPUNGE_{name}", value)


@pytest.mark.usefixtures("whole")
def test_all_of_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_WEB_URL", "https://expunge.example.com:8443/")
    found = load_settings().sign_on
    assert found is not None
    assert found.return_url == "https://expunge.example.com:8443/session/provider/return"
    assert (found.host, found.client_secret, found.name_claim) == ("id.example.com", None, "sub")
    assert found.roles.role_of({"realm_access": {"roles": ["a"]}}) is Role.ADMIN


@pytest.mark.usefixtures("folder")
def test_none_of_it_is_no_provider() -> None:
    assert load_settings().sign_on is None


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", WHOLE)
def test_a_part_of_it_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(f"EXPUNGE_{name}")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value) == f"EXPUNGE_{name}: not set; sign-in by an identity provider needs all or none"


def test_a_secret_alone_is_refused(refusal: Refusal) -> None:  # noqa: F811
    line = refusal.of("OIDC_CLIENT_SECRET", SECRET)
    assert line.startswith("EXPUNGE_OIDC_ISSUER and EXPUNGE_OIDC_CLIENT_ID and EXPUNGE_OIDC_ROLES and EXPUNGE_WEB_URL:")
    assert SECRET not in line


@pytest.mark.usefixtures("whole")
def test_the_secret_is_read_from_a_file_and_never_shown(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:  # noqa: F811
    (folder / "EXPUNGE_OIDC_CLIENT_SECRET").write_text(f"{SECRET}\n")
    monkeypatch.setenv("EXPUNGE_SECRETS_DIR", str(folder))
    settings = load_settings()
    assert settings.sign_on is not None
    assert settings.sign_on.client_secret == SECRET
    for shown in (repr(settings), str(settings), repr(settings.sign_on), str(settings.model_dump())):
        assert SECRET not in shown


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["OIDC_ISSUER", "WEB_URL"])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://id.example.com", "http:// would send credentials in the clear; use https://"),
        ("http://127.0.0.1.example.com", "http:// would send credentials in the clear; use https://"),
        ("id.example.com", "must be an address such as"),
        ("https://id.example.com/?a=b", "must be an address such as"),
        ("https://id.example.com/#a", "must be an address such as"),
        ("https://id.example.com/../x", "must be an address such as"),
        ("https://id.example.com:99999", "must be an address such as"),
        ("ftp://id.example.com", "must be an address such as"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(refusal: Refusal, name: str, address: str, why: str) -> None:  # noqa: F811
    line = refusal.of(name, address)
    assert line.startswith(f"EXPUNGE_{name}: '{address}': {why}")
    assert "\n" not in line


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["OIDC_ISSUER", "WEB_URL"])
def test_an_address_with_a_password_is_refused_and_not_shown(refusal: Refusal, name: str) -> None:  # noqa: F811
    line = refusal.of(name, f"https://me:{SECRET}@id.example.com")
    assert line.startswith(f"EXPUNGE_{name}: must be an address such as https://")
    assert SECRET not in line


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("address", ["http://localhost:8080", "http://127.0.0.1:8000", "http://[::1]:8000"])
def test_http_is_taken_on_this_machine(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("EXPUNGE_OIDC_ISSUER", f"{address}/realms/main")
    monkeypatch.setenv("EXPUNGE_WEB_URL", address)
    assert load_settings().sign_on is not None


@pytest.mark.usefixtures("whole")
def test_the_pages_have_no_path(refusal: Refusal) -> None:  # noqa: F811
    line = refusal.of("WEB_URL", "https://example.com/expunge")
    assert line == "EXPUNGE_WEB_URL: 'https://example.com/expunge': must be an address without a path"


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize(
    ("roles", "why"),
    [
        ("realm_access.roles", "must be a claim and its values, such as 'realm_access.roles: viewer="),
        ("viewer=a", "must be a claim and its values"),
        (": viewer=a", "must be a claim and its values"),
        ("roles: owner=a", "the roles are viewer, submitter, approver, admin"),
        ("roles: viewer=", "the roles are viewer, submitter, approver, admin"),
        ("roles: viewer=a; admin", "the roles are viewer, submitter, approver, admin"),
        ("roles: viewer=a; admin=a", "has 'a' twice; one value means one role"),
    ],
)
def test_roles_that_cannot_be_read_are_refused(refusal: Refusal, roles: str, why: str) -> None:  # noqa: F811
    line = refusal.of("OIDC_ROLES", roles)
    assert line.startswith(f"EXPUNGE_OIDC_ROLES: '{roles}': ")
    assert why in line


@pytest.mark.usefixtures("whole")
def test_scopes_without_openid_are_refused(refusal: Refusal) -> None:  # noqa: F811
    assert refusal.of("OIDC_SCOPES", "profile openidx").startswith("EXPUNGE_OIDC_SCOPES: 'profile openidx'")
