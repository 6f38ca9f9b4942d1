"""The documentation names all that the code has: what is added without being documented fails here (STYLE)."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from worker.cli import app, summary
from worker.domain import errors
from worker.domain.audit import Deed
from worker.domain.batches import BatchState, StateReason
from worker.domain.errors import Guard
from worker.domain.outcomes import Actor, Outcome, Reason
from worker.domain.people import MAY, Act, Role
from worker.reports.columns import COLUMNS, ReportFormat
from worker.setting_values import PREFIX
from worker.settings import Settings
from worker.simulator import BUILT_IN, FAULTS, Entry, Rule, Scenario
from worker.web.access import acts_of
from worker.web.app import PUBLIC, create_app
from worker.web.problems import Kind
from worker.web.uploads import SubmissionFields

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
GROUP = typer.main.get_group(app)
COMMANDS = {name: GROUP.get_command(typer.Context(GROUP), name) for name in GROUP.list_commands(typer.Context(GROUP))}
EXIT_CODES = {
    0,
    3,
    130,
    *(
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ExpungeError)
    ),
}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def row(text: str, *begin: str) -> list[str]:
    """The cells of the table row that begins with these cells; none if there is no such row."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[: len(begin)] == list(begin):
            return cells
    return []


def code(word: object) -> str:
    return f"`{word}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    cells = row(page("settings.md"), code(f"{PREFIX}{name.upper()}"))
    assert len(cells) == 4, f"docs/settings.md has no row of {name}"
    assert all(cells)
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    if default not in (None, "", {}, (), frozenset()):
        shown = str(default).lower() if isinstance(default, bool) else str(default).removesuffix(".0")
        assert cells[1] == code(shown)
    assert cells[3].startswith("yes") == ("Secret" in str(Settings.model_fields[name].annotation))


def test_the_secrets_folder_is_documented() -> None:
    assert code("EXPUNGE_SECRETS_DIR") in page("settings.md")


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_documented_with_its_meaning(outcome: Outcome) -> None:
    cells = row(page("outcomes.md"), code(outcome.value))
    assert cells
    assert cells[1].startswith(outcome.meaning)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_documented_with_its_next_step(reason: Reason) -> None:
    section = page("outcomes.md").partition(f"### `{reason.outcome.value}`")[2].partition("\n#")[0]
    cells = row(section, code(reason.text))
    assert len(cells) == 5, f"docs/outcomes.md has no row of {reason.text} under {reason.outcome.value}"
    assert cells[1]
    assert cells[2:] == ["yes" if reason.retryable else "no", reason.actor.value, reason.next_step]


def test_every_reason_that_is_documented_exists() -> None:
    body = page("outcomes.md").partition("## The reasons")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", body, re.MULTILINE)) == sorted(reason.text for reason in Reason)


@pytest.mark.parametrize("actor", Actor)
def test_every_actor_is_documented(actor: Actor) -> None:
    assert code(actor.value) in page("outcomes.md")


def test_report_columns_are_documented_in_their_order() -> None:
    assert tuple(re.findall(r"^\| `(expunge_\w+)` \|", page("report.md"), re.MULTILINE)) == COLUMNS


@pytest.mark.parametrize("report_format", ReportFormat)
def test_every_report_format_is_documented(report_format: ReportFormat) -> None:
    assert code(report_format.value) in page("command-line.md")


@pytest.mark.parametrize("exit_code", sorted(EXIT_CODES))
def test_every_exit_code_is_documented(exit_code: int) -> None:
    assert row(page("command-line.md"), str(exit_code))
    assert row((ROOT / "README.md").read_text(encoding="utf-8"), str(exit_code))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10, "the commands are not where this test looks for them"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_what_the_command_says_of_itself(command: str) -> None:
    """It is read from the source, so that a list of commands need not import them all."""
    found = COMMANDS[command]
    assert found is not None
    assert summary(command) == (found.help or "").partition("\n")[0] != ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_with_its_options(command: str) -> None:
    section = section_of(command)
    assert f"expunge {command}" in section, f"docs/command-line.md has no section that names expunge {command}"
    for option in options_of(command):
        assert re.search(rf"`{re.escape(option)}[` ]", section), f"{option} of {command} is not documented"


def section_of(command: str) -> str:
    for section in page("command-line.md").split("\n## "):
        if command in section.partition("\n")[0].split(", "):
            return section
    return ""


def options_of(command: str) -> Iterator[str]:
    found = COMMANDS[command]
    assert found is not None
    for each in (found, *vars(found).get("commands", {}).values()):  # of a group, also those of its own commands
        for parameter in each.params:
            if parameter.param_type_name == "option":
                yield from (option for option in parameter.opts if option != "--help")


@pytest.mark.parametrize("act", Act)
def test_the_table_of_roles_is_that_of_the_code(act: Act) -> None:
    cells = row(page("safety.md"), code(act.value))
    assert row(page("safety.md"), "act") == ["act", "commands", *map(code, Role)]
    assert cells[2:] == [MAY[act].get(role, "") for role in Role]


@pytest.mark.parametrize("guard", Guard)
def test_every_guard_is_documented(guard: Guard) -> None:
    assert row(page("safety.md"), code(guard.value))


@pytest.mark.parametrize("deed", Deed)
def test_every_deed_of_the_audit_trail_is_documented(deed: Deed) -> None:
    assert re.search(rf"^\| (`\w+`, )?`{deed.value}`", page("safety.md"), re.MULTILINE)


@pytest.mark.parametrize("kind", Kind)
def test_every_problem_is_documented_with_its_status(kind: Kind) -> None:
    assert row(page("api.md"), code(kind.value.word), str(kind.status))


def test_every_problem_that_is_documented_exists() -> None:
    table = page("api.md").partition("## Problems")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [kind.value.word for kind in Kind]


def test_every_address_is_documented_with_its_act_and_no_other() -> None:
    app = create_app(Settings(_env_file=None, redis_url=SecretStr("redis://localhost:1"), upstream_name="tests"))
    addresses = set()
    for route in iter_route_contexts(app.routes):
        acts = acts_of(route.dependant) if hasattr(route.original_route, "dependant") else set()
        for method in (route.methods or set()) - {"HEAD"}:
            if getattr(route, "include_in_schema", True) or route.path in PUBLIC:
                addresses.add((code(f"{method} {route.path}"), "".join(map(code, acts))))
    rows = re.findall(r"^\| (`[A-Z]+ /[^`]*`) \| (`?\w*`?) ?\|", page("api.md"), re.MULTILINE)
    assert set(rows) == addresses


@pytest.mark.parametrize("field", SubmissionFields.model_fields)
def test_every_field_of_a_submission_is_documented(field: str) -> None:
    assert code(field) in page("api.md").partition("## Files")[2].partition("\n## ")[0]


def test_every_option_that_is_documented_exists() -> None:
    known = {option for command in COMMANDS for option in options_of(command)}
    known |= {"--help", "--version", "--install-completion", "--show-completion", "-h"}
    assert set(re.findall(r"`(--?[a-z-]+)[` ]", page("command-line.md"))) <= known


@pytest.mark.parametrize("name", [*FAULTS, *BUILT_IN, *Entry._fields])
def test_every_word_of_the_simulator_is_documented(name: str) -> None:
    assert code(name) in page("simulator.md")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_documented_with_its_keys(fault: str) -> None:
    cells = row(page("simulator.md"), code(fault))
    assert len(cells) == 4
    for key in FAULTS[fault].options:
        assert code(key) in cells[3], f"docs/simulator.md does not say that {fault} takes {key}"


@pytest.mark.parametrize("model", [Scenario, Rule])
def test_every_key_of_a_scenario_is_documented(model: type[Scenario] | type[Rule]) -> None:
    for name, field in model.model_fields.items():
        key = field.alias or name
        assert re.search(rf"`{key}`|^{key} =|^\[\[{key}\]\]", page("simulator.md"), re.MULTILINE), key


@pytest.mark.parametrize("state", BatchState)
def test_every_state_is_documented(state: BatchState) -> None:
    assert row(page("architecture.md"), code(state.value))


@pytest.mark.parametrize("reason", StateReason)
def test_every_state_reason_is_documented_with_what_to_do(reason: StateReason) -> None:
    assert row(page("architecture.md"), code(reason.value))
    assert len(row(page("operations.md"), code(reason.value))) == 3


def test_every_lua_script_is_documented() -> None:
    scripts = sorted(path.relative_to(ROOT / "worker").as_posix() for path in (ROOT / "worker").rglob("*.lua"))
    documented = re.findall(r"^\| `([\w/]+\.lua)`", page("architecture.md"), re.MULTILINE)
    assert sorted(documented) == scripts


def test_every_room_has_its_floor_in_the_documentation() -> None:
    rooms = {f"worker/{path.name}{'/' if path.is_dir() else ''}" for path in (ROOT / "worker").glob("[!_]*")}
    floors = page("architecture.md").partition("## Floors")[2].partition("\n## ")[0]
    assert {room for room in rooms if code(room) not in floors} == set()


def test_every_decision_is_listed() -> None:
    for path in (DOCS / "decisions").glob("*.md"):
        assert f"(decisions/{path.name})" in page("architecture.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(linked), f"{path.name} links to {target}, which has no such heading"


def anchors(path: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_variable_that_a_page_names_exists(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {"EXPUNGE_SECRETS_DIR"}
    assert set(re.findall(r"EXPUNGE_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|^ {4}(?:\$ )?|\$\()expunge ([a-z]+)", text, re.MULTILINE)
    assert set(named) <= set(COMMANDS)


@pytest.mark.parametrize("name", ["htmx.org", "axe-core"])
def test_what_others_made_is_what_the_page_says_to_the_byte(name: str) -> None:
    """The package, its version and its SHA-256, so that anybody can compare it with the registry's."""
    (line,) = [line for line in page("web.md").splitlines() if f"npm package `{name}`" in line]
    version, _, digest = re.split(r" *\| *", line)[2:5]
    folders = [ROOT / "worker/web/static/vendor", ROOT / "tests/browser/vendor"]
    word = name.partition(".")[0].partition("-")[0]
    (file,) = [each for folder in folders for each in folder.glob(f"{word}*{version}*.js")]
    assert digest == code(hashlib.sha256(file.read_bytes()).hexdigest())
