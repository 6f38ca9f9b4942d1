"""``python -m worker.cli``: the same as ``expunge``."""

from worker.cli import main

main()
