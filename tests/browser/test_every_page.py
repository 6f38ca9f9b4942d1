"""What holds for every page: axe finds nothing, a phone shows it, and the keyboard is enough."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import MakeFile
from tests.browser.people import NARROW, browsing, choose, submit, wait_for_state
from tests.browser.site import Site

AXE = (Path(__file__).parent / "vendor" / "axe-4.14.1.min.js").read_text(encoding="utf-8")
HOSTILE = "<img src=x onerror=alert(1)>\u202e\"'>"


def faults(page: Page) -> list[str]:
    """What axe finds. The policy of the page forbids scripts in it, so axe is not put there, but run from outside."""
    page.evaluate(AXE)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found["violations"]]


def pages(page: Page, make_file: MakeFile) -> Iterator[str]:
    """An admin goes from page to page; what each is."""
    page.goto("/new")
    yield "new"
    choose(page, make_file([HOSTILE, *(f"customer_{secrets.token_hex(4)}" for _ in range(12))], 'a"<b>.csv'))
    yield "preview"
    page.get_by_label("Due").fill("2099-12-31")
    page.get_by_label("Reference").fill(secrets.token_hex(50))
    page.get_by_role("button", name="Submit").click()
    wait_for_state(page, "completed")
    batch = page.url.rpartition("/")[2]
    yield "batch"
    choose(page, make_file(["a,b"], "Kunde.csv"))
    yield "a row that cannot be read"
    path = make_file(["a"], "columns.csv")
    path.write_text(f"Kunde,{HOSTILE.replace(chr(34), '')}\na,b\n", encoding="utf-8")
    choose(page, path)
    yield "the column to choose"
    submit(page, make_file([f"gone_{secrets.token_hex(4)}" for _ in range(400)]))
    wait_for_state(page, "paused")
    yield "a brake"
    page.get_by_role("link", name="Cancel").click()
    yield "cancel"
    page.get_by_role("button", name="Cancel it for good").click()
    wait_for_state(page, "cancelled")
    yield "cancelled"
    page.get_by_role("link", name="again").first.click()
    yield "retry"
    page.goto("/holds")
    page.get_by_label("Customer IDs, one a line").fill(f"customer_{secrets.token_hex(16)}")
    page.get_by_label("Ground", exact=True).fill(HOSTILE.replace("\u202e", ""))
    page.get_by_role("button", name="Put on hold").click()
    yield "holds"
    page.get_by_role("button", name="Release").first.click()
    yield "release"
    page.get_by_role("button", name="Release").click()
    gone, held = (f"customer_{secrets.token_hex(4)}" for _ in range(2))
    path = make_file([gone, held], "held.csv")
    submit(page, make_file([gone]))
    wait_for_state(page, "completed")
    page.goto("/holds")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_label("Ground of those without one").fill("tax audit")
    page.get_by_role("button", name="Put the file's customers on hold").click()
    yield "held too late"
    submit(page, make_file([held]))
    wait_for_state(page, "completed")
    page.goto("/holds")
    page.get_by_role("button", name=f"Release {held}").click()
    page.get_by_role("button", name="Release").click()
    yield "released"
    page.goto(f"/audit?batch={batch}")
    yield "audit"
    page.goto("/batches?state=paused")
    yield "batches looked for"
    page.goto("/batches")
    yield "batches"
    page.goto("/batches/0000000000000")
    yield "nothing there"
    page.get_by_role("button", name="Sign out").click()
    yield "sign in"


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"color_scheme": "light", "viewport": NARROW},
        {"color_scheme": "dark", "viewport": NARROW},
    ],
    ids=["light", "dark", "light and narrow", "dark and narrow"],
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    site: Site, browser: Browser, make_file: MakeFile, options: dict[str, Any]
) -> None:
    """And the browser complains of nothing, such as of something that the policy forbids."""
    found = {}
    with browsing(browser, site, "ada", **options) as page:
        for name in pages(page, make_file):
            wrong = faults(page)
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                wrong.append("wider than the screen")
            if page.locator("main img").count():
                wrong.append("text became a picture")
            expect(page.locator(".environment")).to_contain_text("Sandbox")
            if wrong:
                found[name] = wrong
    assert found == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_production(production: Site, browser: Browser, make_file: MakeFile, scheme: Any) -> None:
    with browsing(browser, production, "anna", color_scheme=scheme) as page:
        choose(page, make_file([f"customer_{secrets.token_hex(4)}"]))
        assert faults(page) == []
        page.goto("/")
        assert faults(page) == []


def test_the_keyboard_is_enough(site: Site, browser: Browser) -> None:
    with browsing(browser, site, "anna") as page:
        page.goto("/batches")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/new")


def test_a_link_from_elsewhere_is_followed_after_signing_in(site: Site, browser: Browser) -> None:
    with browsing(browser, site, None) as page:
        response = page.goto("/holds")
        assert response is not None
        assert response.status == 401
        expect(page.get_by_label("Your token")).to_be_visible()
        page.get_by_label("Your token").fill("expunge_00000000_" + "x" * 43)
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("The token is not known")
        page.get_by_label("Your token").fill(site.tokens["vera"])
        page.get_by_role("main").get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/holds")
        expect(page.get_by_role("heading", name="Holds")).to_be_visible()
