"""The address of a master that Redis Sentinel names: ``sentinel://user:password@host:26379,host:26379/NAME/0``."""

import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

SCHEME = "sentinel://"
_FORM = re.compile(
    r"sentinel://(?:(?P<user>[^:@/]*):(?P<password>[^@/]*)@)?(?P<hosts>[^@/]+)/(?P<name>[A-Za-z0-9._-]+)(?:/(?P<db>[0-9]{1,3}))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_PORT = 26379


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where the Sentinels are, and what they call the master."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    database: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    """Of the master; Sentinels are asked without one."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read the address; raises ``ValueError`` that says how it is written, without what was given."""
        match = _FORM.fullmatch(url)
        hosts = [_HOST.fullmatch(host) for host in match["hosts"].split(",")] if match else []
        if match is None or not all(host and int(host["port"] or _PORT) < 65536 for host in hosts):
            raise ValueError("must be written sentinel://user:password@host:26379,host:26379/NAME/0")
        return cls(
            hosts=tuple((host["host"].strip("[]"), int(host["port"] or _PORT)) for host in hosts if host),
            name=match["name"],
            database=int(match["db"] or 0),
            user=unquote(match["user"]) if match["user"] else None,
            password=unquote(match["password"]) if match["password"] else None,
        )
