"""A browser, and people who use it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from playwright.sync_api import Browser, Page, Playwright, expect

CHROMIUM = shutil.which("chromium")
PHONE = {"width": 390, "height": 844}
NARROW = {"width": 320, "height": 640}
"""What nothing may be wider than: WCAG 1.4.10."""
_PATIENCE = 15_000  # milliseconds
_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def launch(playwright: Playwright) -> Browser:
    """Debian's chromium."""
    expect.set_options(timeout=_PATIENCE)
    return playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)


class Place(Protocol):
    """What somebody goes to."""

    url: str
    tokens: dict[str, str]


@contextmanager
def browsing(browser: Browser, site: Place, name: str | None, **options: Any) -> Iterator[Page]:
    """A page of somebody who is signed in, or of a stranger; whatever the browser complains of fails."""
    complaints: list[str] = []
    context = browser.new_context(base_url=site.url, **options)
    context.set_default_timeout(_PATIENCE)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    try:
        page = context.new_page()
        if name is not None:
            sign_in(page, site.tokens[name])
        yield page
    finally:
        context.close()
    unexpected = [each for each in complaints if not each.startswith(_REFUSED)]
    assert not unexpected, unexpected


_REFUSED = "Failed to load resource: the server responded with a status of 4"  # of a page that was refused on purpose


def sign_in(page: Page, token: str) -> None:
    """By the form."""
    page.goto("/")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/batches")


def choose(page: Page, path: Path) -> None:
    """Upload a file, up to the page that follows."""
    page.goto("/new")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_role("button", name="Look at the file").click()


def submit(page: Page, path: Path) -> str:
    """Upload a file and submit it; returns the batch's ID."""
    choose(page, path)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/batches/*")
    return page.url.rpartition("/")[2]


def wait_for_state(page: Page, state: str, seconds: float = 40) -> None:
    """Until the page of a batch shows it, by itself."""
    page.locator(".now .state", has_text=state).wait_for(timeout=1000 * seconds)
