"""The command `estafeta`: its subcommands, and the printing of errors.

This module knows click and exit codes. The module of each kind of command imports what it needs when the command runs:
help and usage errors must come at once.
"""

import io
import sys
import traceback
from collections.abc import Sequence

import click

from estafeta.cli.commands import data, doctor, local, plan, runs, stacks, train
from estafeta.cli.options import Manners
from estafeta.cli.words.error import INTERRUPTED_EXIT, Complaint, of_error
from estafeta.errors import Command


class _InOrder(click.Group):
    """Lists the commands in the order in which a user needs them, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_InOrder,
    epilog="Example: estafeta train digits.py --workers 4",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(package_name="estafeta", message="%(prog)s %(version)s")
def estafeta() -> None:
    """Train PyTorch models on AWS Lambda, or under its rules on this machine, with no server."""


for command in (*train.COMMANDS, *runs.COMMANDS, plan.plan, data.data, *stacks.COMMANDS, *doctor.COMMANDS, local.local):
    estafeta.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out one command line and exit: 0 done, 1 run failed, 2 usage, 3 environment, 130 interrupted.

    The arguments, without the program's name, are by default those of the process.
    """
    manners = Manners(commands=estafeta)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does: any locale can then print a result
    try:
        code = estafeta.main(arguments, prog_name="estafeta", standalone_mode=False, obj=manners) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(manners.complete(str(error.__cause__ or "") or "interrupted"), err=True)
        code = INTERRUPTED_EXIT
    except Exception as error:
        code = _complain(error, manners)
    sys.exit(code)


def _complain(error: Exception, manners: Manners) -> int:
    """Print an error and its remedy; return the exit code."""
    if isinstance(error, click.ClickException):
        complaint = Complaint(error.format_message(), hint=f"{_help_command(error)}", exit_code=error.exit_code)
    else:
        complaint = of_error(error)
    manners.console().insist(complaint.lines())
    if manners.verbose:
        traceback.print_exception(error)
    return complaint.exit_code


def _help_command(error: click.ClickException) -> Command:
    context = getattr(error, "ctx", None)
    return Command(*(context.command_path if context else "estafeta").split(), "--help")
