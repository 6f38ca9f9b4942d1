"""The audit trail of one merchant and environment; the store keeps one for all."""

from worker.domain.audit import Entry
from worker.domain.batches import Target
from worker.store.audit import Audit

_AT_ONCE = 500
_LOOKED_AT = 5_000  # entries for one page


class Trail:
    """Reads what concerns one merchant and environment, and what concerns none."""

    def __init__(self, audit: Audit, target: Target) -> None:
        self._audit = audit
        self._owner = (target.environment.value, target.merchant)
        self._owners: dict[str, tuple[str, str]] = {}
        """Whose a batch is: the trail says it once, where it was submitted."""
        self._read_to = ""

    async def page(self, batch_id: str | None, before: str, limit: int) -> tuple[list[Entry], str | None]:
        """Entries, newest first, and the position to go on from, ``None`` at the end; of one batch if asked.

        A page may have fewer, even none, before the end: so many entries that do not fit were looked at.
        """
        await self._learn()
        found: list[Entry] = []
        for _ in range(_LOOKED_AT // _AT_ONCE):
            some = await self._audit.older(before, _AT_ONCE)
            for position, entry in some:
                before = position
                if self._fits(entry) and batch_id in (None, entry.batch_id):
                    found.append(entry)
                    if len(found) == limit:
                        return found, before
            if len(some) < _AT_ONCE:
                return found, None
        return found, before

    async def _learn(self) -> None:
        while some := await self._audit.since(self._read_to):
            for position, entry in some:
                self._read_to = position
                if entry.batch_id is not None and (owner := _owner(entry)):
                    self._owners[entry.batch_id] = owner

    def _fits(self, entry: Entry) -> bool:
        """A token, or a refusal that concerns no batch, is nobody's."""
        owner = self._owners.get(entry.batch_id, ("", "")) if entry.batch_id is not None else _owner(entry)
        return owner in (None, self._owner)


def _owner(entry: Entry) -> tuple[str, str] | None:
    if "environment" not in entry.detail:
        return None
    return entry.detail["environment"], entry.detail.get("merchant", "")
