"""The command line where people sign in by an identity provider: nobody without a name passes by them."""

import asyncio

import pytest

from tests.acceptance.conftest import Expunge
from worker.domain.people import Role
from worker.store.connection import open_redis
from worker.store.sessions import Sessions

PROVIDER = {
    "EXPUNGE_OIDC_ISSUER": "https://id.example.com",
    "EXPUNGE_OIDC_CLIENT_ID": "expunge",
    "EXPUNGE_OIDC_ROLES": "roles: admin=a",
    "EXPUNGE_WEB_URL": "https://expunge.example.com",
}


@pytest.fixture
def site(expunge: Expunge, redis_server: str) -> Expunge:
    """A deployment where nobody has a token yet."""
    expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": "http://127.0.0.1:1"}
    return expunge


async def sign_in(redis_url: str, name: str) -> None:
    """As the pages do."""
    async with open_redis(redis_url) as redis:
        await Sessions(redis, "mark").begin_by_provider("a subject", "sub", name, Role.SUBMITTER)


def test_the_command_line_asks_for_a_token_where_a_provider_is_set(site: Expunge) -> None:
    assert site("batches").returncode == 0
    refused = site("batches", **PROVIDER)
    assert refused.returncode == 4
    assert refused.stderr == (
        "expunge: people sign in here by an identity provider, which the command line does not know; it takes a token, "
        "and the first is made by: expunge token add NAME --role admin\n"
    )
    added = site("token", "add", "ada", "--role", "admin", **PROVIDER)
    assert added.returncode == 0, added.stderr
    listed = site("batches", "--as", "ada", **PROVIDER, EXPUNGE_TOKEN=added.stdout.strip())
    assert listed.returncode == 0, listed.stderr


def test_it_asks_where_anybody_ever_signed_in_by_one_and_an_admin_ends_sessions(site: Expunge) -> None:
    """Whatever the settings of whoever uses it are."""
    asyncio.run(sign_in(site.environment["EXPUNGE_REDIS_URL"], "anna"))
    assert site("batches").returncode == 4
    added = site("token", "add", "ada", "--role", "admin")
    me = {"EXPUNGE_TOKEN": added.stdout.strip()}
    assert site("token", "signout", "Anna!", "--as", "ada", **me).returncode == 2
    ended = site("token", "signout", "anna", "--as", "ada", **me)
    assert ended.returncode == 0
    assert ended.stderr == "anna is signed out everywhere; whoever still may, can sign in again\n"
    trail = site("audit", "--as", "ada", **me).stdout
    assert "anna              signed_in" in trail
    assert "ada               signed_out" in trail
    assert "name=anna" in trail
