"""``python -m tests.browser.images FOLDER``: a picture of each page, as docs/web.md shows them."""

import secrets
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser import people
from tests.browser.site import SignedOnSite, Site

_EXAMPLE = Path(__file__).parents[2] / "examples" / "customers.csv"
_DESK = {"width": 1040, "height": 760}


class Pictures:
    """Takes them into a folder."""

    def __init__(self, folder: Path, files: Path) -> None:
        self._folder, self._files = folder, files
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, page: Page, name: str) -> None:
        """The whole page."""
        page.mouse.move(0, 0)
        page.screenshot(path=self._folder / f"{name}.png", full_page=True, animations="disabled", caret="hide")

    def file(self, name: str, lines: list[str]) -> Path:
        """A file to upload."""
        path = self._files / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def submitter(self, browser: Browser, site: Site) -> str:
        """Signs in, looks at a file, submits it; returns the batch that waits for approval."""
        with people.browsing(browser, site, None, viewport=_DESK) as page:
            page.goto("/")
            self.take(page, "sign-in")
        with people.browsing(browser, site, "anna", viewport=_DESK) as page:
            page.goto("/new")
            self.take(page, "new")
            people.choose(page, self.file("export.csv", ["Kunde,Grund", "c-1,closed", "c-2,moved"]))
            self.take(page, "column")
            people.choose(page, self.file("open-quote.csv", ["customer_id,ground", "c-1,closed", 'c-2,"moved']))
            self.take(page, "bad-file")
            people.choose(page, _EXAMPLE)
            page.get_by_label("Due").fill("2099-12-31")
            page.get_by_label("Reference").fill("erasures of May")
            self.take(page, "preview")
            page.get_by_role("button", name="Submit").click()
            page.wait_for_url("**/batches/*")
            return page.url.rpartition("/")[2]

    def approver(self, browser: Browser, site: Site, batch: str) -> None:
        """Approves what waits; puts somebody on hold, and releases somebody."""
        with people.browsing(browser, site, "ben", viewport=_DESK) as page:
            page.goto(f"/batches/{batch}/approve")
            self.take(page, "approve")
            page.get_by_role("button", name="Approve").click()
            people.wait_for_state(page, "running")
            page.locator("figure.rate").wait_for()
            page.wait_for_timeout(4_000)
            self.take(page, "running")
            people.wait_for_state(page, "completed")
            self.take(page, "batch")
            page.goto("/holds")
            self._hold(page, "customer_77aa01\ncustomer_77aa02", "tax audit 2025", "2099-06-30")
            self.take(page, "holds")
            page.get_by_role("button", name="Release").first.click()
            self.take(page, "release")
        with people.browsing(browser, site, "ada", viewport=_DESK) as page:
            people.submit(page, self.file("june.csv", ["customer_id", "customer_77aa01", "customer_77aa02"]))
            people.wait_for_state(page, "completed")
            page.goto("/holds")
            page.get_by_role("button", name="Release customer_77aa01").click()
            page.get_by_role("button", name="Release").click()
            self.take(page, "released")

    def _hold(self, page: Page, ids: str, ground: str, until: str) -> None:
        page.get_by_label("Customer IDs, one a line").fill(ids)
        page.get_by_label("Ground", exact=True).fill(ground)
        page.get_by_label("Last day", exact=True).fill(until)
        page.get_by_role("button", name="Put on hold").click()
        page.get_by_text("tax audit 2025").first.wait_for()

    def admin(self, browser: Browser, site: Site, batch: str) -> None:
        """Pauses and cancels, goes on despite a brake, sends again, and reads the trail."""
        with people.browsing(browser, site, "ada", viewport=_DESK) as page:
            gone = [f"gone_{secrets.token_hex(8)}" for _ in range(300)]
            people.submit(page, self.file("wrong-merchant.csv", ["customer_id", *gone]))
            people.wait_for_state(page, "paused")
            page.reload()
            self.take(page, "brake")
            page.get_by_role("link", name="Cancel").click()
            self.take(page, "cancel")
            page.goto(f"/batches/{batch}/retry")
            self.take(page, "retry")
            page.goto("/audit")
            self.take(page, "audit")
            page.goto("/batches")
            self.take(page, "batches")
        with people.browsing(browser, site, "vera", viewport=_DESK) as page:
            page.goto("/new")
            self.take(page, "refused")

    def elsewhere(self, browser: Browser, site: Site, batch: str) -> None:
        """On a phone, and in the dark."""
        with people.browsing(browser, site, "anna", viewport=people.PHONE) as page:
            for name, address in (("phone-batches", "/batches"), ("phone-batch", f"/batches/{batch}")):
                page.goto(address)
                self.take(page, name)
        with people.browsing(browser, site, "anna", viewport=_DESK, color_scheme="dark") as page:
            page.goto(f"/batches/{batch}")
            self.take(page, "dark")

    def ways_in(self, browser: Browser, site: SignedOnSite) -> None:
        """The sign-in where there is an identity provider."""
        with people.browsing(browser, site, None, viewport=_DESK) as page:
            page.goto("/")
            page.get_by_role("link", name="Sign in with").evaluate(
                "(link, host) => { link.textContent = `Sign in with ${host}` }", "id.example.com"
            )
            self.take(page, "sign-in-provider")


def main(folder: Path) -> None:
    """Take all of them."""
    assert people.CHROMIUM, "there is no chromium: apt-get install chromium"
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        files = Path(name)
        pictures, browser = Pictures(folder, files), people.launch(playwright)
        for each in ("sandbox", "production"):
            (files / each).mkdir()
        with Site(files / "sandbox") as site:
            batch = pictures.submitter(browser, site)
            pictures.approver(browser, site, batch)
            pictures.admin(browser, site, batch)
            pictures.elsewhere(browser, site, batch)
        with (
            Site(files / "production", EXPUNGE_ENVIRONMENT="production") as site,
            people.browsing(browser, site, "anna", viewport=_DESK) as page,
        ):
            people.choose(page, _EXAMPLE)
            pictures.take(page, "production")
        (files / "provider").mkdir()
        with SignedOnSite(files / "provider") as signed_on:
            pictures.ways_in(browser, signed_on)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
