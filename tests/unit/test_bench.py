"""What benchmarks conclude from; that they run at all is shown by `make bench-smoke`."""

import re
from pathlib import Path

import pytest

from bench.arrivals import most_in_a_second, rate
from bench.customers import write_csv
from bench.promises import Line, at_least, at_most, table

ROOT = Path(__file__).parents[2]
OURS_IN_RIVALS = ["aiohttp", "httpx", "httpx-aiohttp", "orjson", "uvloop"]
"""Of which the client is made that the rivals use as well."""


@pytest.mark.parametrize(
    ("arrivals", "most"),
    [
        ([], 0),
        ([5.0], 1),
        ([0.0, 0.5, 0.999], 3),
        ([0.0, 0.5, 1.0], 2),
        ([0.0, 0.9, 1.0, 1.1, 1.8, 2.5], 4),
    ],
)
def test_the_busiest_second_may_begin_anywhere_and_does_not_hold_its_end(arrivals: list[float], most: int) -> None:
    assert most_in_a_second(arrivals) == most


def test_a_rate_is_of_the_time_between_first_and_last() -> None:
    assert rate([10.0, 10.5, 11.0]) == 2.0
    assert rate([10.0]) == 0.0


def test_a_limit_itself_holds() -> None:
    assert at_least("x", 0.85, 0.85).holds
    assert at_most("x", 1.1, 1.1).holds
    assert not at_least("x", 0.85, 0.8499).holds
    assert not at_most("x", 1.1, 1.1001).holds


def test_what_does_not_hold_stands_out() -> None:
    text = table([at_most("memory", 100, 120, "{:.0f} MB"), Line("found", "3", "3", True)])
    assert text.splitlines()[2:] == ["| memory | ≤ 100 MB | 120 MB | **no** |", "| found | 3 | 3 | yes |"]


def test_a_file_has_as_many_duplicates_as_asked(tmp_path: Path) -> None:
    write_csv(tmp_path / "customers.csv", 20, repeat_every=5)
    header, *rows = (tmp_path / "customers.csv").read_text().splitlines()
    assert (header, len(rows), len(set(rows))) == ("customer_id", 20, 16)


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("package", OURS_IN_RIVALS)
def test_rivals_have_the_client_that_we_have(package: str) -> None:
    assert locked("bench/requirements.lock")[package] == locked("requirements.lock")[package]
