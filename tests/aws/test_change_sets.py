"""Stacks: proposals, events, failures in each state, on botocore's models and on moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from conformance.clock import VirtualClock
from estafeta.aws.account import patient_client
from estafeta.deploy.change_sets import Change, ChangeSet, Event, Stacks
from estafeta.errors import EnvironmentProblem, UsageError

ID = "arn:aws:cloudformation:us-east-1:1:stack/demo/8"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
PROPOSED = ChangeSet("demo", "change", (Change("Add", "Worker", "AWS::Lambda::Function"),), creates=True)


class Script:
    """Answers of CloudFormation, in order; each call is checked by botocore's model of the service."""

    def __init__(self, stubber: Stubber) -> None:
        self._stubber = stubber
        self._events: list[dict[str, Any]] = []

    def answer(self, call: str, response: dict[str, Any], **expected: Any) -> None:
        self._stubber.add_response(call, response, expected or None)

    def refuse(self, call: str, message: str, code: str = "ValidationError") -> None:
        self._stubber.add_client_error(call, code, message)

    def is_in(self, state: str, **more: Any) -> None:
        stack = {"StackId": ID, "StackName": "demo", "CreationTime": WHEN, "StackStatus": state, **more}
        self.answer("describe_stacks", {"Stacks": [stack]})

    def is_absent(self) -> None:
        self.refuse("describe_stacks", "Stack with id demo does not exist")

    def happens(self, *events: tuple[str, str, str]) -> None:
        for resource, state, reason in events:
            number = str(len(self._events))
            self._events.insert(
                0,
                {
                    "StackId": ID,
                    "EventId": number,
                    "StackName": "demo",
                    "Timestamp": WHEN,
                    "LogicalResourceId": resource,
                    "ResourceType": "AWS::X::Y",
                    "ResourceStatus": state,
                    "ResourceStatusReason": reason,
                },
            )
        self.answer("describe_stack_events", {"StackEvents": list(self._events)}, StackName=ID)


@pytest.fixture
def reported() -> list[Event]:
    return []


@pytest.fixture
def scripted(account: None, reported: list[Event]) -> Iterator[tuple[Stacks, Script]]:
    client = patient_client("cloudformation")
    with Stubber(client) as stubber:
        yield Stacks(client, VirtualClock(), reported.append), Script(stubber)
        stubber.assert_no_pending_responses()


def execute(script: Script, states: list[str], *happening: list[tuple[str, str, str]]) -> None:
    """A change that is carried out: what the stack is in at each look, and what has happened until then."""
    script.is_in("REVIEW_IN_PROGRESS")
    script.happens(("demo", "REVIEW_IN_PROGRESS", ""))
    script.answer("execute_change_set", {}, StackName="demo", ChangeSetName="change", ClientRequestToken=ANY)
    for state, events in zip(states, happening, strict=True):
        script.is_in(state)
        script.happens(*events)


def test_events_are_reported_once_and_in_order(scripted: tuple[Stacks, Script], reported: list[Event]) -> None:
    stacks, script = scripted
    execute(
        script,
        ["REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_COMPLETE"],
        [],
        [("demo", "CREATE_IN_PROGRESS", ""), ("Worker", "CREATE_IN_PROGRESS", "")],
        [("Worker", "CREATE_COMPLETE", ""), ("demo", "CREATE_COMPLETE", "")],
    )
    stacks.carry_out(PROPOSED)
    assert [(event.resource, event.state) for event in reported] == [
        ("demo", "CREATE_IN_PROGRESS"),
        ("Worker", "CREATE_IN_PROGRESS"),
        ("Worker", "CREATE_COMPLETE"),
        ("demo", "CREATE_COMPLETE"),
    ]


def test_a_state_from_before_the_change_is_not_its_end(scripted: tuple[Stacks, Script]) -> None:
    """GIVEN a stack that still shows its last state WHEN it is followed THEN its first event is waited for."""
    stacks, script = scripted
    execute(script, ["UPDATE_COMPLETE", "UPDATE_COMPLETE"], [], [("demo", "UPDATE_COMPLETE", "")])
    stacks.carry_out(PROPOSED)


def test_a_creation_that_fails_names_the_cause_and_the_state(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    execute(
        script,
        ["ROLLBACK_IN_PROGRESS", "ROLLBACK_COMPLETE"],
        [("Merge", "CREATE_FAILED", "Resource creation cancelled"), ("Worker", "CREATE_FAILED", "quota exceeded")],
        [("demo", "ROLLBACK_COMPLETE", "")],
    )
    with pytest.raises(EnvironmentProblem, match=r"ROLLBACK_COMPLETE: Worker \(AWS::X::Y\): quota exceeded") as caught:
        stacks.carry_out(PROPOSED)
    assert "deploy once more" in caught.value.hint


def test_a_deletion_that_fails_can_be_repeated(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    for state, last in (
        ("DELETE_FAILED", ("Subnet", "DELETE_FAILED", "in use")),
        ("DELETE_COMPLETE", ("demo", "DELETE_COMPLETE", "")),
    ):
        script.is_in("CREATE_COMPLETE")
        script.is_in("CREATE_COMPLETE")
        script.happens()
        script.answer("delete_stack", {}, StackName="demo", ClientRequestToken=ANY)
        script.is_in(state)
        script.happens(last)
    with pytest.raises(EnvironmentProblem, match="DELETE_FAILED: Subnet") as caught:
        stacks.delete("demo")
    assert "destroy once more" in caught.value.hint
    stacks.delete("demo")


def test_deleting_an_absent_stack_succeeds(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    script.is_absent()
    stacks.delete("demo")


@pytest.mark.parametrize("state", ["UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED"])
def test_a_stack_that_is_busy_or_stuck_is_left_alone(scripted: tuple[Stacks, Script], state: str) -> None:
    stacks, script = scripted
    script.is_in(state)
    with pytest.raises(EnvironmentProblem, match=state) as caught:
        stacks.state("demo")
    assert caught.value.hint


@pytest.mark.parametrize("state", ["REVIEW_IN_PROGRESS", None])
def test_a_name_alone_is_no_stack(scripted: tuple[Stacks, Script], state: str | None) -> None:
    stacks, script = scripted
    script.is_in(state) if state else script.is_absent()
    assert stacks.state("demo") is None


def propose(stacks: Stacks) -> ChangeSet:
    return stacks.propose("demo", "{}", {"Bucket": "b", "WorkerMemory": None}, creates=False)


def test_a_proposal_keeps_what_is_not_named(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    given = [
        {"ParameterKey": "Bucket", "ParameterValue": "b"},
        {"ParameterKey": "WorkerMemory", "UsePreviousValue": True},
    ]
    script.answer(
        "create_change_set",
        {"Id": "change", "StackId": ID},
        StackName="demo",
        ChangeSetName=ANY,
        ClientToken=ANY,
        TemplateBody="{}",
        ChangeSetType="UPDATE",
        Parameters=given,
        Capabilities=["CAPABILITY_IAM"],
    )
    described = {"StackName": "demo", "ChangeSetName": "change"}
    script.answer("describe_change_set", {"Status": "CREATE_IN_PROGRESS"}, **described)
    script.answer("describe_change_set", {"Status": "CREATE_COMPLETE"}, **described)
    change = {
        "Action": "Modify",
        "LogicalResourceId": "Worker",
        "ResourceType": "AWS::Lambda::Function",
        "Replacement": "Conditional",
    }
    script.answer("describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": [{"ResourceChange": change}]})
    assert propose(stacks).changes == (Change("Modify", "Worker", "AWS::Lambda::Function", replaces=True),)


@pytest.mark.parametrize(
    "reason", ["The submitted information didn't contain changes.", "No updates are to be performed."]
)
def test_a_proposal_without_changes_is_withdrawn(scripted: tuple[Stacks, Script], reason: str) -> None:
    stacks, script = scripted
    script.answer("create_change_set", {"Id": "change"})
    script.answer("describe_change_set", {"Status": "FAILED", "StatusReason": reason})
    script.answer("delete_change_set", {}, StackName="demo", ChangeSetName="change")
    assert propose(stacks).changes == ()


def test_a_proposal_that_is_refused_is_the_callers_affair(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    script.refuse("create_change_set", "Parameter 'WorkerMemory' must be a number")
    with pytest.raises(UsageError, match="must be a number"):
        propose(stacks)
    script.answer("create_change_set", {"Id": "change"})
    script.answer("describe_change_set", {"Status": "FAILED", "StatusReason": "Unresolved dependency"})
    script.answer("delete_change_set", {})
    with pytest.raises(UsageError, match="Unresolved dependency"):
        propose(stacks)


EARLY = "The following hook(s)/validation failed: [AWS::EarlyValidation::ResourceExistenceCheck]. To troubleshoot …"


def refuse_early(script: Script) -> None:
    script.answer("create_change_set", {"Id": f"{ID}/change"})
    script.answer("describe_change_set", {"Status": "FAILED", "StatusReason": EARLY})


def test_early_validation_error_names_the_taken_resource(scripted: tuple[Stacks, Script]) -> None:
    """GIVEN a log group that a stack has left WHEN the stack is proposed again THEN the name that is taken is named."""
    stacks, script = scripted
    refuse_early(script)
    event = {
        "LogicalResourceId": "WorkerLogs",
        "ResourceType": "AWS::Logs::LogGroup",
        "ValidationStatus": "FAILED",
        "ValidationStatusReason": "/aws/lambda/demo-worker already exists",
    }
    script.answer(
        "describe_events", {"OperationEvents": [event]}, ChangeSetName=f"{ID}/change", Filters={"FailedEvents": True}
    )
    script.answer("delete_change_set", {})
    with pytest.raises(UsageError, match=r"WorkerLogs \(AWS::Logs::LogGroup\): /aws/lambda/demo-worker already exists"):
        propose(stacks)


def test_caller_without_permission_for_events_sees_the_plain_error(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    refuse_early(script)
    script.refuse("describe_events", "not authorized", "AccessDenied")
    script.answer("delete_change_set", {})
    with pytest.raises(UsageError, match="To troubleshoot"):
        propose(stacks)


def test_a_proposal_to_create_leaves_no_name_behind(scripted: tuple[Stacks, Script]) -> None:
    stacks, script = scripted
    script.answer("delete_change_set", {}, StackName="demo", ChangeSetName="change")
    script.is_in("REVIEW_IN_PROGRESS")
    script.answer("delete_stack", {}, StackName="demo")
    stacks.discard(PROPOSED)
