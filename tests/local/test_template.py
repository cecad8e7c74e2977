"""The reader of CloudFormation, and the deployed template."""

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from estafeta.errors import UsageError
from estafeta.local.template.config import AsyncConfig, FunctionConfig
from estafeta.local.template.reader import read_template

DEPLOYED = Path(str(files("estafeta.aws") / "stack.yaml"))

FUNCTION = """
Resources:
  F:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: f
      Handler: m.f
      Runtime: python3.13
"""


def read(tmp_path: Path, text: str, **parameters: str) -> FunctionConfig:
    path = tmp_path / "template.yaml"
    path.write_text(text)
    return read_template(path, region="eu-west-1", parameters=parameters)[0]


@pytest.fixture(scope="module")
def deployed() -> dict[str, FunctionConfig]:
    return {config.name: config for config in read_template(DEPLOYED, region="us-east-1")}


def test_the_deployed_functions(deployed: dict[str, FunctionConfig]) -> None:
    assert {name: (c.handler, c.memory_mb, c.timeout_s) for name, c in deployed.items()} == {
        "estafeta-worker": ("estafeta.functions.worker.handler", 1769, 900),
        "estafeta-merge": ("estafeta.functions.merge.handler", 1769, 900),
        "estafeta-control": ("estafeta.functions.control.handler", 512, 300),
    }
    for config in deployed.values():
        assert config.recursive_loop == "Allow", "the functions call each other in a loop on purpose"
        assert config.local_mount_path == config.environment["ESTAFETA_ROOT"] == "/mnt/estafeta"
        for role in ("worker", "merge", "control"):
            assert config.environment[f"ESTAFETA_{role.upper()}_FUNCTION"] == f"estafeta-{role}"
        assert config.environment["AWS_USE_DUALSTACK_ENDPOINT"] == "true"
        assert config.architecture == "arm64"
        assert config.log_group == f"/aws/lambda/{config.name}"
        assert config.log_days == 14
    assert deployed["estafeta-worker"].preload[0] == "torch"
    assert deployed["estafeta-merge"].preload == ()


def test_failures_go_to_control_which_has_no_destination_itself(deployed: dict[str, FunctionConfig]) -> None:
    expected = AsyncConfig(retries=2, max_event_age_s=21_600, on_failure="estafeta-control")
    assert deployed["estafeta-worker"].asynchronous == expected
    assert deployed["estafeta-merge"].asynchronous == expected
    assert deployed["estafeta-control"].asynchronous.on_failure is None


def test_parameters_reach_the_functions() -> None:
    parameters = {"WorkerMemory": "3008", "WorkerTimeout": "10", "Architecture": "x86_64", "MaxWorkers": "0"}
    configs = read_template(DEPLOYED, region="us-east-1", parameters=parameters)
    worker, merge, _ = configs
    assert (worker.memory_mb, worker.timeout_s, worker.architecture) == (3008, 10, "x86_64")
    assert worker.reserved_concurrency == 0
    assert merge.reserved_concurrency is None
    with pytest.raises(UsageError, match="no parameter WorkerMemroy"):
        read_template(DEPLOYED, region="us-east-1", parameters={"WorkerMemroy": "1"})


def test_cfn_lint_has_nothing_to_say() -> None:
    program = shutil.which("cfn-lint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("cfn-lint is not installed")
    done = subprocess.run([program, str(DEPLOYED)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_lambdas_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, FUNCTION)
    assert config == FunctionConfig(
        name="f",
        handler="m.f",
        runtime="python3.13",
        architecture="x86_64",
        memory_mb=128,
        timeout_s=3,
        environment={},
        ephemeral_mb=512,
        local_mount_path=None,
        reserved_concurrency=None,
        recursive_loop="Terminate",
        log_group="/aws/lambda/f",
    )


def test_intrinsic_functions(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
Parameters:
  Stage: {Type: String, Default: test}
  Unset: {Type: String}
Conditions:
  IsTest: !Equals [!Ref Stage, test]
  IsBoth: !And [!Condition IsTest, !Not [!Equals [a, b]]]
Resources:
  Another: {Type: "AWS::Logs::LogGroup", Properties: {LogGroupName: !Ref Unset, RetentionInDays: 3}}
  Group: {Type: "AWS::Logs::LogGroup", Properties: {LogGroupName: !Sub "/x/${Stage}", RetentionInDays: 7}}
  Table: {Type: "AWS::DynamoDB::Table", Properties: {Name: !Cidr [!Ref Unset, 1, 2]}}
  Absent: {Type: "AWS::Lambda::Function", Condition: IsProduction, Properties: {Handler: !Ref Nothing}}
  F:
    Type: AWS::Lambda::Function
    Condition: IsBoth
    Properties:
      FunctionName: !Join ["-", [!Ref "AWS::StackName", !Ref Stage]]
      Handler: m.f
      Runtime: python3.13
      Timeout: !If [IsTest, 5, 6]
      MemorySize: !If [IsTest, !Ref "AWS::NoValue", 6]
      LoggingConfig: {LogGroup: !Ref Group}
      Environment:
        Variables:
          ARN: !GetAtt F.Arn
          TEXT: !Sub ["${a}-${Stage}-${!literal}-${AWS::Region}-${F.Arn}", {a: !Ref Stage}]
          TABLE: !Ref Table
          STREAM: {"Fn::GetAtt": [Table, StreamArn]}
          LEFT_OUT: !If [IsTest, !Ref "AWS::NoValue", x]
          SWITCH: true
""".replace("IsBoth: ", "IsProduction: !Equals [!Ref Stage, production]\n  IsBoth: "),
    )
    arn = "arn:aws:lambda:eu-west-1:000000000000:function:estafeta-test"
    assert config.name == "estafeta-test"
    assert config.timeout_s == 5
    assert config.memory_mb == 128
    assert (config.log_group, config.log_days) == ("/x/test", 7)
    assert config.environment == {
        "ARN": arn,
        "TEXT": f"test-test-${{literal}}-eu-west-1-{arn}",
        "TABLE": "Table",
        "STREAM": "Table.StreamArn",
        "SWITCH": "true",
    }


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("      Timeout: 901", "F: Timeout: 901 is not between 1 and 900"),
        ("      MemorySize: lots", "F: MemorySize: 'lots' is no whole number"),
        ("      RecursiveLoop: Maybe", "F: RecursiveLoop: 'Maybe' is neither"),
        ("      PackageType: Image", "F: PackageType: .*not container images"),
        ("      Code: {ImageUri: x}", "F: Code: .*not container images"),
        ("      Layers: [x]", "F: Layers: the local service does not offer this"),
        ("      Environment: {Variables: {AWS_REGION: x}}", r"F: Environment\.Variables\.AWS_REGION: Lambda reserves"),
        ("      FileSystemConfigs: [{Arn: a, LocalMountPath: /data}]", "F: FileSystemConfigs.LocalMountPath: .*/mnt/"),
        ("      Role: !Ref Nobody", "F: Role: 'Nobody' is neither a resource nor a parameter"),
        ("      Role: !Split [a, b]", "F: Role: Fn::Split is not understood here"),
        ("      Timeout: !If [Unknown, 1, 2]", "F: Timeout: there is no condition 'Unknown'"),
        ("    Metadata: {Estafeta: {Preload: torch}}", "Preload: a list of module names"),
    ],
)
def test_mistakes_are_named_by_file_resource_and_property(tmp_path: Path, addition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path, FUNCTION + addition)
    assert str(tmp_path / "template.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: [", "is not YAML"),
        ("- 1", "has no Resources"),
        ("Resources: {V: {Type: AWS::EC2::VPC}}", "has no resource of type AWS::Lambda::Function"),
        (FUNCTION.replace("python3.13", "nodejs22.x"), "F: Runtime: .*Python functions only"),
        (FUNCTION.replace("      Handler: m.f\n", ""), "F: Handler: a text is needed"),
    ],
)
def test_templates_that_cannot_work(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


EVENTS = (
    FUNCTION
    + """
  E:
    Type: AWS::Lambda::EventInvokeConfig
    Properties:
      FunctionName: !Ref F
      Qualifier: $LATEST
"""
)


def test_event_handling_is_found_by_function(tmp_path: Path) -> None:
    text = EVENTS + "      MaximumRetryAttempts: 0\n      DestinationConfig: {OnFailure: {Destination: !GetAtt F.Arn}}"
    assert read(tmp_path, text).asynchronous == AsyncConfig(retries=0, on_failure="f")


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("      MaximumRetryAttempts: 3", "E: MaximumRetryAttempts: 3 is not between 0 and 2"),
        ("      DestinationConfig: {OnFailure: {Destination: 'arn:aws:sqs:x:1:q'}}", "delivers to functions only"),
        ("      DestinationConfig: {OnSuccess: {Destination: !GetAtt F.Arn}}", "OnSuccess: .*not offer"),
        (
            "      DestinationConfig: {OnFailure: {Destination: 'arn:aws:lambda:x:1:function:g'}}",
            "there is no function 'g'",
        ),
    ],
)
def test_event_handling_that_cannot_be_honoured(tmp_path: Path, addition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, EVENTS + addition)
