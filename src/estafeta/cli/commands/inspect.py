"""`inspect`: the inside of a run."""

from __future__ import annotations

import click

from estafeta.cli.find_run import find_run
from estafeta.cli.options import Manners, Place, json_output, on_service, run_name, verbose


@click.command(epilog="Example: estafeta inspect last --rounds 2")
@run_name
@on_service
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="How many rounds to show, the newest first.",
)
@json_output
@verbose
@click.pass_obj
def inspect(manners: Manners, name: str, on: Place, rounds: int) -> int:
    """Show what lies in a run's folder.

    Who contributed what to each round that is still there, the saved versions, the legs of the workers, and what is
    next, all told from the files alone.
    """
    from estafeta.cli.words import inspection as words

    found, console = find_run(name, on).inspect(rounds), manners.console()
    if manners.json:
        console.json(found.model_dump(mode="json"))
        return 0
    console.results(words.standing(found))
    for part in (words.contributions, words.partials, words.versions, words.legs):
        columns, rows = part(found)
        if rows:
            console.result("")
            console.table(columns, rows)
    if found.older_rounds:
        console.talk(
            [("note", f"{found.older_rounds} older rounds are left out: --rounds {found.older_rounds + rounds}")]
        )
    return 0


COMMANDS = (inspect,)
