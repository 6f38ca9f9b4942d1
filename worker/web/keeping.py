"""Files between preview and submission: unnamed on the disk of this process, few, and not for long.

Nobody but the person who sent a file finds it again, and nothing is left of it when the process ends, however it ends.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from worker.intake.csv_file import CsvFile
from worker.settings import Settings
from worker.web.problems import Kind, Problem
from worker.web.uploads import FileFields, Upload, file_name

LASTS = 1800.0
"""Seconds that a file is kept."""
_EACH = 3  # files of one person; the oldest goes for the next
_MOST = 30
_LARGEST = 4  # times the largest upload, all together


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that somebody sent."""

    id: str
    owner: str
    name: str
    size: int
    file: BinaryIO
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of whoever submits it, so that a double click makes one batch."""

    @asynccontextmanager
    async def opened(self, fields: FileFields, settings: Settings) -> AsyncIterator[CsvFile]:
        """The file as CSV, every row of it checked; raises as ``Upload.open``. Several may read it side by side."""
        with _again(self.file) as file, await Upload(file, self.name, {}).open(fields, settings) as csv_file:
            yield csv_file


class KeptFiles:
    """Keeps files by an ID that cannot be guessed."""

    def __init__(self, max_upload: int, lasts: float = LASTS) -> None:
        """``max_upload`` in bytes, ``lasts`` in seconds."""
        self._most_bytes = _LARGEST * max_upload
        self._lasts = lasts
        self._files: dict[str, Kept] = {}
        self._batches: dict[tuple[str, str], str] = {}

    def keep(self, upload: Upload, owner: str) -> Kept:
        """Keep what was uploaded for the person of this name; raises ``Problem`` where there is no place for it."""
        file = _again(upload.file)
        kept = Kept(secrets.token_urlsafe(24), owner, file_name(upload.name), os.fstat(file.fileno()).st_size, file)
        for older in [each for each in self._files.values() if each.owner == owner][: 1 - _EACH]:
            self.let_go(older.id)
        if len(self._files) >= _MOST or sum(map(_size, self._files.values())) + kept.size > self._most_bytes:
            file.close()
            detail = "too many files wait to be submitted; try again in some minutes"
            raise Problem(Kind.UNAVAILABLE, detail, headers={"Retry-After": "300"})
        self._files[kept.id] = kept
        asyncio.get_running_loop().call_later(self._lasts, self.let_go, kept.id)
        return kept

    def find(self, kept_id: str, owner: str) -> Kept:
        """What this person sent; raises ``Problem`` if it is not here, or was sent by somebody else."""
        kept = self._files.get(kept_id)
        if kept is None or kept.owner != owner:
            raise Problem(
                Kind.NOT_FOUND,
                "the file is not here any more: files are kept for half an hour, by one process, and at most three of "
                "a person (a fourth takes the place of the first); look whether its batch is in the list, and choose "
                "it again if not",
            )
        return kept

    def submitted(self, kept: Kept, batch_id: str) -> None:
        """Forget a file of which this batch was made, but for a while not which one that is."""
        self.let_go(kept.id)
        key = (kept.id, kept.owner)
        self._batches[key] = batch_id
        asyncio.get_running_loop().call_later(self._lasts, self._batches.pop, key, None)

    def batch_of(self, kept_id: str, owner: str) -> str | None:
        """The batch that was made of what this person sent."""
        return self._batches.get((kept_id, owner))

    def let_go(self, kept_id: str) -> None:
        """Forget a file; does nothing if it is gone."""
        kept = self._files.pop(kept_id, None)
        if kept is not None:
            kept.file.close()

    def close(self) -> None:
        """Forget all of them."""
        for kept_id in list(self._files):
            self.let_go(kept_id)


def _size(kept: Kept) -> int:
    return kept.size


def _again(file: BinaryIO) -> BinaryIO:
    """The same file, closed by itself; both are read by position."""
    return os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
