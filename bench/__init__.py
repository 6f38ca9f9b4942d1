"""Measurements: ``python -m bench`` compares; ``bench.memory``, ``.intake`` and ``.rates`` weigh single promises."""
