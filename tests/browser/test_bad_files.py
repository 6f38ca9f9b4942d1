"""A file that cannot be taken gets a page that says in a sentence what is wrong, where, and what to do."""

import gzip
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.people import browsing, choose
from tests.browser.site import Site

BAD = {
    "an image": ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 8, "is an image", "choose a CSV file"),
    "UTF-16": ("a.csv", "customer_id\nc1\n".encode("utf-16"), "a.csv: is UTF-16 or UTF-32, not UTF-8", "Mend the file"),
    "an unclosed quote": ("a.csv", b'customer_id\nc1\n"c2\nc3\n', "line 3: has a quote that is never closed", "line 3"),
    "no rows": ("a.csv", b"customer_id\n", "has no rows: there is only a header", "choose it again"),
    "an empty file": ("a.csv", b"", "is empty", "choose it again"),
    "100 MB of one line": ("a.csv", b"x" * 100_000_000, "line 1: is over 64 KiB", "choose it again"),
    "a gzip bomb": ("a.csv.gz", b"", "when unpacked: split it", "choose it again"),
}


def bomb() -> bytes:
    """A gigabyte and more of long lines in a megabyte."""
    return gzip.compress(b"customer_id\n") + gzip.compress((b"x" * 60_000 + b"\n") * 1_000, 9) * 20


@pytest.mark.parametrize("kind", BAD)
def test_it_is_said_what_is_wrong(site: Site, browser: Browser, tmp_path: Path, kind: str) -> None:
    name, content, problem, advice = BAD[kind]
    path = tmp_path / name
    path.write_bytes(content if kind != "a gzip bomb" else bomb())
    with browsing(browser, site, "anna") as page:
        choose(page, path)
        expect(page.get_by_role("alert")).to_contain_text(problem, timeout=60_000)
        expect(page.get_by_role("main")).to_contain_text(advice)
        expect(page.get_by_role("main")).to_contain_text("Nothing was sent")
        assert "traceback" not in page.content().lower()


def test_no_file_at_all(site: Site, browser: Browser) -> None:
    """Without what keeps a browser from sending the empty form."""
    with browsing(browser, site, "anna", java_script_enabled=True) as page:
        page.goto("/new")
        page.evaluate("document.querySelector('#file').required = false")
        page.get_by_role("button", name="Look at the file").click()
        expect(page.get_by_role("alert")).to_contain_text("There is no file: choose one")
        expect(page.get_by_role("link", name="Choose a file")).to_be_visible()
