"""The command ``expunge`` (SPEC 7): stdout carries data only, everything for people goes to stderr.

A command's module is imported when the command is used: all of them take a second.
"""

import ast
import errno
import os
import sys
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from worker.domain.errors import ExpungeError

if TYPE_CHECKING:
    from typer._click.core import Command, Context
    from typer._click.formatting import HelpFormatter

_MODULES = {
    "run": "run",
    "plan": "plan",
    "submit": "submit",
    "status": "batches",
    "watch": "batches",
    "report": "report",
    "verify": "verify",
    "batches": "batches",
    "pause": "batches",
    "resume": "batches",
    "cancel": "batches",
    "purge": "purge",
    "retry": "retry",
    "approve": "batches",
    "hold": "hold",
    "audit": "audit",
    "events": "events",
    "token": "tokens",
    "worker": "worker",
    "web": "web",
    "simulator": "simulator",
    "doctor": "doctor",
}
"""The module of each command; the function has the command's name. ``SUBCOMMANDS`` of a module are a group's."""
_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    def list_commands(self, ctx: "Context") -> list[str]:  # noqa: ARG002 - theirs
        return list(_MODULES)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":  # noqa: ARG002 - theirs
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"worker.cli.{_MODULES[cmd_name]}")
        one = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_CONTEXT)
        function = getattr(module, cmd_name)
        if subcommands := getattr(module, "SUBCOMMANDS", None):
            one.callback(no_args_is_help=True)(function)
            for name, subcommand in subcommands.items():
                one.command(name)(subcommand)
        else:
            one.command(cmd_name)(function)
        return typer.main.get_command(one)

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in self.list_commands(ctx)])


def summary(command: str) -> str:
    """The first line of a command's docstring, read without importing it."""
    source = files("worker.cli").joinpath(f"{_MODULES[command]}.py").read_text()
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == command)
    return next((ast.get_docstring(function) or "" for function in functions), "").partition("\n")[0]


app = typer.Typer(
    name="expunge",
    cls=_Commands,
    help="Delete customers of a payments API in bulk, and prove what happened to each of them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_CONTEXT,
    epilog="Exit codes: 0 every record is deleted or absent; 3 some record is not; 4 refused or paused by a guard; "
    "2 usage or bad input; 1 internal error; 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - takes a while

        typer.echo(f"expunge {version('expunge')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command; whatever goes wrong is one line on stderr and an exit code."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        return typer.main.get_command(app).main(standalone_mode=False) or 0
    except ExpungeError as error:
        _say(f"expunge: {error}")
        return error.exit_code
    except typer.TyperException as error:  # a command line that cannot be understood
        message = error.format_message()
        is_help = message.startswith("Usage:")  # of a bare `expunge`
        _say(message if is_help else f"expunge: {' '.join(message.split())} (see expunge --help)")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        _let_go_of_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - the text of an unforeseen error may hold what must not be shown
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _let_go_of_stdout()
            _say("expunge: no space left where it writes to: what was asked for is not whole; make room, and ask again")
            return 1
        from worker.logs import where  # noqa: PLC0415 - rarely needed

        _say(f"expunge: internal error: {where(error)}; please report it")
        return 1


def _let_go_of_stdout() -> None:
    """Else Python tries to write what is left when it ends, and tells of that, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    from worker.cli.output import say  # noqa: PLC0415 - for the commands; not for --help

    say(line)
