"""Signing in by an identity provider at another site, in a real browser: its cookies, its redirects, our policy."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.people import NARROW, browsing
from tests.browser.site import SignedOnSite
from tests.browser.test_every_page import faults

SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])


def sign_in(page: Page, name: str) -> None:
    """From the page of ours to the provider's, and there as somebody."""
    page.get_by_role("link", name="Sign in with localhost:").click()
    expect(page).to_have_title("Who are you?")
    assert urlsplit(page.url).hostname == "localhost"
    page.get_by_role("link", name=name).click()


@SCRIPTS
def test_somebody_signs_in_at_the_provider_and_is_led_on(
    signed_on: SignedOnSite, browser: Browser, scripts: bool
) -> None:
    with browsing(browser, signed_on, None, java_script_enabled=scripts) as page:
        page.goto("/new")
        sign_in(page, "anna")
        page.wait_for_url("**/new")
        expect(page.locator(".who")).to_contain_text("anna, submitter")
        assert [each["name"] for each in page.context.cookies()] == ["__Host-expunge"]
        page.get_by_role("link", name="New batch").first.click()
        expect(page.get_by_label("File", exact=True)).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in with localhost:")).to_be_visible()
        page.goto("/batches")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@SCRIPTS
def test_whoever_may_not_come_in_reads_why_and_can_go_again(
    signed_on: SignedOnSite, browser: Browser, scripts: bool
) -> None:
    with browsing(browser, signed_on, None, java_script_enabled=scripts) as page:
        page.goto("/")
        sign_in(page, "Deny")
        expect(page.get_by_role("alert")).to_contain_text("says that sign-in was denied or cancelled")
        sign_in(page, "noah")
        expect(page.get_by_role("alert")).to_contain_text("noah has no role here", ignore_case=True)
        used = page.url
        sign_in(page, "vera")
        page.wait_for_url("**/batches")
        expect(page.locator(".who")).to_contain_text("vera, viewer")
        page.goto(used)
        expect(page.get_by_role("alert")).to_contain_text("This sign-in is not known")
        page.goto("/batches")
        expect(page.locator(".who")).to_contain_text("vera, viewer")


def test_the_cookie_goes_with_nothing_that_another_site_begins(signed_on: SignedOnSite, browser: Browser) -> None:
    with browsing(browser, signed_on, None) as page:
        page.goto("/")
        sign_in(page, "ben")
        page.wait_for_url("**/batches")
        elsewhere = page.context.new_page()
        elsewhere.goto(f"{signed_on.issuer}/keys")
        elsewhere.evaluate("to => { location.href = to }", f"{signed_on.url}/batches")
        expect(elsewhere.get_by_role("heading", name="Sign in")).to_be_visible()
        page.reload()
        expect(page.locator(".who")).to_contain_text("ben, approver")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_where_there_are_two_ways_in(signed_on: SignedOnSite, browser: Browser, scheme: str) -> None:
    with browsing(browser, signed_on, None, color_scheme=scheme, viewport=NARROW) as page:
        page.goto("/")
        assert faults(page) == []
        assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
