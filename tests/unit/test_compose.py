"""What the Compose file and the Dockerfile promise; there need be no Docker to check it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from worker.cli import app
from worker.setting_values import PREFIX
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DEMO = [name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
GROUP = typer.main.get_group(app)


def test_there_are_the_services_that_the_readme_names() -> None:
    assert set(SERVICES) == {"redis", "worker", "web", "listener", "simulator", "demo-worker", "demo-web", "demo"}
    assert set(OURS) == {"worker", "web", "listener", "simulator", "demo-worker", "demo-web", "demo"}
    assert set(DEMO) == {"simulator", "demo-worker", "demo-web", "demo"}


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_only_keys_that_compose_knows(name: str) -> None:
    known = {
        "build", "cap_drop", "command", "depends_on", "env_file", "environment", "healthcheck", "image", "init",
        "ports", "profiles", "restart", "security_opt", "stop_grace_period", "volumes",
    }  # fmt: skip
    assert set(SERVICES[name]) <= known


def test_redis_keeps_what_it_accepted_over_a_restart() -> None:
    redis = SERVICES["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert redis["command"][0] == "valkey-server"
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    volume, _, folder = redis["volumes"][0].partition(":")
    assert folder == "/data"
    assert volume in COMPOSE["volumes"]
    assert re.fullmatch(r"valkey/valkey:[89]\.\d+", redis["image"])


def test_no_port_is_open_to_the_network() -> None:
    assert not [name for name, service in SERVICES.items() if "network_mode" in service]
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["redis", "simulator", "web", "demo-web"])
def test_what_others_wait_for_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= set(check)


def test_the_health_check_of_the_simulator_is_a_program() -> None:
    kind, python, flag, program = SERVICES["simulator"]["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-c")
    compile(program, "healthcheck", "exec")
    assert f":{port_of_simulator()}/_simulator/stats" in program


@pytest.mark.parametrize("name", SERVICES)
def test_services_wait_for_services_that_exist_and_are_in_the_same_profiles(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert set(SERVICES[other].get("profiles", [])) <= set(SERVICES[name].get("profiles", []))
        assert how["condition"] == ("service_healthy" if "healthcheck" in SERVICES[other] else "service_started")


@pytest.mark.parametrize("name", ["worker", "demo-worker", "listener"])
def test_workers_can_be_scaled_and_come_back(name: str) -> None:
    worker = SERVICES[name]
    assert not {"container_name", "ports", "hostname"} & set(worker)
    assert worker["restart"] == "unless-stopped"
    assert worker["stop_grace_period"] == "30s"
    assert worker["depends_on"]["redis"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", ["worker", "web", "listener"])
def test_an_env_file_that_need_not_exist_is_read(name: str) -> None:
    assert SERVICES[name]["env_file"] == [{"path": ".env", "required": False}]


@pytest.mark.parametrize("name", ["web", "demo-web"])
def test_the_health_check_of_the_page_asks_whether_it_is_ready(name: str) -> None:
    program = SERVICES[name]["healthcheck"]["test"][3]
    compile(program, "healthcheck", "exec")
    assert ":8000/readyz" in program
    assert SERVICES[name]["ports"][0].endswith(":8000")


def test_the_rehearsal_cannot_reach_a_real_upstream_or_a_real_store() -> None:
    """Neither ``.env`` nor a variable of the shell decides where its services send."""
    real = SERVICES["worker"]["environment"]["EXPUNGE_REDIS_URL"]
    for name in DEMO:
        assert "env_file" not in SERVICES[name]
        assert "${" not in json.dumps(SERVICES[name])
    for name in ("demo-worker", "demo-web", "demo"):
        environment = SERVICES[name]["environment"]
        assert environment["EXPUNGE_UPSTREAM_URL"] == f"http://simulator:{port_of_simulator()}"
        assert environment["EXPUNGE_REDIS_URL"] != real
        assert environment["EXPUNGE_ENVIRONMENT"] == "sandbox"


def test_plain_http_is_allowed_in_the_rehearsal_only() -> None:
    assert "EXPUNGE_UPSTREAM_ALLOW_HTTP" not in SERVICES["worker"]["environment"]
    assert "ALLOW_HTTP" not in (ROOT / ".env.example").read_text(encoding="utf-8")
    assert "ALLOW_HTTP" not in DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is parsed by the real parser, options and values included."""
    command, *arguments = SERVICES[name]["command"]
    monkeypatch.chdir(ROOT)
    parser = GROUP.get_command(typer.Context(GROUP), command)
    assert parser is not None
    parser.make_context(command, list(arguments))


@pytest.mark.parametrize("name", OURS)
def test_services_set_variables_that_exist(name: str) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES[name].get("environment", {})) <= known


@pytest.mark.parametrize("name", ["demo-worker", "demo"])
def test_the_settings_of_the_rehearsal_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    assert Settings().merchant_id == "demo"


def test_the_demo_is_taken_from_where_the_image_has_it() -> None:
    _, file, *_ = SERVICES["demo"]["command"]
    source = re.search(rf"^COPY (\S+) {re.escape(file)}$", DOCKERFILE, re.MULTILINE)
    assert source
    assert (ROOT / source[1]).exists()


@pytest.mark.parametrize("name", OURS)
def test_services_have_no_more_rights_than_they_need(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]
    assert "user" not in SERVICES[name]
    assert "privileged" not in SERVICES[name]


def test_the_image_runs_as_a_fixed_user_who_is_not_root() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
    assert users == [("10001", "10001")]
    assert "--uid 10001" in final


def test_the_image_installs_from_the_lock_by_hash_and_then_only_the_package() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)
    assert len(installs) == 2
    assert re.search(r"--require-hashes\s+-r requirements\.lock", installs[0])
    assert "--no-deps ." in installs[1]


def test_base_images_are_pinned() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image) for image in images)


def test_signals_arrive_and_output_is_not_held_back() -> None:
    assert re.search(r'^ENTRYPOINT \["expunge"\]$', DOCKERFILE, re.MULTILINE)
    assert "PYTHONUNBUFFERED=1" in DOCKERFILE
    assert all(SERVICES[name]["init"] is True for name in OURS)


def test_no_secret_gets_into_the_image() -> None:
    assert not re.search(r"^(ARG|ENV).*(TOKEN|PASSWORD|SECRET|KEY)", DOCKERFILE, re.MULTILINE)
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert not [line for line in lines if line.startswith("!.env")]


def test_the_builder_gets_all_that_the_dockerfile_copies() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for names in copied for name in names.split()} == let_through


def test_the_example_of_an_env_file_names_settings_that_exist() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(r"^#?(EXPUNGE_\w+)=", text, re.MULTILINE)) <= known


def test_the_example_of_an_env_file_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Copied as it is, it leaves every default."""
    for variable in [f"{PREFIX}{field.upper()}" for field in Settings.model_fields]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"), encoding="utf-8")
    assert Settings() == Settings(_env_file=None)


def port_of_simulator() -> str:
    command: list[str] = SERVICES["simulator"]["command"]
    return command[command.index("--port") + 1]
