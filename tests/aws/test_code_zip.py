"""The functions as Lambda will see them: a Python with nothing but the runtime's packages, the zip, and the library.

The zip is built by `deploy`'s own code, for this machine. In the short form the library's folder is made of links to
the PyTorch that is installed here; the long form (`make packages`) fetches the packages, sends them to moto's S3,
has `control` unpack them, and resolves the folder for arm64 as well.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from estafeta import local
from estafeta.aws.bucket import Bucket
from estafeta.aws.lambda_api import make_client
from estafeta.client.backend import ROLES, LambdaBackend
from estafeta.client.connect import TEMPLATE, connect
from estafeta.client.launch import start
from estafeta.client.source import import_job
from estafeta.deploy.code_zip import CodePackage, build_code
from estafeta.deploy.library_build import Library, fetch, files_of, send
from estafeta.deploy.wheels import NO_BACKEND, Target
from estafeta.local import Options
from estafeta.protocol.layout import LibraryLayout
from estafeta.protocol.spec import Choice
from estafeta.protocol.verbs import InstallVerb

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("local-service")]

JOB = Path(__file__).with_name("jobs") / "tiny.py"

HERE = Target(
    f"{sys.version_info.major}.{sys.version_info.minor}", "arm64" if platform.machine() == "aarch64" else "x86_64"
)

RUNTIME = (
    "awslambdaric",
    "boto3",
    "botocore",
    "s3transfer",
    "jmespath",
    "python-dateutil",
    "urllib3",
    "six",
    "simplejson",
    "snapshot-restore-py",
)
"""Packages that Lambda's managed runtime for Python brings along."""

OF_TORCH = ("torch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "setuptools")
"""Packages of a library with nothing but PyTorch; see the long form."""


def link(names: Iterable[str], folder: Path) -> None:
    """Make links to installed distributions, whole, in a folder."""
    for name in names:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> CodePackage:
    return build_code(tmp_path_factory.mktemp("code"), HERE)


@pytest.fixture(scope="module")
def task(code: CodePackage) -> Path:
    """The zip, unpacked: `/var/task`."""
    folder = code.path.with_name("task")
    zipfile.ZipFile(code.path).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has what Lambda's has."""
    root = tmp_path_factory.mktemp("runtime") / "venv"
    venv.create(root, symlinks=True)
    link(RUNTIME, root / "lib" / f"python{HERE.python}" / "site-packages")
    return root / "bin" / "python"


class Functions:
    """The functions in the local service, without anything of this machine's environment."""

    def __init__(self, home: Path, python: Path, task: Path, library: str, template: Path = TEMPLATE) -> None:
        self.home, self.root = home, home / "efs"
        options = Options(template, self.root, task_root=task, python=python, parameters={"Library": library})
        endpoint = local.ensure(home / "service", options).client_options()
        names = {role: f"estafeta-{role}" for role in ROLES}
        clients = [make_client(service, **endpoint) for service in ("lambda", "logs")]
        self.backend = LambdaBackend("local", names, *clients)

    def train(self, topology: Choice) -> str:
        run = start(*import_job(str(JOB)), backend=self.backend, workers=2, topology=topology, options={}).wait()
        outcome = run.status().outcome
        assert outcome is not None
        assert outcome.weights_sha256 is not None
        return outcome.weights_sha256


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bits of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTAFETA_HOME", str(tmp_path_factory.mktemp("home")))
        outcome = start(*import_job(str(JOB)), backend=connect("inline"), workers=2, options={}).wait().status().outcome
    assert outcome is not None
    assert outcome.weights_sha256 is not None
    return outcome.weights_sha256


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    local.stop(tmp_path / "service")


def test_the_package_has_neither_torch_nor_the_client(python: Path, task: Path) -> None:
    def imports(name: str) -> bool:
        done = subprocess.run([python, "-c", f"import {name}"], cwd=task, env={"PYTHONPATH": str(task)}, stderr=-3)
        return done.returncode == 0

    functions = "estafeta.functions.merge, estafeta.functions.control, estafeta.functions.worker"
    assert imports(f"{functions}, numpy, pydantic, awslambdaric, boto3")
    assert not any(imports(name) for name in ("torch", "estafeta.cli.main", "estafeta.deploy.deploy", "click"))
    assert not (task / "boto3").exists(), "the runtime has it"


def test_a_package_is_the_same_each_time_and_compiled_for_its_python(code: CodePackage, tmp_path: Path) -> None:
    names = zipfile.ZipFile(code.path).namelist()
    assert code.compiled
    assert any(name.startswith("estafeta/functions/__pycache__/worker.") for name in names)
    assert not [name for name in names if name.endswith(("RECORD", ".pyi"))]
    assert {entry.date_time for entry in zipfile.ZipFile(code.path).infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert code.unzipped_bytes < 250 << 20


def test_a_training_runs_on_the_package_and_the_folder_alone(
    home: Path, python: Path, task: Path, expected: str, code: CodePackage
) -> None:
    digest = "0123456789abcdef"
    layout = LibraryLayout(digest)
    (home / "efs" / layout.files).mkdir(parents=True)
    link(OF_TORCH, home / "efs" / layout.files)
    (home / "efs" / layout.ready).touch()
    functions = Functions(home, python, task, digest)
    assert functions.train("merge") == expected
    assert functions.train("sharded") == expected


@pytest.mark.package
def test_a_library_is_fetched_sent_unpacked_and_trained_with(
    home: Path, python: Path, task: Path, expected: str, code: CodePackage, bucket: Bucket, moto: str
) -> None:
    library = Library((), HERE, NO_BACKEND)
    packages = fetch(library, home / "packages")
    assert set(OF_TORCH) == set(packages)
    manifest = send(library, packages, home / "packages", bucket, lambda done, total: None)
    template = home / "template.yaml"
    template.write_text(
        TEMPLATE.read_text().replace("Variables:\n", f"Variables:\n          AWS_ENDPOINT_URL_S3: {moto}\n")
    )
    functions = Functions(home, python, task, library.digest, template)
    verb = InstallVerb(bucket=bucket.name, library=library.digest)
    legs = 1
    while (answer := functions.backend.call(verb))["done"] != answer["parts"]:
        legs += 1
    print(  # noqa: T201
        f"code {code.unzipped_bytes >> 20} MiB of 250 unzipped; library {manifest.size >> 20} MiB in "
        f"{sum(len(part.files) for part in manifest.parts)} files, {answer['parts']} parts, {legs} legs of control"
    )
    assert functions.train("merge") == expected


@pytest.mark.package
def test_the_folder_for_the_other_processor_is_resolved_and_built(tmp_path: Path) -> None:
    """PyTorch 2.9.1 has a wheel without CUDA for arm64 on PyPI, which every machine can reach."""
    library = Library.of(["torch==2.9.1"], Target("3.13", "arm64"), NO_BACKEND)
    packages = fetch(library, tmp_path / "packages")
    assert packages["torch"] == "2.9.1"
    assert not [name for name in packages if "nvidia" in name or "triton" in name]
    files = files_of(tmp_path / "packages")
    size = sum((tmp_path / "packages" / path).stat().st_size for path in files)
    print(f"arm64: {size >> 20} MiB in {len(files)} files: {packages}")  # noqa: T201
    machine = (tmp_path / "packages/torch/lib/libtorch_cpu.so").read_bytes()[18:20]
    assert machine == b"\xb7\x00", "EM_AARCH64 of elf.h"
