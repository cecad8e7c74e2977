"""The command `estafeta`: its subcommands, and what becomes of an error.

Knows click and exit codes. What a command does is in the module of its kind, which imports what it needs only when the
command runs: help and usage errors must come at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from estafeta.cli import local, runs, train
from estafeta.cli.failing import Complaint, of_error
from estafeta.cli.options import Manners

INTERRUPTED_EXIT = 130
"""128 + SIGINT, as a shell has it."""

BROKEN_PIPE_EXIT = 141
"""128 + SIGPIPE, likewise."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="estafeta", message="%(prog)s %(version)s")
def estafeta() -> None:
    """Train PyTorch models on AWS Lambda, or under its rules on this machine, with no server.

    \b
      estafeta train digits.py --workers 4      train a job
      estafeta runs                             which runs there are
      estafeta status last                      how the newest one stands
    """


for command in (*train.COMMANDS, *runs.COMMANDS, local.local):
    estafeta.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command line and exit: 0 done, 1 run failed, 2 usage, 3 environment, 130 interrupted.

    Args:
        arguments: Without the program's name; by default those of the process.
    """
    manners = Manners()
    try:
        code = estafeta.main(arguments, prog_name="estafeta", standalone_mode=False, obj=manners)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(str(error.__cause__ or "") or "interrupted", err=True)
        code = INTERRUPTED_EXIT
    except BrokenPipeError:
        code = _hang_up()
    except Exception as error:  # noqa: BLE001
        code = _complain(error, manners)
    sys.exit(code)


def _complain(error: Exception, manners: Manners) -> int:
    """Print what went wrong and what to do about it; return the exit code."""
    if isinstance(error, click.ClickException):
        complaint = Complaint(error.format_message(), hint=_help_command(error), exit_code=error.exit_code)
    else:
        complaint = of_error(error)
    manners.console().complaint(complaint)
    if manners.verbose:
        traceback.print_exception(error)
    return complaint.exit_code


def _help_command(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "estafeta --help"


def _hang_up() -> int:
    """Whoever read standard output has left (`| head`); what is still buffered for them must not raise at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE_EXIT
