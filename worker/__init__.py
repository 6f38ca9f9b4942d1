"""Knows how to delete customers and account for each of them; see docs/architecture.md."""
