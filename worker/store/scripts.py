"""The Lua scripts, one file an atomic act; each is registered once and loaded again by itself after SCRIPT FLUSH."""

from importlib.resources import files

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

_LUA = files(__package__) / "lua"
_PRELUDE = (_LUA / "prelude.lua").read_text()


def load(redis: Redis, name: str) -> AsyncScript:
    """The script ``lua/<name>.lua``, ready to be called with ``keys`` and ``args``; connects only when called."""
    return redis.register_script(_PRELUDE + (_LUA / f"{name}.lua").read_text())
