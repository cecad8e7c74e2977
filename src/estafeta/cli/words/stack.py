"""A deployment put into words: what it would do, what there is, what is left.

Pure: from plans and findings to labelled lines and JSON. Knows nothing of terminals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from estafeta.cli.words.run import Lines
from estafeta.client.units import count, size
from estafeta.errors import Command

if TYPE_CHECKING:
    from estafeta.aws.account import Deployment
    from estafeta.deploy.change_sets import Change
    from estafeta.deploy.destroy import Leftover, Standing
    from estafeta.deploy.plan import Plan

MOST_LINES = 12
"""Changes of an existing stack that are listed one by one; of more, as of a new stack, how many of each type."""
VERBS = {"Add": "make", "Modify": "change", "Remove": "remove", "Import": "take over", "Dynamic": "perhaps change"}


def plan(plan: Plan, region: str) -> Lines:
    """What a deployment would do."""
    wishes, target = plan.wishes, plan.target
    lines = [("stack", f"{wishes.stack}   account {plan.account}, {region}, {target.architecture}")]
    if plan.remains:
        lines.append(("first", f"remove the remains of a failed attempt ({plan.remains})"))
    if plan.code is not None:
        sizes = f"{size(plan.code.zipped_bytes)} zipped, {size(plan.code.unzipped_bytes)} unzipped"
        compiled = "" if plan.code.compiled else ", not precompiled"
        lines.append(("code", f"{sizes} of the 250 MB that Lambda takes; Python {target.python}{compiled}"))
    if plan.library is not None:
        state = "in the bucket already" if plan.library_stored else "to be fetched and sent"
        lines.append(("library", f"{plan.library.digest}   {', '.join(plan.library.requirements)}; {state}"))
    if wishes.image:
        lines.append(("image", wishes.image))
    if plan.file_system and not plan.before:
        lines.append(("data", f"file system {plan.file_system} of an earlier stack is taken over"))
    if plan.bucket_changes is None:
        lines.append(("make", f"bucket {plan.bucket}"))
    return lines + changes(plan.all_changes)


def changes(found: Sequence[Change]) -> Lines:
    """Changes of resources."""
    if not found:
        return [("change", "nothing")]
    if len(found) <= MOST_LINES:
        return [
            (VERBS.get(c.action, c.action), f"{c.resource} ({c.kind}){', anew' if c.replaces else ''}") for c in found
        ]
    counted = Counter((VERBS.get(c.action, c.action), c.kind.removeprefix("AWS::")) for c in found)
    verbs = dict.fromkeys(verb for verb, _ in counted)
    return [(verb, ", ".join(f"{n} {kind}" for (v, kind), n in sorted(counted.items()) if v == verb)) for verb in verbs]


def deployed(deployment: Deployment, region: str) -> Lines:
    """What is deployed now."""
    return [
        ("stack", f"{deployment.stack}   {region}, functions {', '.join(deployment.functions.values())}"),
        ("data", f"file system {deployment.file_system}, bucket {deployment.bucket}"),
    ]


def facts(deployment: Deployment, plan: Plan, region: str) -> dict[str, Any]:
    """The same for machines."""
    return {
        "stack": deployment.stack,
        "region": region,
        "account": plan.account,
        "functions": deployment.functions,
        "bucket": deployment.bucket,
        "file_system": deployment.file_system,
        "architecture": plan.target.architecture,
        "python": plan.target.python,
        "image": plan.wishes.image,
        "code_zipped_bytes": plan.code and plan.code.zipped_bytes,
        "code_unzipped_bytes": plan.code and plan.code.unzipped_bytes,
        "library": plan.library and plan.library.digest,
        "changes": len(plan.all_changes),
    }


def standing(there: Standing, region: str, *, delete_data: bool) -> Lines:
    """What destroying would remove."""
    lines = [("stack", f"{there.stack}   {region}, {there.state or 'there is none'}")]
    if there.bucket:
        lines.append(("remove", f"bucket {there.bucket} with {count(there.objects, 'object')}, {size(there.bytes)}"))
    gone = delete_data or there.deletes_data
    for name, used in there.file_systems.items():
        lines.append(("remove" if gone else "keep", f"file system {name} with {size(used)} of runs and data sets"))
    return lines


def destroyed(stack: str, kept: Sequence[str], left: Sequence[Leftover]) -> Lines:
    """What is left of a stack."""
    lines = [("removed", f"{stack}{'' if left else '; nothing is left over'}")]
    lines += [
        ("kept", f"file system {name}; {Command('estafeta', 'destroy', '--stack', stack, '--delete-data')} removes it")
        for name in kept
    ]
    return lines + [("left", f"{found.kind} {found.name}\n{found.command}") for found in left]
