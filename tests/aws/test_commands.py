"""Commands on a stack: data sets that go there with a run, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estafeta import datasets
from estafeta.aws.account import patient_client
from estafeta.aws.bucket import Bucket, Progress
from estafeta.client.send_source import MOST_IN_EVENT
from estafeta.errors import EnvironmentProblem
from estafeta.functions.verbs.take_source import SOURCES

from .account import REGION
from .conftest import Command

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]


def breaking(monkeypatch: pytest.MonkeyPatch, *moments: int) -> list[str]:
    """Have the line break once after each of these numbers of uploads; gives the keys of what has arrived."""
    upload, arrived, left = Bucket.upload, list[str](), list(moments)

    def upload_or_break(self: Bucket, key: str, source: Path | bytes, progress: Progress | None = None) -> None:
        if left and len(arrived) == left[0]:
            del left[0]
            raise EnvironmentProblem("the line is broken")
        upload(self, key, source, progress)
        arrived.append(key)

    monkeypatch.setattr(Bucket, "upload", upload_or_break)
    return arrived


def test_a_data_set_and_source_go_there_with_the_run(
    estafeta: Command, aws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a data set of this machine WHEN a job that names it runs on AWS THEN all is sent once, and read there."""
    rows = "\n".join(f"{i % 7},{i % 5},{i % 2}" for i in range(600))
    (tmp_path / "rows.csv").write_text(f"a,b,label\n{rows}\n")
    (tmp_path / "linear.py").write_text(JOB)
    estafeta("data", "import", "rows", "rows.csv", "--label", "label")
    assert "neither on this machine nor on AWS" in estafeta("train", "linear.py:other", "--on", "aws", code=2)
    expected = json.loads(estafeta("train", "linear.py:job", "--on", "inline", "--json"))
    with (tmp_path / "linear.py").open("a") as source:
        source.write("#" * MOST_IN_EVENT)  # only S3 has room for that
    assert "MB of imported source" in estafeta("train", "linear.py:job", "--on", "inline", code=2)
    arrived = breaking(monkeypatch, 1, 2)
    for _ in ("after the only block", "after the manifest, before the source"):
        assert "the line is broken" in estafeta("train", "linear.py:job", "--on", "aws", code=3)
        assert json.loads(estafeta("runs", "--on", "aws", "--json")) == {"runs": []}
    run = json.loads(estafeta("train", "linear.py:job", "--on", "aws", "--json", "-o", "merge.memory_mb=512"))
    assert len(arrived) == len(set(arrived)) == 3, "what had arrived was sent again"
    assert (run["on"], run["weights_sha256"]) == ("aws", expected["weights_sha256"])
    report = json.loads(estafeta("report", run["run"], "--on", "aws", "--json"))["report_path"]
    page = Path(report).read_text(encoding="utf-8")
    assert "--on aws" in page
    assert expected["weights_sha256"] in page
    assert "rank 1" in page, "its lane in the timeline, from the log"
    assert [found["name"] for found in json.loads(estafeta("data", "ls", "--on", "aws", "--json"))["datasets"]] == [
        "rows"
    ]
    sent = list((aws / "datasets/rows").iterdir())
    refused = estafeta("data", "import", "rows", "rows.csv", "--label", "label", "--on", "aws", code=2)
    assert "a data set named 'rows' on AWS already" in refused
    estafeta("train", "linear.py:job", "--on", "aws", "-o", "epochs=1")
    assert list((aws / "datasets/rows").iterdir()) == sent
    assert [found.name for found in datasets.list(on="aws")] == ["rows"]
    assert datasets.verify("rows", on="aws") == datasets.verify("rows")
    for command in (["show", "rows"], ["show", "rows", "--json"], ["verify", "rows"], ["ls", "--json"]):
        assert estafeta("data", *command, "--on", "aws") == estafeta("data", *command), "the same as here"
    assert estafeta("data", "rm", "rows", "--yes", "--on", "aws") == "removed rows\n"
    assert "none yet" not in estafeta("data", "ls"), "it was removed here"
    assert estafeta("data", "ls", "--on", "aws") == ""
    (left,) = Bucket("estafeta", patient_client("s3")).objects()
    assert left.key.startswith(SOURCES)


JOB = """
import estafeta
from torch import nn

def model():
    return nn.Linear(2, 2)

def _job(name):
    return estafeta.Job(model=model, loss=nn.functional.cross_entropy, optimizer=estafeta.Adam(lr=0.1), dataset=name,
                        batch_size=128, micro_batch_size=128, epochs=3)

job, other = _job("rows"), _job("missing")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "error", "remedy"),
    [
        (["runs", "--on", "aws", "--stack", "other"], 3, "There is no stack 'other' in us-east-1", "estafeta deploy"),
        (["runs", "--on", "aws", "--profile", "me"], 3, "The config profile (me) could not be found", "credentials"),
        (["runs", "--stack", "other"], 2, "--stack says where on AWS", "add --on aws"),
        (["status", "no-such", "--on", "aws"], 2, "no run", "estafeta"),
        (["data", "verify", "none", "--on", "aws"], 2, "There is no data set named 'none'", "data import"),
        (["data", "rm", "none", "--yes", "--on", "aws"], 2, "There is no data set named 'none'", "data import"),
        (["train", "examples/digits.py", "--on", "inline", "--region", "eu-west-1"], 2, "--region says", "--on aws"),
    ],
)
def test_errors(arguments: list[str], code: int, error: str, remedy: str, estafeta: Command) -> None:
    said = estafeta(*arguments, code=code)
    assert error in said
    assert remedy in said


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["status", "no-such", "--on", "aws", "--region", REGION], 2, f" --on aws --region {REGION} "),
        (
            ["data", "verify", "none", "--on", "aws", "--stack", "estafeta"],
            2,
            "estafeta data import --on aws --stack estafeta none SOURCE",
        ),
        (["runs", "--on", "aws", "--stack", "other"], 3, f"estafeta deploy --stack other --region {REGION}"),
    ],
)
def test_hints_name_the_place_that_was_asked(arguments: list[str], code: int, expected: str, estafeta: Command) -> None:
    assert expected in estafeta(*arguments, code=code)
