"""The commands of the README's section on AWS, one after the other, against moto's server and the local service.

The local service stands for Lambda and CloudWatch Logs, moto for S3, CloudFormation and STS. The command line is told
by the environment variables that every AWS SDK knows; that functions find moto's S3 is said in their template.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from estafeta import local
from estafeta.cli.main import main
from estafeta.launch import TEMPLATE
from estafeta.s3 import Bucket
from estafeta.stack import patient_client

from .conftest import point_at

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
BUCKET = "estafeta-files"
OUTPUTS = {"WorkerFunction": "estafeta-worker", "MergeFunction": "estafeta-merge",
           "ControlFunction": "estafeta-control", "Bucket": BUCKET, "FileSystemId": "fs-0123456789abcdef0"}  # fmt: skip

Command = Callable[..., str]


@pytest.fixture(scope="module")
def aws(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An account with a stack, whose functions run in the local service; gives the folder that stands for EFS."""
    home = tmp_path_factory.mktemp("aws")
    variables = f"Variables:\n          AWS_ENDPOINT_URL_S3: {moto}\n"
    template = home / "template.yaml"
    template.write_text(TEMPLATE.read_text().replace("Variables:\n", variables))
    service = local.ensure(home / "service", local.Options(template=template, root=home / "efs"))
    with pytest.MonkeyPatch.context() as patch:
        point_at(moto, patch)
        for name in ("LAMBDA", "CLOUDWATCH_LOGS"):
            patch.setenv(f"AWS_ENDPOINT_URL_{name}", service.url)
        patch.setenv("AWS_ACCESS_KEY_ID", service.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", service.secret_key)
        patch.setenv("ESTAFETA_HOME", str(home / "here"))
        resources = {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": BUCKET}}}
        outputs = {name: {"Value": value} for name, value in OUTPUTS.items()}
        patient_client("cloudformation").create_stack(
            StackName="estafeta", TemplateBody=json.dumps({"Resources": resources, "Outputs": outputs})
        )
        yield home / "efs"
        local.stop(home / "service")


@pytest.fixture
def estafeta(aws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Carry out a command in a folder of the test's own; gives its standard output."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)

    def estafeta(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capsys.readouterr()
        assert caught.value.code == code, err
        return out if code == 0 else err

    return estafeta


def commands() -> list[list[str]]:
    """Those of the README's section on AWS."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n### On AWS\n")[2].partition("\n### ")[0]
    lines = re.search(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert lines
    return [shlex.split(line, comments=True)[1:] for line in lines[1].splitlines() if line.strip()]


NOT_HERE = ("deploy", "destroy")


def test_the_commands_of_the_readme(estafeta: Command, aws: Path, tmp_path: Path) -> None:
    """GIVEN a run on AWS that is stopped and resumed THEN its weights have the bits of one in this process."""
    assert [words[0] for words in commands()] == ["train", "status", "stop", "resume", "logs", "export"]
    train = next(words for words in commands() if words[0] == "train")
    here = [word for word in train if word not in ("--detach", "--on", "aws")]
    expected = json.loads(estafeta(*here, "--on", "inline", "--json"))
    for words in commands():
        if words[0] not in NOT_HERE:
            estafeta(*words)
    run = json.loads(estafeta("status", "last", "--on", "aws", "--json"))
    assert (run["state"], run["on"], run["topology"]) == ("done", "aws", "replicated")
    assert run["weights_sha256"] == expected["weights_sha256"]
    assert list((aws / "runs" / run["run"]).glob("stopped-*.json")), "it was not stopped before its end"
    ours, theirs = (load_file(path) for path in (f"runs/{run['run']}/final/model.safetensors", expected["model_path"]))
    assert {name: value.tobytes() for name, value in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}


def test_a_data_set_goes_there_with_the_run(estafeta: Command, aws: Path, tmp_path: Path) -> None:
    """GIVEN a data set of this machine WHEN a job that names it runs on AWS THEN it is sent once, and read there."""
    rows = "\n".join(f"{i % 7},{i % 5},{i % 2}" for i in range(600))
    (tmp_path / "rows.csv").write_text(f"a,b,label\n{rows}\n")
    (tmp_path / "linear.py").write_text(JOB)
    estafeta("data", "import", "rows", "rows.csv", "--label", "label")
    assert "neither on this machine nor on AWS" in estafeta("train", "linear.py:other", "--on", "aws", code=2)
    expected = json.loads(estafeta("train", "linear.py:job", "--on", "inline", "--json"))
    run = json.loads(estafeta("train", "linear.py:job", "--on", "aws", "--json", "-o", "merge.memory_mb=512"))
    assert (run["on"], run["weights_sha256"]) == ("aws", expected["weights_sha256"])
    assert [found["name"] for found in json.loads(estafeta("data", "ls", "--on", "aws", "--json"))["datasets"]] == [
        "rows"
    ]
    sent = list((aws / "datasets/rows").iterdir())
    refused = estafeta("data", "import", "rows", "rows.csv", "--label", "label", "--on", "aws", code=2)
    assert "a data set named 'rows' on AWS already" in refused
    estafeta("train", "linear.py:job", "--on", "aws", "-o", "epochs=1")
    assert list((aws / "datasets/rows").iterdir()) == sent
    assert estafeta("data", "rm", "rows", "--yes", "--on", "aws") == "removed rows\n"
    assert "none yet" not in estafeta("data", "ls"), "it was removed here"
    assert estafeta("data", "ls", "--on", "aws") == ""
    assert list(Bucket(BUCKET, patient_client("s3")).objects()) == []


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
        (["runs", "--on", "aws", "--stack", "other"], 3, "there is no stack 'other' in us-east-1", "estafeta deploy"),
        (["runs", "--on", "aws", "--profile", "me"], 3, "The config profile (me) could not be found", "credentials"),
        (["runs", "--stack", "other"], 2, "--stack says where on AWS", "add --on aws"),
        (["status", "no-such", "--on", "aws"], 2, "no run", "estafeta"),
        (["data", "rm", "none", "--yes", "--on", "aws"], 2, "there is no data set named 'none'", "data import"),
        (["train", "examples/digits.py", "--on", "inline", "--region", "eu-west-1"], 2, "--region says", "--on aws"),
    ],
)
def test_errors(arguments: list[str], code: int, error: str, remedy: str, estafeta: Command) -> None:
    said = estafeta(*arguments, code=code)
    assert error in said
    assert remedy in said
