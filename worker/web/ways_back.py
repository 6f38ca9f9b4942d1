"""Where somebody is led who has signed in: to the page that they asked for, and never to another site."""

import re
from urllib.parse import urlsplit

from fastapi import Request

HOME = "/batches"
_LONGEST = 1_000
_PATH = re.compile(r"/[!-\[\]-~]*")
"""Printable ASCII without the backslash: browsers leave tabs out and turn a backslash into a slash."""


def way_back(text: str) -> str:
    """The text if it is the path of a page here, with its query; else ``HOME``."""
    path = text.partition("?")[0]
    is_path = len(text) <= _LONGEST and _PATH.fullmatch(text) and "//" not in path
    return text if is_path and path != "/" and not path.startswith("/session") else HOME


def asked_for(request: Request) -> str:
    """The page that a request asks for, or for a form the page that it stands on; another if ``remember`` said so."""
    remembered: str | None = getattr(request.state, "way_back", None)
    if remembered is not None:
        return remembered
    if request.method == "GET":
        return way_back(_whole(request.scope["path"], request.scope["query_string"].decode("latin-1")))
    try:
        page = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return HOME
    return way_back(_whole(page.path, page.query)) if page.netloc == request.headers.get("host") else HOME


def remember(request: Request, text: str) -> str:
    """Take what a request says of where it is to lead, so that a page that refuses it says that again."""
    request.state.way_back = found = way_back(text)
    return found


def _whole(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path
