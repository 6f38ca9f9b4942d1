"""Files and commands that a guard refuses (SPEC 5, 6), with a worker at work that would send what got past it."""

import json
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.accounting import MakeIds
from tests.acceptance.conftest import Expunge
from tests.acceptance.supervision import SupervisedWorker
from worker.simulator import Scenario, SimulatorThread


@pytest.fixture
def site(expunge: Expunge, redis_server: str) -> Iterator[tuple[Expunge, SimulatorThread]]:
    """A deployment whose worker sends at once what is accepted."""
    with SimulatorThread(Scenario()) as upstream:
        expunge.environment |= {"EXPUNGE_REDIS_URL": redis_server, "EXPUNGE_UPSTREAM_URL": upstream.url}
        with SupervisedWorker(expunge):
            yield expunge, upstream


def is_refused(expunge: Expunge, *command: str, saying: str, **settings: str) -> bool:
    """Whether it exits 4 with nothing on stdout, and a last line that says so."""
    ended = expunge(*command, **settings)
    assert (ended.returncode, ended.stdout) == (4, ""), ended.stderr
    assert saying in ended.stderr.splitlines()[-1]
    return True


def test_what_is_refused_is_not_sent(site: tuple[Expunge, SimulatorThread], make_ids: MakeIds) -> None:
    expunge, upstream = site
    done, others = make_ids(20), make_ids(21)
    name, larger = expunge.csv(done), expunge.csv(others, "larger.csv")
    batch = expunge("submit", name, "--reference", "march").stdout.strip()
    assert expunge("watch", batch).returncode == 0

    assert is_refused(expunge, "submit", larger, saying="EXPUNGE_MAX_BATCH", EXPUNGE_MAX_BATCH="20")
    assert is_refused(expunge, "run", larger, saying="EXPUNGE_MAX_BATCH", EXPUNGE_MAX_BATCH="20")
    assert is_refused(expunge, "submit", name, saying="--again")
    assert is_refused(expunge, "run", name, saying="--again")
    assert is_refused(expunge, "submit", larger, "--reference", "march", saying="use another reference")
    assert is_refused(expunge, "run", larger, "--reference", "march", saying="use another reference")
    assert is_refused(expunge, "resume", batch, saying="is completed")
    assert is_refused(expunge, "resume", batch, "--despite", "failure_threshold", saying="is completed")
    assert is_refused(expunge, "cancel", batch, saying="is completed")

    time.sleep(6)  # a round of the reconciler
    assert sorted(entry.id for entry in upstream.log) == sorted(done)
    assert [each["batch"] for each in json.loads(expunge("batches", "--json").stdout)["batches"]] == [batch]


def test_a_file_that_was_taken_is_sent_again_only_to_those_who_are_not_known_to_be_gone(
    site: tuple[Expunge, SimulatorThread], make_ids: MakeIds
) -> None:
    expunge, upstream = site
    ids = make_ids(20)
    name = expunge.csv(ids)
    assert expunge("watch", expunge("submit", name).stdout.strip()).returncode == 0
    again = expunge("submit", name, "--again").stdout.strip()
    assert expunge("watch", again).returncode == 0
    assert sorted(entry.id for entry in upstream.log) == sorted(ids)
    assert json.loads(expunge("status", again, "--json").stdout)["tally"]["absent"] == len(ids)
