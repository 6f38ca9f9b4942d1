"""``expunge events``: what other systems are told."""

from worker.cli.callbacks import try_callbacks


def events() -> None:
    """Try what tells other systems what becomes of batches."""


SUBCOMMANDS = {"test-callback": try_callbacks}
