"""Measurements: ``python -m bench`` makes them all, ``python -m bench.compare`` and its like one part each."""
