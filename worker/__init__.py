"""Knows how to delete customers and account for each of them; see docs/architecture.md."""

from importlib.metadata import version

__version__ = version("expunge")
