"""``expunge events``: deletions that other systems ask for, and what these are told."""

from worker.cli.callbacks import try_callbacks
from worker.cli.dead_letters import dead_letters
from worker.cli.listen import listen


def events() -> None:
    """Take events of other systems, look after those that can never be taken, try what tells other systems."""


SUBCOMMANDS = {"listen": listen, "dead-letters": dead_letters, "test-callback": try_callbacks}
