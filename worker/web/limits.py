"""How often somebody may ask, counted in this process."""

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from worker.domain.rates import Rate
from worker.web.problems import Kind, Problem

_STRANGERS = (RateLimitItemPerSecond(20), RateLimitItemPerSecond(200, 60))
"""For an address from which somebody asks who does not show who they are."""


class Limits:
    """The limits of tokens, and of addresses without one."""

    def __init__(self, rate: Rate) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._of_tokens = tuple(RateLimitItemPerSecond(window.limit, window.seconds) for window in rate.windows)

    async def count(self, token_id: str) -> None:
        """Count a request with a token; raises ``Problem`` when it is one too many."""
        await self._count(self._of_tokens, "token", token_id)

    async def count_stranger(self, address: str) -> None:
        """Count a request from an address that shows no token, or a wrong one; raises ``Problem`` likewise."""
        await self._count(_STRANGERS, "address", address)

    async def _count(self, items: tuple[RateLimitItem, ...], kind: str, whose: str) -> None:
        for item in items:
            if not await self._limiter.hit(item, kind, whose):
                detail = f"at most {item.amount} requests in {item.get_expiry()} s; ask again later"
                raise Problem(Kind.RATE_LIMIT, detail, headers={"Retry-After": str(item.get_expiry())})
