"""Three people go the whole way, with JavaScript and without, and are refused what is not theirs."""

import csv
import json
import secrets
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import MakeFile
from tests.browser.people import browsing, choose, submit, wait_for_state
from tests.browser.site import Site

SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])


def ids(count: int, kind: str = "customer") -> list[str]:
    return [f"{kind}_{secrets.token_hex(12)}" for _ in range(count)]


def download(page: Page, link: str) -> bytes:
    with page.expect_download() as started:
        page.get_by_role("link", name=link).click()
    return Path(started.value.path()).read_bytes()


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode("utf-8-sig").splitlines()))


@SCRIPTS
def test_a_submitter_uploads_looks_submits_watches_and_downloads(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    customers = ids(200)
    file = make_file([*customers, "not an ID", customers[0]])
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        choose(page, file)
        facts = page.locator(".facts")
        expect(facts).to_contain_text("To send 200")
        expect(facts).to_contain_text("Invalid 1")
        expect(facts).to_contain_text("Duplicates 1")
        expect(page.get_by_role("row", name="202 contains a space")).to_be_visible()
        expect(page.get_by_role("cell", name=customers[0])).to_be_visible()
        page.get_by_label("Reference").fill(f"way {scripts}")
        page.get_by_role("button", name="Submit 202 rows").click()
        wait_for_state(page, "completed")
        expect(page.get_by_text("deleted at the payments API").first).to_be_visible()
        expect(page.get_by_role("heading", name="202 of 202 done")).to_be_visible()
        expect(page.locator("figure.rate svg")).to_be_visible()

        everything = rows(download(page, "Report of all rows"))
        assert [row["customer_id"] for row in everything[:200]] == customers
        failed = rows(download(page, "Failed only"))
        unprocessed = rows(download(page, "Unprocessed only"))
        assert [row["expunge_reason"] for row in unprocessed] == ["invalid_id", "duplicate"]
        left = [row for row in everything if row["expunge_outcome"] in ("rejected", "failed", "unknown")]
        assert failed == left
        manifest = json.loads(download(page, "Manifest"))
        assert manifest["report"]["lines"] == 202
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        page.goto("/batches")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@SCRIPTS
def test_an_approver_sees_whose_file_it_is_and_lets_it_run(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        batch = submit(page, make_file(ids(510)))
        expect(page.locator(".now")).to_contain_text("awaiting approval")
        expect(page.get_by_role("link", name="Approve")).to_have_count(0)
        page.goto(f"/batches/{batch}/approve")
        expect(page.get_by_role("alert")).to_contain_text("anna is submitter; approve is for approver or admin")
    with browsing(browser, site, "ben", java_script_enabled=scripts) as page:
        page.goto(f"/batches/{batch}")
        page.get_by_role("link", name="Approve").click()
        expect(page.locator(".about")).to_contain_text("anna")
        sha256 = page.locator(".about code").inner_text()
        page.get_by_label("SHA-256").fill("0" * 64)
        page.get_by_role("button", name="Approve, and delete 510 customers").click()
        expect(page.get_by_role("alert")).to_contain_text("was made of another file")
        page.goto(f"/batches/{batch}/approve")
        page.get_by_label("SHA-256").fill(sha256)
        page.get_by_role("button", name="Approve, and delete 510 customers").click()
        wait_for_state(page, "completed")
        expect(page.locator("dl.about")).to_contain_text("by ben")
        page.get_by_role("link", name="Who did what to it").click()
        expect(page.get_by_role("row", name="ben approved")).to_be_visible()


@SCRIPTS
def test_an_approver_refuses(site: Site, browser: Browser, make_file: MakeFile, scripts: bool) -> None:
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        batch = submit(page, make_file(ids(503)))
    with browsing(browser, site, "ben", java_script_enabled=scripts) as page:
        page.goto(f"/batches/{batch}")
        page.get_by_role("link", name="Refuse").click()
        expect(page.get_by_role("heading")).to_contain_text("Refuse batch")
        page.get_by_role("button", name="Refuse it for good").click()
        wait_for_state(page, "cancelled")


@SCRIPTS
def test_whom_a_hold_kept_back_is_resubmitted_after_the_release(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    with browsing(browser, site, "ada", java_script_enabled=scripts) as page:
        (held,) = ids(1)
        page.goto("/holds")
        page.get_by_label("File", exact=True).set_input_files(make_file([held], "held.csv"))
        page.get_by_label("Ground of those without one").fill("tax audit")
        page.get_by_role("button", name="Put the file's customers on hold").click()
        submit(page, make_file([held, *ids(3)]))
        wait_for_state(page, "completed")
        page.goto("/holds")
        page.get_by_role("button", name=f"Release {held}").click()
        page.get_by_role("button", name="Release").click()
        page.get_by_role("button", name="Resubmit 1 customer").click()
        wait_for_state(page, "completed")
        expect(page.locator(".lead")).to_contain_text("held back in")


def test_somebody_who_submitted_cannot_approve(site: Site, browser: Browser, make_file: MakeFile) -> None:
    with browsing(browser, site, "ada") as page:
        batch = submit(page, make_file(ids(501)))
        expect(page.get_by_text("You submitted it, so somebody else must approve it.")).to_be_visible()
        expect(page.get_by_role("link", name="Approve")).to_have_count(0)
        page.goto(f"/batches/{batch}/approve")
        expect(page.get_by_role("heading", name="Somebody else must approve")).to_be_visible()


@SCRIPTS
def test_a_viewer_sees_all_and_may_nothing(site: Site, browser: Browser, make_file: MakeFile, scripts: bool) -> None:
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        batch = submit(page, make_file(ids(501)))
    with browsing(browser, site, "vera", java_script_enabled=scripts) as page:
        page.get_by_role("link", name=batch).click()
        expect(page.locator(".now")).to_contain_text("awaiting approval")
        expect(page.locator(".deeds")).to_have_count(0)
        expect(page.get_by_role("navigation").get_by_role("link", name="New batch")).to_have_count(0)
        page.goto("/holds")
        expect(page.get_by_role("button", name="Put on hold")).to_have_count(0)
        for address in ("/new", f"/batches/{batch}/cancel", f"/batches/{batch}/approve", f"/batches/{batch}/retry"):
            response = page.goto(address)
            assert response is not None
            assert response.status == 403
            expect(page.get_by_role("alert")).to_contain_text("vera")


@SCRIPTS
def test_a_batch_is_paused_resumed_cancelled_and_sent_again(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        batch = submit(page, make_file(ids(490, "slow")))
        page.get_by_role("button", name="Pause").click()
        expect(page.locator(".now")).to_contain_text("paused")
        expect(page.get_by_text("an operator paused it")).to_be_visible()
        page.get_by_role("button", name="Resume").click()
        wait_for_state(page, "running")
        page.get_by_role("link", name="Cancel").click()
        expect(page.get_by_role("heading", name="Cancel batch")).to_be_visible()
        page.get_by_role("button", name="Cancel it for good").click()
        wait_for_state(page, "cancelled")
        page.goto(f"/batches/{batch}/retry")
        page.get_by_role("button", name="records again").click()
        page.wait_for_url("**/batches/*")
        expect(page.get_by_role("link", name=f"batch {batch}")).to_be_visible()
        page.get_by_role("link", name="Cancel").click()
        page.get_by_role("button", name="Cancel it for good").click()


@SCRIPTS
def test_a_brake_shows_its_numbers_and_is_overruled_only_in_so_many_words(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        submit(page, make_file(ids(150, "gone")))
        wait_for_state(page, "paused")
        expect(page.get_by_text("records that were sent were not found")).to_be_visible()
        page.get_by_label("mostly_not_found").check()
        page.get_by_role("button", name="Go on all the same").click()
        wait_for_state(page, "completed")
        expect(page.locator("dl.about")).to_contain_text("mostly_not_found")


@SCRIPTS
def test_holds_are_placed_and_released_with_what_they_held_back(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    held, other = ids(2)
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        page.goto("/holds")
        page.get_by_label("Customer IDs, one a line").fill(held)
        page.get_by_label("Ground", exact=True).fill("<b>audit</b> 7")
        page.get_by_role("button", name="Put on hold").click()
        expect(page.get_by_role("row", name=held)).to_contain_text("<b>audit</b> 7")
        expect(page.get_by_role("button", name="Release")).to_have_count(0)
        batch = submit(page, make_file([held, other]))
        wait_for_state(page, "completed")
        expect(page.get_by_role("row", name="on_hold")).to_contain_text("1")
    with browsing(browser, site, "ben", java_script_enabled=scripts) as page:
        page.goto("/holds")
        page.get_by_role("button", name=f"Release {held}").click()
        expect(page.get_by_role("row", name=batch)).to_contain_text(held)
        assert held not in page.url
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("heading", name="Released")).to_be_visible()
        page.get_by_role("link", name="Back to the holds").click()
        expect(page.get_by_role("heading", name="Holds")).to_be_visible()
        expect(page.get_by_text(held)).to_have_count(0)


@SCRIPTS
def test_the_same_file_is_not_submitted_twice_by_mistake(
    site: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    file = make_file(ids(3))
    with browsing(browser, site, "anna", java_script_enabled=scripts) as page:
        batch = submit(page, file)
        choose(page, file)
        expect(page.get_by_role("link", name=f"batch {batch}")).to_be_visible()
        page.get_by_label("Submit it once more").check()
        page.get_by_role("button", name="Submit 3 rows").click()
        page.wait_for_url("**/batches/*")
        assert not page.url.endswith(batch)


@SCRIPTS
def test_production_cannot_be_missed_and_asks_for_the_number(
    production: Site, browser: Browser, make_file: MakeFile, scripts: bool
) -> None:
    with browsing(browser, production, "anna", java_script_enabled=scripts) as page:
        choose(page, make_file(ids(12)))
        assert page.title().startswith("PRODUCTION")
        expect(page.get_by_role("banner")).to_contain_text("PRODUCTION")
        page.get_by_label("Type the number of records").fill("11")
        page.get_by_role("button", name="Submit 12 rows").click()
        expect(page.get_by_role("alert")).to_contain_text("11 was confirmed, but there are 12 records")
        page.goto("/batches")
        before = page.locator("tbody tr").count()
        choose(page, make_file(ids(12)))
        page.get_by_label("Type the number of records").fill("12")
        page.get_by_role("button", name="Submit 12 rows").click()
        wait_for_state(page, "completed")
        page.goto("/batches")
        assert page.locator("tbody tr").count() == before + 1
