"""Documents come back from their JSON as they were; what they do not know, they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from core.specs import spec_of
from estafeta.job.optim import SGD
from estafeta.protocol.layout import Round
from estafeta.protocol.spec import FunctionSettings, Plan, RunSpec, Slot, WorkerEvent
from estafeta.protocol.verbs import CleanVerb, ControlEvent, ForkVerb, ResumeVerb, StartVerb, StatusVerb, StopVerb


@pytest.mark.parametrize(("memory_mb", "threads"), [(128, 1), (1769, 1), (3537, 1), (3538, 2), (10240, 5)])
def test_a_function_has_a_thread_for_each_full_cpu(memory_mb: int, threads: int) -> None:
    assert FunctionSettings(name="f", memory_mb=memory_mb, timeout_s=3).threads == threads


@pytest.mark.parametrize("wrong", [{"memory_mb": 127}, {"memory_mb": 10241}, {"timeout_s": 0}, {"timeout_s": 901}])
def test_lambda_has_limits(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        FunctionSettings(**{"name": "f", "memory_mb": 512, "timeout_s": 3, **wrong})


def test_a_spec_survives_its_file() -> None:
    spec = spec_of("adamw", arguments={"model": {"width": 3, "most": math.inf}, "dataset": {"path": "ß"}})
    again = RunSpec.model_validate_json(spec.to_json())
    assert again == spec
    assert again.arguments["model"] == {"width": 3, "most": math.inf}
    assert again.update_rule == spec.update_rule
    assert spec.to_json().count(b"\n") == 1


def test_the_update_rule_is_the_optimizer() -> None:
    assert spec_of("plain").update_rule == SGD(lr=0.1, momentum=0.9, nesterov=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"workers": 10_000},
        {"epochs": 0},
        {"batch_size": 0},
        {"micro_batch_size": 0},
        {"seed": -1},
        {"validation": 1.0},
        {"validation": -0.1},
        {"topology": "ring"},
        {"colour": "red"},
        {"format": "estafeta-run/1"},
        {"format": "estafeta-run/3"},
    ],
    ids=str,
)
def test_a_spec_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RunSpec(**{**spec_of("plain").model_dump(), **wrong})


def test_documents_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec_of("plain").epochs = 3


def test_sizes_are_numbers_of_elements() -> None:
    slots = (Slot(name="w", shape=(3, 4)), Slot(name="b", shape=(4,), offset=12), Slot(name="s", shape=(), offset=16))
    assert [slot.size for slot in slots] == [12, 4, 1]
    plan = Plan(
        token="t",
        train_rows=1,
        valid_rows=0,
        steps_per_epoch=1,
        total_steps=1,
        sums=("loss", "accuracy"),
        parameters=slots,
        buffers=(),
        frozen=(),
        state_dict=(("w", "parameter", "w"),),
    )
    assert plan.size == 17
    assert Plan.model_validate_json(plan.to_json()) == plan


def test_the_round_of_a_worker() -> None:
    assert WorkerEvent(run="r", task="train", version=3, rank=1).round == Round(3, "train")
    assert WorkerEvent(run="r", task="valid", version=3).round == Round(3, "valid")


def test_verbs_are_told_apart() -> None:
    verbs: TypeAdapter[ControlEvent] = TypeAdapter(ControlEvent)
    spec = spec_of("plain")
    assert isinstance(verbs.validate_python({"verb": "start", "spec": spec.model_dump(), "code": {}}), StartVerb)
    assert isinstance(verbs.validate_python({"verb": "status", "run": "r"}), StatusVerb)
    assert verbs.validate_python({"verb": "resume", "run": "r"}) == ResumeVerb(verb="resume", run="r")
    fork = {"verb": "fork", "run": "r", "version": "best", "spec": spec.model_dump()}
    assert isinstance(verbs.validate_python(fork), ForkVerb)
    assert isinstance(verbs.validate_python({**fork, "version": 12}), ForkVerb)
    assert verbs.validate_python({"verb": "clean", "run": "r"}) == CleanVerb(verb="clean", run="r", keep_final=False)
    assert verbs.validate_python({"verb": "stop", "run": "r"}) == StopVerb(verb="stop", run="r")
    for wrong in ({}, {"verb": "dance"}, {"verb": "stop"}, {"verb": "stop", "run": "r", "now": True}):
        with pytest.raises(ValidationError):
            verbs.validate_python(wrong)
