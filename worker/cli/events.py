"""``expunge events``: deletions that other systems ask for."""

from worker.cli.dead_letters import dead_letters
from worker.cli.listen import listen


def events() -> None:
    """Take events of other systems from a Redis Stream, and look after those that can never be taken."""


SUBCOMMANDS = {"listen": listen, "dead-letters": dead_letters}
