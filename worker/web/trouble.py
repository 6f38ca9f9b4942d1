"""What keeps the results store from being used: senders hear that it is so, and the log says where and why."""

import time

import structlog
from redis.exceptions import RedisError

from worker.domain.errors import ExpungeError
from worker.store.connection import readable_errors
from worker.web.problems import Problem, problem_of

_EVERY = 60.0  # seconds between two lines of the same

log = structlog.get_logger(__name__)


class StoreTrouble:
    """One store's; many requests may meet it at once, and a line for each would fill the log."""

    def __init__(self, url: str) -> None:
        """The store's address, with its password: neither is shown to whoever asks."""
        self._url = url
        self._last, self._again = "", 0.0

    def problem(self, error: RedisError) -> Problem:
        """What redis-py raised, for whoever asked."""
        try:
            with readable_errors(self._url):
                raise error
        except ExpungeError as readable:
            self._log(str(readable))
            return problem_of(readable)

    def _log(self, why: str) -> None:
        now = time.monotonic()
        if why != self._last or now >= self._again:
            log.warning("the results store cannot be used", why=why)
            self._last, self._again = why, now + _EVERY
