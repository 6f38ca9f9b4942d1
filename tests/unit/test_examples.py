"""The examples for schedules: they call commands that exist, and treat exit codes as the documentation says."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from worker.cli import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPT = (EXAMPLES / "nightly.sh").read_text(encoding="utf-8")
CRONTAB = (EXAMPLES / "expunge.crontab").read_text(encoding="utf-8")
CRONJOB: dict[str, Any] = yaml.safe_load((EXAMPLES / "expunge-cronjob.yaml").read_text(encoding="utf-8"))
JOB = CRONJOB["spec"]["jobTemplate"]["spec"]
POD = JOB["template"]["spec"]
(CONTAINER,) = POD["containers"]
GROUP = typer.main.get_group(app)


@pytest.mark.parametrize("text", [SCRIPT, CONTAINER["args"][0], CRONTAB], ids=["nightly.sh", "CronJob", "crontab"])
def test_every_command_and_option_of_an_example_exists(text: str) -> None:
    code = "\n".join(line.partition("# ")[0] for line in text.splitlines())
    for command, rest in re.findall(r"(?:^|[ (])expunge ([a-z]+)\b([^)\n]*)", code, re.MULTILINE):
        if command == "nightly":  # of a message
            continue
        found = GROUP.get_command(typer.Context(GROUP), command)
        assert found is not None, command
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known


def test_the_script_is_one_and_runs() -> None:
    assert (EXAMPLES / "nightly.sh").stat().st_mode & 0o111
    subprocess.run(["/bin/sh", "-n", EXAMPLES / "nightly.sh"], check=True)
    subprocess.run(["/bin/sh", "-n"], input=CONTAINER["args"][0], text=True, check=True)


def test_a_crontab_has_no_percent_sign_that_would_end_its_line() -> None:
    jobs = [line for line in CRONTAB.splitlines() if re.match(r"[*\d]", line)]
    assert len(jobs) == 2
    for job in jobs:
        assert re.search(r"(?<!\\)%", job) is None


def test_the_cronjob_does_what_the_script_does() -> None:
    commands = re.findall(r"^.*expunge (?:submit|watch|report).*$", SCRIPT, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert command.strip() in CONTAINER["args"][0]


def test_the_cronjob_tries_again_only_what_may_end_otherwise() -> None:
    fail, ignore = JOB["podFailurePolicy"]["rules"]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4])
    assert fail["onExitCodes"]["containerName"] == CONTAINER["name"]
    assert ignore["action"] == "Ignore"
    assert POD["restartPolicy"] == "Never", "a policy for failures of pods needs it"
    assert CRONJOB["spec"]["concurrencyPolicy"] == "Forbid"


def test_the_cronjob_can_do_no_more_than_it_must() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["automountServiceAccountToken"] is False
    context = CONTAINER["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert context["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in POD["volumes"]}


def test_the_documentation_quotes_the_crontab() -> None:
    page = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    for job in (line for line in CRONTAB.splitlines() if re.match(r"[*\d]", line)):
        assert job.partition(" || echo")[0] in page
