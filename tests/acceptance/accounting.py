"""What the upstream saw against what the report says (SPEC 4, promises 1 to 3)."""

import csv
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from worker.simulator import Entry

MakeIds = Callable[[int], list[str]]
IN_FLIGHT = 64


def wait_for(
    condition: Callable[[], bool],
    seconds: float = 60.0,
    otherwise: Callable[[], str] = lambda: "it did not happen in time",
) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, otherwise()
        time.sleep(0.02)


def read_report(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_agree(
    ids: Sequence[str], report: Sequence[dict[str, str]], log: Sequence[Entry], *, most_repeated: int
) -> None:
    """Every row once and in order; nobody else asked for; what is called deleted or absent is gone, and by us.

    All IDs existed, so a 404 is the answer to a repeated request: to call it ``not_found`` would hide a deletion.
    """
    assert [row["customer_id"] for row in report] == list(ids)
    requests = Counter(entry.id for entry in log)
    assert set(requests) == set(ids), "nobody left out, nobody deleted who was not asked for"
    executed = Counter(entry.id for entry in log if entry.executed)
    assert executed == Counter(ids)
    confirmed = {entry.id for entry in log if entry.executed and entry.status == 200}
    for row in report:
        assert row["expunge_outcome"] in {"deleted", "absent"}, row
        if row["expunge_outcome"] == "deleted":
            assert (row["expunge_reason"], row["customer_id"] in confirmed) == ("confirmed", True), row
        else:
            assert row["expunge_reason"] in {"after_interrupted_attempt", "after_unanswered_attempt"}, row
            assert requests[row["customer_id"]] > 1, row
    assert requests.total() - len(ids) <= most_repeated
