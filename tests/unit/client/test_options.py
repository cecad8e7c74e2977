"""`-o key=value` changes a job: text becomes a value, and a wrong name is told the right ones."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import estafeta
from core.specs import spec_of
from estafeta.client.options import as_text, known_names, override, override_spec, parsed
from estafeta.errors import UsageError
from estafeta.job.job import Job


def model(hidden: int = 8, *, dropout: float = 0.0) -> nn.Module:
    return nn.Linear(hidden, 2)


def anything(**options: Any) -> nn.Module:
    return nn.Linear(1, 1)


JOB = Job(
    model=model,
    loss=nn.functional.cross_entropy,
    dataset="digits",
    optimizer=estafeta.AdamW(lr=0.1, schedule=estafeta.Warmup(2, then=estafeta.Cosine())),
)


@pytest.mark.parametrize(
    ("name", "text", "path"),
    [
        ("epochs", "5", lambda o: o.job.epochs == 5),
        ("drop_last", "true", lambda o: o.job.drop_last is True),
        ("dense", "true", lambda o: o.job.dense is True),
        ("window_mb", "5.0", lambda o: o.job.window_mb == 5),
        ("validation", "0", lambda o: o.job.validation == 0.0),
        ("optimizer.lr", "1e-3", lambda o: o.job.optimizer.lr == 1e-3),
        ("optimizer.betas", "[0.8, 0.9]", lambda o: o.job.optimizer.betas == (0.8, 0.9)),
        ("optimizer.clip_norm", "none", lambda o: o.job.optimizer.clip_norm is None),
        ("optimizer.schedule", "none", lambda o: o.job.optimizer.schedule is None),
        ("optimizer.schedule.length", "3", lambda o: o.job.optimizer.schedule.length == 3),
        ("optimizer.schedule.then.minimum", "0.1", lambda o: o.job.optimizer.schedule.then.minimum == 0.1),
        ("early_stopping.patience", "4", lambda o: o.job.early_stopping.patience == 4),
        ("early_stopping.target", "0.9", lambda o: o.job.early_stopping.target == 0.9),
        ("model.hidden", "16", lambda o: o.arguments == {"model": {"hidden": 16}}),
        ("model.dropout", "0.5", lambda o: o.arguments == {"model": {"dropout": 0.5}}),
        ("worker.timeout_s", "3", lambda o: o.settings == {"worker": {"timeout_s": 3}}),
        ("merge.memory_mb", 512, lambda o: o.settings == {"merge": {"memory_mb": 512}}),
        ("rounds_per_invocation", "3", lambda o: o.rounds_per_invocation == 3),
        ("rounds_per_invocation", "none", lambda o: o.rounds_per_invocation is None),
        ("quorum", "3", lambda o: o.quorum == 3),
    ],
)
def test_a_value_reaches_its_place(name: str, text: Any, path: Any) -> None:
    job, changes = override(JOB, {name: text})
    assert path(SimpleNamespace(job=job, **vars(changes), **changes.limits))


def test_the_job_itself_stays_as_it_is() -> None:
    override(JOB, {"epochs": "5", "optimizer.lr": "1"})
    assert JOB.epochs == 10
    assert JOB.optimizer.lr == 0.1


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("epoch", "epochs"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("optimizer.schedule.lenght", "optimizer.schedule.length"),
        ("early_stopping.patienc", "early_stopping.patience"),
        ("model.hiden", "model.hidden"),
        ("worker.timeout", "worker.timeout_s"),
        ("round_per_invocation", "rounds_per_invocation"),
        ("dataset.path", "there is nothing to set here"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown option '{name}'") as caught:
        override(JOB, {name: "1"})
    assert suggestion in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "many"),
        ("optimizer.lr", "[1]"),
        ("worker.memory_mb", "1.5"),
        ("worker.memory_mb", "100"),
        ("merge.timeout_s", "901"),
        ("rounds_per_invocation", "few"),
        ("optimizer.schedule", "Cosine"),
        ("optimizer.schedule", '{"unit": "step"}'),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=.* does not fit"):
        override(JOB, {name: text})


def test_a_value_out_of_range_is_refused_by_its_owner() -> None:
    with pytest.raises(UsageError, match="epochs is 0"):
        override(JOB, {"epochs": "0"})
    for name in ("rounds_per_invocation", "quorum"):
        with pytest.raises(
            UsageError, match=rf"{name}=0 does not fit; it must be a whole number in \[1, inf\)"
        ) as caught:
            override(JOB, {name: "0"})
        assert caught.value.hint == "set it to a whole number in [1, inf) or None"


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("optimizer.lr", "abc", "a number"),
        ("batch_size", "x", "a whole number"),
        ("early_stopping.mode", "less", '"min" or "max" or None'),
        ("worker.memory_mb", "3", "a whole number in [128, 10240]"),
    ],
)
def test_a_refusal_says_what_is_allowed(name: str, text: str, allowed: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(JOB, {name: text})
    assert str(caught.value).startswith(f"-o {name}={parsed(text)!r} does not fit; it must be {allowed}")
    assert caught.value.hint == f"set it to {allowed}"


def test_options_are_kept_as_they_were_given() -> None:
    """Reading the texts again gives the same values."""
    options = {"epochs": 5, "optimizer.lr": "1e-3", "optimizer.betas": [0.8, 0.9], "model.name": "x", "quorum": None}
    kept = as_text(options)
    assert kept == {"epochs": "5", "optimizer.lr": "1e-3", "optimizer.betas": "[0.8, 0.9]", "model.name": "x"} | {
        "quorum": "null"
    }
    assert [parsed(text) for text in kept.values()] == [5, 1e-3, [0.8, 0.9], "x", None]


def test_every_known_name_can_be_set() -> None:
    names = known_names(JOB)
    assert "optimizer.schedule.then.total" in names
    for name in names:
        problem = ""
        try:
            override(JOB, {name: "0.5"})
        except UsageError as error:
            problem = str(error)
        assert "Unknown option" not in problem


def test_a_callable_that_takes_anything_is_given_anything() -> None:
    job = Job(model=anything, loss=nn.functional.cross_entropy, dataset="digits", optimizer=estafeta.SGD(lr=0.1))
    assert override(job, {"model.whatever": "x"})[1].arguments == {"model": {"whatever": "x"}}


def test_a_fork_changes_options_that_may_change_in_the_middle_of_a_run() -> None:
    spec = spec_of("adam")
    changed, settings = override_spec(
        spec,
        {
            "epochs": "9",
            "micro_batch_size": 2,
            "optimizer.lr": "0.5",
            "early_stopping.patience": 3,
            "rounds_per_invocation": "7",
            "worker.timeout_s": "60",
        },
    )
    assert (changed.epochs, changed.micro_batch_size, changed.rounds_per_invocation) == (9, 2, 7)
    assert changed.update_rule == dataclasses.replace(spec.update_rule, lr=0.5)
    assert changed.early_stopping.patience == 3
    assert settings["worker"] == {"memory_mb": 1769, "timeout_s": 60}
    assert settings["merge"] == {"memory_mb": 1769, "timeout_s": 900}
    assert changed.options == {
        "epochs": "9",
        "micro_batch_size": "2",
        "optimizer.lr": "0.5",
        "early_stopping.patience": "3",
        "rounds_per_invocation": "7",
        "worker.timeout_s": "60",
    }
    assert override_spec(spec, {}) == (spec, {**settings, "worker": settings["merge"]})


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        ("batch_size", "5", "batch_size", "micro_batch_size"),
        ("model.hidden", "5", "model.hidden", "epochs"),
        ("optimizer.lrr", "5", "optimizer.lrr", "optimizer.lr"),
        ("epochs", "0", r"epochs is 0; it must be a whole number in \[1, inf\)", "epochs"),
        ("rounds_per_invocation", "0", r"in \[1, inf\)", "None"),
    ],
)
def test_a_fork_keeps_what_makes_up_a_step(name: str, value: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        override_spec(spec_of("adam"), {name: value})
    assert hint in caught.value.hint
