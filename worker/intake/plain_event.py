"""CloudEvents as nearly all of them are, read in a third of the time that the package `cloudevents` takes.

What is not plainly right is left to the package, which has the last word and says what is wrong.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from worker.domain.events import BadEventError

_PATH = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*)+")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})")
_EXTENSION = re.compile(r"[a-z0-9]+")
_REQUIRED = ("id", "source", "type")
_TEXTS = ("subject", "datacontenttype", "dataschema")
_KNOWN = frozenset(("specversion", "time", "data", *_REQUIRED, *_TEXTS))
SIMPLE = (str, int)  # and so bool
"""Types that attributes have in JSON (CloudEvents, "JSON Event Format", 2.2)."""
JSON = "application/json"
_IS_JSON = re.compile(r"(?:application|text)/(?:[\w.-]+\+)?json")


class PlainEvent:
    """One that was checked, with as much of the package's own interface as is asked for."""

    __slots__ = ("_attributes",)

    def __init__(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    def get_id(self) -> str:
        return str(self._attributes["id"])

    def get_source(self) -> str:
        return str(self._attributes["source"])

    def get_type(self) -> str:
        return str(self._attributes["type"])

    def get_data(self) -> Any:
        return self._attributes["data"]

    def get_extension(self, name: str) -> Any:
        return self._attributes.get(name)


def parsed(body: bytes) -> Any:
    """JSON as RFC 8259 has it. Raises ``BadEventError`` as ``once`` does, else ``ValueError`` or ``RecursionError``."""
    return _DECODER.decode(body.decode())


def is_json(media_type: str) -> bool:
    """Whether data of this media type are JSON."""
    return _IS_JSON.fullmatch(media_type.partition(";")[0].strip().lower()) is not None


def plainly(found: Any) -> PlainEvent | None:
    """An event of JSON that was ``parsed``; ``None`` if that is to be looked at more closely."""
    try:
        return PlainEvent(found) if _is_plain(found) else None
    except ValueError:
        return None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON, in which no key may be twice: readers differ in which counts, and so who is deleted.

    Raises ``BadEventError``.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadEventError("a key is twice in one JSON object")
    return found


class PlainPath:
    """A JSONPath that only goes down by names, as ``$.customer.id``: it finds one value, or none."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    @classmethod
    def of(cls, text: str) -> "PlainPath | None":
        """``None`` if it is another kind of path."""
        return cls(text.split(".")[1:]) if _PATH.fullmatch(text) else None

    def findall(self, data: Any) -> list[Any]:
        for name in self._names:
            if not isinstance(data, dict) or name not in data:
                return []
            data = data[name]
        return [data]


def _no_number(_: str) -> None:
    raise BadEventError("it has NaN or Infinity in it, which are no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=once, parse_constant=_no_number)


def _is_plain(found: Any) -> bool:
    if not isinstance(found, dict) or found.get("specversion") != "1.0" or found.get("data") is None:
        return False
    if not all(isinstance(found.get(name), str) and found[name] for name in _REQUIRED):
        return False
    if not all(isinstance(found[name], str) and found[name] for name in _TEXTS if name in found):
        return False
    if "time" in found and not _is_time(found["time"]):
        return False
    if found.get("datacontenttype", JSON) != JSON and not is_json(found["datacontenttype"]):
        return False
    return all(_EXTENSION.fullmatch(name) and isinstance(found[name], SIMPLE) for name in found if name not in _KNOWN)


def _is_time(value: Any) -> bool:
    """Raises ``ValueError`` for one that does not exist."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None and bool(datetime.fromisoformat(value))
