"""A browser, and a site behind it: one of each for the whole session, since both take seconds to start."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import people
from tests.browser.site import SignedOnSite, Site

MakeFile = Callable[..., Path]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if people.CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = people.launch(playwright)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:  # noqa: ARG001 - not without it
    """Batches of more than 500 rows wait for approval."""
    with Site(tmp_path_factory.mktemp("site"), EXPUNGE_APPROVAL_ABOVE="500", EXPUNGE_RATE_LIMIT="300/s") as running:
        yield running


@pytest.fixture(scope="session")
def production(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:  # noqa: ARG001
    with Site(tmp_path_factory.mktemp("production"), EXPUNGE_ENVIRONMENT="production") as running:
        yield running


@pytest.fixture(scope="session")
def signed_on(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedOnSite]:  # noqa: ARG001
    with SignedOnSite(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Write a CSV file of one column."""

    def write(ids: Sequence[str], name: str = "customers.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(["customer_id", *ids]) + "\n", encoding="utf-8")
        return path

    return write
