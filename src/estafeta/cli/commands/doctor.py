"""`estafeta doctor`: look at this machine, or at a stack on AWS, and say what is wrong and what helps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from estafeta.cli.options import Manners, on_doctor, speaks
from estafeta.cli.place import Place

if TYPE_CHECKING:
    from estafeta.deploy.doctor.check import Finding

WORDS = {True: "pass", False: "fail", None: "-"}
"""Labels of what passed, of what failed, and of what could not be tried."""


@click.command(epilog="Example: estafeta doctor --on aws")
@on_doctor
@speaks("json")
def doctor(manners: Manners, on: Place) -> int:
    """Check that everything training needs is there.

    Each line passes, or fails and says what to do about it. If one fails, the exit code is 3.
    """
    from estafeta.cli.words.error import ENVIRONMENT_EXIT
    from estafeta.deploy.doctor import machine, stack
    from estafeta.deploy.doctor.check import examine

    console = manners.console()
    checks = stack.checks(**on.choices) if on.name == "aws" else machine.checks()
    width = max(len(check.name) for check in checks)
    findings = []
    try:
        for found in examine(checks):
            finding = replace(found, cure=console.complete(found.cure))
            findings.append(finding)
            if not manners.json:
                console.results(_lines(finding, width))
            if len(findings) < len(checks):
                console.lively(f"checking   {checks[len(findings)].name}")
    finally:
        console.still()
    healthy = all(finding.passed for finding in findings)
    if manners.json:
        console.json({"on": on.name, "healthy": healthy, "checks": [_facts(finding) for finding in findings]})
    return 0 if healthy else ENVIRONMENT_EXIT


COMMANDS = (doctor,)


def _lines(finding: Finding, width: int) -> list[tuple[str, str]]:
    lines = [(WORDS[finding.passed], f"{finding.name:{width}}  {finding.detail}")]
    return [*lines, ("", f"{'':{width}}  try: {finding.cure}")] if finding.cure else lines


def _facts(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "passed": finding.passed, "detail": finding.detail, "cure": finding.cure}
