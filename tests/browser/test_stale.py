"""A page that follows a batch, while the server or the store behind it is away."""

from pathlib import Path

import redis
from playwright.sync_api import Browser, expect

from tests.browser.conftest import MakeFile
from tests.browser.people import sign_in, submit
from tests.browser.site import Site


def test_it_says_that_it_is_not_up_to_date_until_it_is_again(
    browser: Browser, make_file: MakeFile, tmp_path: Path
) -> None:
    with Site(tmp_path, EXPUNGE_RATE_LIMIT="1/s") as site:
        page = browser.new_context(base_url=site.url).new_page()
        sign_in(page, site.tokens["anna"])
        submit(page, make_file([f"customer_{number}" for number in range(300)]))
        notice = page.get_by_text("This is not up to date")
        expect(notice).to_be_hidden()
        site.web.stop()
        expect(notice).to_be_visible()
        with site.web:
            expect(notice).to_be_hidden()
            with redis.Redis.from_url(site.redis_url) as store:
                store.execute_command("ACL", "SETUSER", "default", "-@all", "+acl")
                expect(notice).to_be_visible()
                store.execute_command("ACL", "SETUSER", "default", "+@all")
            expect(notice).to_be_hidden()
        page.context.close()
