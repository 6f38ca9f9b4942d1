"""The bytes of an input: a file, a gzip file or standard input, readable any number of times."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
import zlib
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from worker.domain.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GIBIBYTE = 1 << 30
_CHUNK = 1 << 18
GZIP = b"\x1f\x8b"
_NO_TEXT = (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"%PDF-", b"\xd0\xcf\x11\xe0")
_UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


class Reading:
    """One pass over a source from its first byte; several may run at once."""

    def __init__(self, stream: "io.BufferedReader[Any]", raw: "_Hashed") -> None:
        """``stream`` gives the unpacked bytes; reading it raises InputError, never OSError."""
        self.stream = stream
        self._raw = raw

    @property
    def sha256(self) -> str:
        """Of the file's bytes as given (packed, if it is), once the stream has been read to its end."""
        return self._raw.digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Source:
    """An opened input. ``path`` is what the caller named, for errors; ``name`` the file's own, for reports."""

    path: str
    name: str
    file: BinaryIO
    packed: bool
    max_unpacked: int

    @classmethod
    def open(cls, path: str | Path, max_unpacked: int) -> "Source":
        """Open a file, or standard input for ``-``; what cannot be read twice is copied to a temporary file.

        That copy is readable by its owner only and is gone when the source is closed. Raises InputError when there is
        nothing to read, with what to do about it.
        """
        if str(path) == "-":
            shown = "standard input"
            return cls(
                shown, shown, _spooled(sys.stdin.buffer, shown, max_unpacked), packed=False, max_unpacked=max_unpacked
            )
        shown = str(path)
        file = _opened(shown)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            with file:
                spooled = _spooled(file, shown, max_unpacked)
            file = spooled
        return cls(shown, Path(path).name, file, packed=shown.lower().endswith(".gz"), max_unpacked=max_unpacked)

    @classmethod
    def of(cls, file: BinaryIO, name: str, max_unpacked: int) -> "Source":
        """What lies in an opened file on the disk under a name that somebody gave it; packed if it looks so."""
        packed = os.pread(file.fileno(), len(GZIP), 0) == GZIP or name.lower().endswith(".gz")
        return cls(name, name, file, packed=packed, max_unpacked=max_unpacked)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        self.file.close()

    def read(self) -> Reading:
        """Begin a pass, behind the byte order mark if there is one."""
        raw = _Hashed(self.file.fileno(), self.path)
        stream: io.BufferedReader[Any] = io.BufferedReader(raw, _CHUNK)
        if self.packed:
            stream = io.BufferedReader(_Unpacked(stream, self.path, self.max_unpacked), _CHUNK)
        if stream.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
            stream.read(len(BOM_UTF8))
        return Reading(stream, raw)

    def check_encoding(self) -> None:
        """Raise InputError for what is wrong as a whole: no text, UTF-16 or UTF-32, gzip twice or by another name."""
        head = self.read().stream.read(4096)
        if head.startswith(GZIP) and self.packed:
            raise InputError(self.path, "is packed with gzip twice: unpack it once")
        if head.startswith(GZIP):
            raise InputError(self.path, "is packed with gzip: unpack it, or give it a name that ends with .csv.gz")
        if head.startswith(b"PK\x03\x04"):
            raise InputError(self.path, "is a workbook or a zip file: save it as 'CSV UTF-8'")
        if head.startswith(_NO_TEXT):
            raise InputError(self.path, "is an image, a PDF or an old workbook: choose a CSV file")
        if head and not head.strip(b"\0"):
            raise InputError(self.path, "has NUL characters where its text should be: export or copy it anew")
        if head.startswith(_UTF_16_OR_32) or b"\0" in head[:4] or head.count(0) * 4 > len(head):
            raise InputError(self.path, "is UTF-16 or UTF-32, not UTF-8: save it as 'CSV UTF-8'")


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb", buffering=0)
    except FileNotFoundError:
        problem = "does not exist: check the path"
    except IsADirectoryError:
        problem = "is a directory: name a CSV file"
    except PermissionError:
        problem = "may not be read by this user: check its permissions"
    except (OSError, ValueError) as error:
        problem = f"cannot be opened ({getattr(error, 'strerror', None) or 'not a path'}): name a CSV file"
    raise InputError(path, problem)


def _spooled(stream: BinaryIO, name: str, limit: int) -> BinaryIO:
    """A copy of the stream in an unnamed temporary file of mode 0600."""
    spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the Source closes it
    try:
        while spool.tell() <= limit and (chunk := stream.read(_CHUNK)):
            spool.write(chunk)
    except OSError as error:
        spool.close()
        free = shutil.disk_usage(tempfile.gettempdir()).free
        problem = f"cannot be copied to {tempfile.gettempdir()} ({error.strerror}, {_size(free)} free there)"
        raise InputError(name, problem) from None
    except BaseException:
        spool.close()
        raise
    if spool.tell() > limit:
        spool.close()
        raise InputError(name, f"is over {_size(limit)}: split it")
    return spool


def _size(count: int) -> str:
    if count >= GIBIBYTE and count % GIBIBYTE == 0:
        return f"{count // GIBIBYTE} GiB"
    return f"{count:,} bytes"


class _Hashed(io.RawIOBase):
    """A file from its beginning, by its own position; ``digest`` has seen every byte that was read."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.digest = hashlib.sha256()
        self._descriptor = descriptor
        self._name = name
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        try:
            count = os.preadv(self._descriptor, [view], self._position)
        except OSError as error:
            raise InputError(self._name, f"cannot be read ({error.strerror})") from None
        self.digest.update(view[:count])
        self._position += count
        return count


class _Unpacked(io.RawIOBase):
    """A gzip stream's content, up to a limit in bytes."""

    def __init__(self, packed: "io.BufferedReader[Any]", name: str, limit: int) -> None:
        self._unpacking = gzip.GzipFile(fileobj=packed, mode="rb")
        self._name = name
        self._limit = limit
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        try:
            chunk = self._unpacking.read1(len(view))
        except EOFError:
            raise InputError(self._name, "is cut short: it ends within its packed data; copy it again") from None
        except (gzip.BadGzipFile, zlib.error):
            raise InputError(self._name, "is damaged or not a gzip file; copy or pack it again") from None
        self._count += len(chunk)
        if self._count > self._limit:
            raise InputError(self._name, f"is over {_size(self._limit)} when unpacked: split it, or unpack it yourself")
        view[: len(chunk)] = chunk
        return len(chunk)
