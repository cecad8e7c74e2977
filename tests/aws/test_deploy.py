"""Deploying and destroying against moto's server: what is made, what is repeated, what is left.

Fetching packages is `test_code_zip.py`'s; here they are a few small files. Where `control` would be invoked, its verb
is carried out in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.cloudformation.models import cloudformation_backends

from conformance.clock import VirtualClock
from estafeta.aws.account import Account, Deployment
from estafeta.aws.bucket import Bucket
from estafeta.aws.library import install
from estafeta.deploy import deploy as deploying
from estafeta.deploy import plan as planning
from estafeta.deploy.change_sets import Event
from estafeta.deploy.code_zip import CodePackage
from estafeta.deploy.deploy import Deployer
from estafeta.deploy.destroy import Destroyer
from estafeta.deploy.library_build import Library
from estafeta.deploy.plan import Plan, Wishes
from estafeta.errors import UsageError
from estafeta.protocol.layout import LibraryLayout
from estafeta.protocol.verbs import InstallVerb
from estafeta.store.store import Store

from .account import point_at
from .cloudformation import complete

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.xdist_group("moto-stacks")]

ACCOUNT, REGION = "123456789012", "us-east-1"
PACKAGES = {
    "torch/__init__.py": b"def zeros(): return 0\n",
    "torch/lib/libtorch.so": bytes(range(256)) * 64,
    "torch/include/ATen.h": b"",
    "torch-2.dist-info/METADATA": b"Name: torch\nVersion: 2\n",
}


class Journal:
    """A reporter that remembers the steps, and `control`'s calls among them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, what: str) -> None:
        self.lines.append(what)

    def portion(self, what: str, done: int, total: int, unit: str) -> None: ...

    def event(self, event: Event) -> None: ...


class World:
    """An account, and the file system that `control` would have."""

    def __init__(self, root: Path, account: Account, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        self.store, self.account, self.journal = Store(root), account, Journal()
        self.fetched: list[tuple[str, ...]] = []
        self.code = b"the code"
        patch.setattr(planning, "build_code", self._build)
        patch.setattr(deploying, "fetch", self._fetch)
        patch.setattr(deploying, "on_stack", lambda account, stack: self)

    def deployer(self, **wishes: Any) -> Deployer:
        return Deployer(self.account, Wishes(stack="demo", **wishes), self.journal, VirtualClock())

    def deploy(self, **wishes: Any) -> tuple[Plan, Deployment]:
        deployer = self.deployer(**wishes)
        plan = deployer.prepare(self.root)
        return plan, deployer.carry_out(plan)

    def destroyer(self) -> Destroyer:
        return Destroyer(self.account, "demo", self.journal, VirtualClock())

    def bucket(self, name: str) -> Bucket:
        return Bucket(name, self.account.client("s3"))

    def call(self, verb: InstallVerb) -> dict[str, Any]:
        self.journal.step(f"install {verb.library}")
        return install(verb.library, self.store, self.bucket(verb.bucket), lambda: 300.0).model_dump()

    def _build(self, folder: Path, target: object) -> CodePackage:
        path = folder / "code.zip"
        path.write_bytes(self.code)
        return CodePackage(path, self.code.hex().ljust(64, "0"), len(self.code), 100, compiled=False)

    def _fetch(self, library: Library, folder: Path) -> dict[str, str]:
        self.fetched.append(library.requirements)
        for name, content in PACKAGES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {"torch": "2"}


@pytest.fixture(scope="module")
def account(moto: str) -> Iterator[Account]:
    """Making clients takes longer than most tests do."""
    with pytest.MonkeyPatch.context() as patch:
        point_at(moto, patch)
        for service in ("EFS", "EC2", "CLOUDWATCH_LOGS"):
            patch.setenv(f"AWS_ENDPOINT_URL_{service}", moto)
        account = Account(REGION)
        for service in ("cloudformation", "s3", "sts", "efs", "ec2", "logs"):
            account.client(service)
        yield account


@pytest.fixture
def world(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    complete(monkeypatch)
    world = World(tmp_path, account, monkeypatch)
    yield world
    world.destroyer().carry_out(world.destroyer().look(), delete_data=True)


def there(world: World) -> set[str]:
    """Files of the library on the file system, but for the bytecode."""
    (library,) = world.store.list("libraries")
    root = Path(world.store.absolute(LibraryLayout(library).files))
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_a_first_deployment_makes_everything(world: World) -> None:
    plan, deployed = world.deploy()
    assert plan.creates
    assert plan.before == {}
    assert {change.kind for change in plan.all_changes} >= {"AWS::Lambda::Function", "AWS::EFS::FileSystem"}
    assert deployed.functions == {role: f"demo-{role}" for role in ("worker", "merge", "control")}
    assert deployed.bucket == f"demo-{ACCOUNT}-{REGION}"
    assert world.bucket(deployed.bucket).read(f"code/{world.code.hex().ljust(64, '0')[:32]}.zip") == world.code
    assert there(world) == set(PACKAGES) - {"torch/include/ATen.h"}


def test_a_second_one_changes_nothing_and_fetches_nothing(world: World) -> None:
    world.deploy(requirements=("scipy",), torch_backend="none")
    plan, _ = world.deploy()
    assert plan.all_changes == ()
    assert not plan.creates
    assert plan.library_stored
    assert len(world.fetched) == 1
    assert plan.library is not None
    assert "scipy" in plan.library.requirements, "what is not asked for stays"
    assert plan.library.torch_backend == "none", "so does where PyTorch comes from"


def test_a_pytorch_from_elsewhere_is_another_library(world: World) -> None:
    world.deploy()
    plan, _ = world.deploy(torch_backend="cu126")
    assert not plan.library_stored
    assert len(world.fetched) == 2


def test_a_new_library_is_installed_before_the_functions_that_need_it(world: World) -> None:
    world.deploy()
    world.journal.lines.clear()
    plan, _ = world.deploy(requirements=("scipy",))
    assert plan.library is not None
    steps = world.journal.lines
    assert steps.index(f"install {plan.library.digest}") < steps.index("changing the stack demo")


def test_a_deployment_that_is_declined_leaves_nothing(world: World) -> None:
    deployer = world.deployer()
    deployer.discard(deployer.prepare(world.root))
    assert world.destroyer().look().is_gone
    assert world.account.client("cloudformation").describe_stacks()["Stacks"] == []


def test_deploy_first_removes_remains_of_a_failed_attempt(world: World) -> None:
    """GIVEN a creation that was rolled back WHEN it is repeated THEN it succeeds."""
    world.deploy()
    stacks = cloudformation_backends[ACCOUNT][REGION].stacks
    next(stack for stack in stacks.values() if stack.name == "demo").status = "ROLLBACK_COMPLETE"
    plan, deployed = world.deploy()
    assert plan.remains == "ROLLBACK_COMPLETE"
    assert any("removing the remains of a failed attempt" in line for line in world.journal.lines)
    assert deployed.stack == "demo"


@pytest.mark.parametrize("broken", ["send", "_install"])
def test_a_deployment_that_was_broken_off_is_completed_by_the_next(
    world: World, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deploying if broken == "send" else Deployer, broken, fail)
        with pytest.raises(KeyboardInterrupt):
            world.deploy()
    assert world.store.list("libraries") == frozenset()
    world.deploy()
    assert there(world) == set(PACKAGES) - {"torch/include/ATen.h"}


def test_impossible_wishes_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match="Estafeta's own"):
        world.deploy(parameters={"Bucket": "mine"})
    with pytest.raises(UsageError, match="no parameter WorkerMemry"):
        world.deploy(parameters={"WorkerMemry": "3008"})
    with pytest.raises(UsageError, match="cannot be the name of a stack"):
        Deployer(world.account, Wishes(stack="De_mo"), world.journal).prepare(world.root)
    assert world.destroyer().look().is_gone
    world.deploy()
    with pytest.raises(UsageError, match="made of packages"):
        world.deploy(image="image")


def test_destroying_keeps_the_data_and_a_later_stack_finds_it(world: World) -> None:
    _, first = world.deploy()
    standing = world.destroyer().look()
    assert standing.objects > 2
    assert set(standing.file_systems) == {first.file_system}
    world.destroyer().carry_out(standing, delete_data=False)
    assert world.destroyer().leftovers() == []
    assert world.destroyer().kept() == [first.file_system]
    assert world.destroyer().look().is_gone
    plan, _ = world.deploy()
    assert plan.file_system == first.file_system
    assert world.deploy()[0].parameters["ExistingFileSystem"] == first.file_system, "an update does not forget it"


def test_a_file_system_that_is_taken_over_keeps_its_throughput_mode(world: World) -> None:
    """The stack cannot change it, and would tell another price than AWS asks."""
    _, first = world.deploy(parameters={"ThroughputMode": "elastic"})
    world.destroyer().carry_out(world.destroyer().look(), delete_data=False)
    assert world.deploy()[0].parameters["ThroughputMode"] == "elastic"
    with pytest.raises(UsageError, match=f"{first.file_system} is from an earlier stack, and keeps its .*, elastic"):
        world.deploy(parameters={"ThroughputMode": "bursting"})
    world.deploy(parameters={"DataPolicy": "Delete"})
    assert not world.destroyer().look().deletes_data, "it is not the stack's to delete either"


def test_data_is_deleted_if_that_is_asked_for(world: World) -> None:
    world.deploy()
    world.destroyer().carry_out(world.destroyer().look(), delete_data=True)
    assert world.destroyer().kept() == []


def test_leftovers_are_listed_with_their_cure(world: World) -> None:
    """GIVEN a log group that a late function has made again, an interface, and strangers WHEN looked for THEN ours."""
    logs, ec2 = world.account.client("logs"), world.account.client("ec2")
    for name in ("/aws/lambda/demo-worker", "/aws/lambda/demo-other"):
        logs.create_log_group(logGroupName=name)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interfaces = [
        ec2.create_network_interface(SubnetId=subnet, Description=f"AWS Lambda VPC ENI-{name}-1")["NetworkInterface"]
        for name in ("demo-worker", "other-worker")
    ]
    found = {(left.kind, left.name) for left in world.destroyer().leftovers()}
    assert found == {
        ("log group", "/aws/lambda/demo-worker"),
        ("network interface", interfaces[0]["NetworkInterfaceId"]),
    }
    assert all(left.name in str(left.command) for left in world.destroyer().leftovers())
    logs.delete_log_group(logGroupName="/aws/lambda/demo-worker")


def test_destroying_what_is_not_there_is_no_error(world: World) -> None:
    world.destroyer().carry_out(world.destroyer().look(), delete_data=False)
    assert world.destroyer().look().is_gone
