"""The command ``expunge`` (SPEC 7): stdout carries data only, everything for people goes to stderr."""

import os
import sys

import typer

from worker import __version__
from worker.cli import batches, doctor, plan, report, run, simulator, submit, worker
from worker.cli.output import say
from worker.domain.errors import ExpungeError
from worker.logs import where

app = typer.Typer(
    name="expunge",
    help="Delete customers of a payments API in bulk, and prove what happened to each of them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 every record is deleted or absent; 3 some record is not; 4 refused or paused by a guard; "
    "2 usage or bad input; 1 internal error; 130 interrupted.",
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("submit")(submit.submit)
app.command("status")(batches.status)
app.command("watch")(batches.watch)
app.command("report")(report.report)
app.command("batches")(batches.batches)
app.command("pause")(batches.pause)
app.command("resume")(batches.resume)
app.command("cancel")(batches.cancel)
app.command("worker")(worker.worker)
app.command("simulator")(simulator.simulator)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"expunge {__version__}")
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
        say(f"expunge: {error}")
        return error.exit_code
    except typer.TyperException as error:  # a command line that cannot be understood
        message = error.format_message()
        say(message if "\n" in message else f"expunge: {message} (see expunge --help)")  # a bare `expunge`: its help
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the text of an unforeseen error may hold what must not be shown
        say(f"expunge: internal error: {where(error)}; please report it")
        return 1
