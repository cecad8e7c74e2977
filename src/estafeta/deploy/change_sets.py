"""CloudFormation: propose a change, look at it, carry it out, and follow it by the stack's events.

This module knows stacks and their states, not their resources. Each call that changes something carries a token, so a
repeated call does nothing. Invariant: when a method returns, the stack can be changed or deleted; otherwise the method
raises, and says the state, the reason, and the next step.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from estafeta.aws.account import describe_stack
from estafeta.aws.lambda_api import reaching
from estafeta.errors import Command, EnvironmentProblem, UsageError
from estafeta.store.files import Clock

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient

POLL_S = 2.0
"""Seconds between two looks at a stack."""
NOT_YET = ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE")
"""States of a stack that has only a name."""
REMAINS = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
"""States of a stack that can only be deleted, because its creation or its deletion has failed."""
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
"""Words in CloudFormation's reason for an empty change set, which counts as failed."""
EARLY = "EarlyValidation"
"""Word in the reason of a change set that CloudFormation refused before it tried anything."""
_CONTINUE = ("aws", "cloudformation", "continue-update-rollback", "--stack-name", "STACK")

_NEXT = {
    "ROLLBACK_COMPLETE": "the new resources are removed again; deploy once more when the cause is gone",
    "ROLLBACK_FAILED": f"{Command('estafeta', 'destroy')} removes the rest",
    "UPDATE_ROLLBACK_COMPLETE": "the stack is as it was before; deploy once more when the cause is gone",
    "UPDATE_ROLLBACK_FAILED": f"{Command(*_CONTINUE)}, then deploy once more",
    "DELETE_FAILED": "destroy once more when the cause is gone; network interfaces may take 40 minutes to go",
}


_REFUSED = "change the parameters (-p NAME=VALUE), and deploy once more"


@dataclass(frozen=True)
class Change:
    """The change of one resource.

    Attributes:
        action: `Add`, `Modify`, `Remove`, in CloudFormation's words.
        resource: Logical id in the template.
        kind: Type, such as `AWS::Lambda::Function`.
        replaces: Whether CloudFormation replaces the resource, or may do so.
    """

    action: str
    resource: str
    kind: str
    replaces: bool = False


@dataclass(frozen=True)
class ChangeSet:
    """A proposed change of a stack; without `changes` it does nothing."""

    stack: str
    name: str
    changes: tuple[Change, ...]
    creates: bool


@dataclass(frozen=True)
class Event:
    """An event of a resource: its logical id, its type, its state, and the reason."""

    resource: str
    kind: str
    state: str
    reason: str


class Stacks:
    """The stacks of one account and Region.

    Args:
        client: A boto3 CloudFormation client.
        clock: Clock for the pauses between two looks.
        report: Function that receives the events of a change.
    """

    def __init__(self, client: CloudFormationClient, clock: Clock, report: Callable[[Event], None]) -> None:
        self._client = client
        self._clock = clock
        self._report = report

    def state(self, stack: str) -> str | None:
        """The state of a stack, or None if there is none of that name.

        Raises:
            EnvironmentProblem: Somebody is changing the stack just now, or it is stuck.
        """
        found = describe_stack(self._client, stack)
        if found is None or (state := str(found["StackStatus"])) in NOT_YET:
            return None
        if state.endswith("_IN_PROGRESS"):
            raise EnvironmentProblem(
                f"The stack {stack} is being changed ({state})", hint="wait until the change has ended"
            )
        if state == "UPDATE_ROLLBACK_FAILED":
            raise EnvironmentProblem(f"The stack {stack} is stuck ({state})", hint=_NEXT[state].replace("STACK", stack))
        return state

    def parameters(self, stack: str) -> dict[str, str]:
        """The parameters of a stack."""
        found = describe_stack(self._client, stack) or {}
        return {item["ParameterKey"]: item["ParameterValue"] for item in found.get("Parameters", ())}

    def propose(self, stack: str, template: str, parameters: Mapping[str, str | None], *, creates: bool) -> ChangeSet:
        """Have CloudFormation work out what a template would change; nothing is changed yet.

        Args:
            stack: Name of the stack.
            template: Text of the template.
            parameters: Values; None keeps the stack's value. Other parameters get their defaults.
            creates: Whether there is no such stack yet.

        Raises:
            UsageError: CloudFormation refuses the template or a parameter.
        """
        token = secrets.token_hex(8)
        given: list[Any] = [
            {"ParameterKey": key, "UsePreviousValue": True}
            if value is None
            else {"ParameterKey": key, "ParameterValue": value}
            for key, value in parameters.items()
        ]
        try:
            with _refusals(stack):
                name = self._client.create_change_set(
                    StackName=stack,
                    ChangeSetName=f"estafeta-{token}",
                    ClientToken=token,
                    TemplateBody=template,
                    ChangeSetType="CREATE" if creates else "UPDATE",
                    Parameters=given,
                    Capabilities=["CAPABILITY_IAM"],
                )["Id"]
        except UsageError as refused:
            if _is_empty(str(refused)):
                return ChangeSet(stack, "", (), creates)
            raise
        proposed = ChangeSet(stack, name, (), creates)
        while (found := self._describe(proposed))["Status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
            self._clock.sleep(POLL_S)
        if found["Status"] == "FAILED":
            reason = self._explained(found.get("StatusReason", ""), proposed)
            self.discard(proposed)
            if _is_empty(reason):
                return proposed
            raise UsageError(f"CloudFormation refuses the change of {stack}: {reason}", hint=_REFUSED)
        return ChangeSet(stack, name, tuple(self._changes(proposed)), creates)

    def discard(self, proposed: ChangeSet) -> None:
        """Withdraw a proposal, and the stack if the proposal has only made its name."""
        with reaching("CloudFormation"):
            self._client.delete_change_set(StackName=proposed.stack, ChangeSetName=proposed.name)
            if proposed.creates and self.state(proposed.stack) is None:
                self._client.delete_stack(StackName=proposed.stack)

    def carry_out(self, proposed: ChangeSet) -> None:
        """Change a stack as proposed, and wait for the end.

        Raises:
            EnvironmentProblem: The change failed, and CloudFormation has undone it.
        """
        if not proposed.changes:
            return
        stack_id, seen = self._begin(proposed.stack)
        with reaching("CloudFormation"):
            self._client.execute_change_set(
                StackName=proposed.stack, ChangeSetName=proposed.name, ClientRequestToken=secrets.token_hex(8)
            )
        state, failed = self._follow(stack_id, seen)
        if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise _failure(proposed.stack, state, failed)

    def delete(self, stack: str) -> None:
        """Delete a stack, if there is one, and wait for the end.

        Raises:
            EnvironmentProblem: A resource could not be deleted.
        """
        if describe_stack(self._client, stack) is None:
            return
        stack_id, seen = self._begin(stack)
        with reaching("CloudFormation"):
            self._client.delete_stack(StackName=stack, ClientRequestToken=secrets.token_hex(8))
        state, failed = self._follow(stack_id, seen)
        if state != "DELETE_COMPLETE":
            raise _failure(stack, state, failed)

    def _describe(self, proposed: ChangeSet) -> dict[str, Any]:
        with reaching("CloudFormation"):
            return dict(self._client.describe_change_set(StackName=proposed.stack, ChangeSetName=proposed.name))

    def _explained(self, reason: str, proposed: ChangeSet) -> str:
        """The reason for a refusal. CloudFormation tells the findings of its early validation only on request."""
        if EARLY not in reason:
            return reason
        try:
            with reaching("CloudFormation"):
                pages = self._client.get_paginator("describe_events").paginate(
                    ChangeSetName=proposed.name, Filters={"FailedEvents": True}
                )  # by its id: this call refuses the name
                events = [event for page in pages for event in page["OperationEvents"]]
        except EnvironmentProblem:
            return reason  # not allowed, or boto3 is too old; the reason says how to get the rest
        found = [
            f"{event.get('LogicalResourceId', '')} ({event.get('ResourceType', '')}): {why}"
            for event in events
            if (why := event.get("ValidationStatusReason"))
        ]
        return "; ".join(found) or reason

    def _changes(self, proposed: ChangeSet) -> Iterator[Change]:
        with reaching("CloudFormation"):
            pages = self._client.get_paginator("describe_change_set")
            for page in pages.paginate(StackName=proposed.stack, ChangeSetName=proposed.name):
                for item in page.get("Changes", ()):
                    change = item["ResourceChange"]
                    yield Change(
                        change["Action"],
                        change["LogicalResourceId"],
                        change["ResourceType"],
                        change.get("Replacement", "False") != "False",
                    )

    def _begin(self, stack: str) -> tuple[str, set[str]]:
        """The stack's id, which outlives it, and its earlier events."""
        found = describe_stack(self._client, stack)
        stack_id = str(found["StackId"]) if found else stack
        return stack_id, {event["EventId"] for event in self._events(stack_id, set())}

    def _follow(self, stack_id: str, seen: set[str]) -> tuple[str, list[Event]]:
        """Report events until the stack's state is final; return the state and the failures."""
        failed: list[Event] = []
        before = len(seen)
        while True:
            state = str((describe_stack(self._client, stack_id) or {"StackStatus": "DELETE_COMPLETE"})["StackStatus"])
            for found in reversed(list(self._events(stack_id, seen))):
                seen.add(found["EventId"])
                event = Event(
                    found["LogicalResourceId"],
                    found["ResourceType"],
                    found["ResourceStatus"],
                    found.get("ResourceStatusReason", ""),
                )
                self._report(event)
                if event.state.endswith("_FAILED") and "cancelled" not in event.reason:
                    failed.append(event)
            # Before the first new event, the state may still be the old one.
            if not state.endswith("_IN_PROGRESS") and len(seen) > before:
                return state, failed
            self._clock.sleep(POLL_S)

    def _events(self, stack_id: str, seen: set[str]) -> Iterator[Any]:
        """Unseen events, the newest first."""
        with reaching("CloudFormation"):
            for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                for event in page["StackEvents"]:
                    if event["EventId"] in seen:
                        return
                    yield event


def _is_empty(reason: str) -> bool:
    return any(words in reason for words in NO_CHANGES)


@contextmanager
def _refusals(stack: str) -> Iterator[None]:
    """Turn CloudFormation's complaints about a template or a parameter into usage errors: the network is fine."""
    from botocore.exceptions import ClientError

    try:
        with reaching("CloudFormation"):
            yield
    except EnvironmentProblem as problem:
        cause = problem.__cause__
        if isinstance(cause, ClientError) and cause.response["Error"]["Code"] == "ValidationError":
            raise UsageError(
                f"CloudFormation refuses {stack}: {cause.response['Error']['Message']}", hint=_REFUSED
            ) from cause
        raise


def _failure(stack: str, state: str, failed: list[Event]) -> EnvironmentProblem:
    why = f": {failed[0].resource} ({failed[0].kind}): {failed[0].reason}" if failed else ""
    following = _NEXT.get(state, "").replace("STACK", stack)
    return EnvironmentProblem(f"The stack {stack} is in the state {state}{why}", hint=following)
