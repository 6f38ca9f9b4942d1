"""What many look at is rendered once a second, however many look."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

_FRESH = 1.0  # seconds
_MOST = 200


class Fragments:
    """Parts of pages that show the same to everybody."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    async def of(self, key: Hashable, render: Callable[[], Awaitable[str]]) -> str:
        """The part of that key, at most a second old; ``key`` has all that makes it another for somebody else."""
        made, text = self._kept.get(key, (0.0, ""))
        if time.monotonic() - made >= _FRESH:
            made, text = time.monotonic(), await render()
            self._kept[key] = (made, text)
        self._kept.move_to_end(key)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return text
