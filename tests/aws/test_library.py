"""The library: packed here, unpacked there, in as many legs as the time asks for, entered when it is complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from estafeta.aws.bucket import Bucket
from estafeta.aws.library import MARGIN_S, VARIABLE, LibraryManifest, enter, install, manifest_key
from estafeta.deploy.library_build import Library, files_of, pack, parts_of, send, stored
from estafeta.deploy.wheels import NO_BACKEND, Target
from estafeta.errors import Corrupt, EnvironmentProblem, UsageError
from estafeta.protocol.layout import LibraryLayout
from estafeta.store.store import Store

LIBRARY = Library((), Target("3.13", "arm64"))
FILES = {
    "torch/__init__.py": b"VALUE = 7\n",
    "torch/nn/__init__.py": b"from torch import VALUE\n",
    "torch/lib/libtorch_cpu.so": bytes(range(256)) * 9000,
    "torch/broken.py": b"print 'python 2'\n",
    "torch/bin/torch_shm_manager": b"ELF",
}
SUPERFLUOUS = ("torch/include/ATen.h", "torch/nn/__init__.pyi", "torch/__pycache__/x.pyc", "bin/torchrun", ".lock")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    for name, content in {**FILES, **dict.fromkeys(SUPERFLUOUS, b"")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def sent(packages: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> LibraryManifest:
    monkeypatch.setattr("estafeta.deploy.library_build.PART_FILES", 1)
    return send(LIBRARY, {"torch": "2"}, packages, bucket, lambda done, total: None)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "path", ["task", *sys.path])
    return sys.path


def files(store: Store) -> dict[str, bytes]:
    """What is published of the library, but for the bytecode."""
    root = Path(store.absolute(LibraryLayout(LIBRARY.digest).files))
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def test_library_leaves_out_files_that_no_function_needs(packages: Path) -> None:
    assert files_of(packages) == sorted(FILES)


def test_parts_are_limited_and_their_bytes_are_the_same_each_time(packages: Path) -> None:
    paths = files_of(packages)
    (packages / paths[0]).touch()
    assert [path for part in parts_of(packages, paths) for path in part] == paths
    assert pack(packages, paths) == pack(packages, paths)


def test_a_library_is_named_by_what_was_asked_for() -> None:
    target = Target("3.13", "arm64")
    one = Library.of(["# for jobs", "scipy==1.16  # comment", "", "pandas"], target)
    assert one.extra == ("pandas", "scipy==1.16")
    assert one.requirements[0].startswith("torch==")
    assert one.digest == Library.of(["pandas", "scipy==1.16"], target).digest
    others = [
        Library.of(["pandas"], target),
        Library(one.extra, Target("3.12", "arm64")),
        Library(one.extra, Target("3.13", "x86_64")),
        Library(one.extra, target, NO_BACKEND),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5
    assert Library.of(["torch==2.9"], target).requirements == ("torch==2.9",)
    assert Library.of(["torchmetrics"], target).requirements[0].startswith("torch==")


def test_it_arrives_as_it_was_sent_and_compiled(sent: LibraryManifest, bucket: Bucket, there: Store) -> None:
    assert stored(LIBRARY, bucket) == sent
    assert len(sent.parts) == len(FILES)
    assert install(LIBRARY.digest, there, bucket, lambda: 300.0).ready
    assert files(there) == FILES
    root = there.absolute(LibraryLayout(LIBRARY.digest).files)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import torch.nn; print(torch.nn.VALUE, torch.nn.__cached__)"
    (Path(root) / "torch/nn/__init__.py").write_text("raise SystemExit('the source was compiled')")
    said = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True).stdout
    assert said.startswith("7 ")
    assert not list(Path(root).rglob(".tmp-*"))


def test_it_obeys_the_time_limit_and_goes_on(sent: LibraryManifest, bucket: Bucket, there: Store) -> None:
    """GIVEN a clock that goes on by a second at each look WHEN a leg has two to spend THEN several legs complete it."""

    class Ticking:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

        time = monotonic

        def sleep(self, seconds: float) -> None: ...

    store = Store(there.root, clock=Ticking())
    seen = []
    while not (progress := install(LIBRARY.digest, store, bucket, lambda: MARGIN_S + 2.5)).ready:
        assert not store.exists(LibraryLayout(LIBRARY.digest).ready)
        seen.append(progress.done)
        assert len(seen) < 10
    assert seen == sorted(set(seen)), "each leg gets further"
    assert len(seen) >= 1
    assert files(store) == FILES


def test_installed_files_are_not_written_again(sent: LibraryManifest, bucket: Bucket, there: Store) -> None:
    install(LIBRARY.digest, there, bucket, lambda: 300.0)
    layout = LibraryLayout(LIBRARY.digest)
    shared = Path(there.absolute(f"{layout.files}/torch/lib/libtorch_cpu.so"))
    before = shared.stat()
    for path in (layout.ready, *(layout.part(number) for number in range(len(sent.parts)))):
        Path(there.absolute(path)).unlink()
    assert install(LIBRARY.digest, there, bucket, lambda: 300.0).ready
    assert shared.stat() == before, "workers may have mapped it"


def test_damaged_library_is_not_published(sent: LibraryManifest, packages: Path, bucket: Bucket, there: Store) -> None:
    (packages / "torch/__init__.py").write_bytes(b"VALUE = 8\n")
    bucket.upload(sent.parts[0].key, pack(packages, ["torch/__init__.py"]))
    with pytest.raises(Corrupt, match=r"torch/__init__\.py"):
        install(LIBRARY.digest, there, bucket, lambda: 300.0)
    assert files(there) == {}


def test_paths_out_of_the_folder_are_refused(
    sent: LibraryManifest, packages: Path, bucket: Bucket, there: Store
) -> None:
    bucket.upload(sent.parts[0].key, pack(packages, ["torch/../torch/__init__.py"]))
    file = sent.parts[0].files[0].model_copy(update={"path": "torch/../torch/__init__.py"})
    parts = (sent.parts[0].model_copy(update={"files": (file,)}),)
    bucket.upload(manifest_key(LIBRARY.digest), sent.model_copy(update={"parts": parts}).to_json())
    with pytest.raises(Corrupt, match="does not belong there"):
        install(LIBRARY.digest, there, bucket, lambda: 300.0)


def test_a_library_that_was_never_sent_is_a_usage_error(bucket: Bucket, there: Store) -> None:
    with pytest.raises(UsageError, match="no libraries/"):
        install("0" * 16, there, bucket, lambda: 300.0)


def test_sending_that_was_broken_off_sends_the_rest(
    packages: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estafeta.deploy.library_build.PART_FILES", 1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(LIBRARY, {}, packages, bucket, stop)
    assert bucket.size(manifest_key(LIBRARY.digest)) is None, "without all parts there is no library"
    uploaded: list[str] = []
    upload = Bucket.upload
    monkeypatch.setattr(Bucket, "upload", lambda self, key, *more: (uploaded.append(key), upload(self, key, *more))[1])
    send(LIBRARY, {}, packages, bucket, lambda done, total: None)
    assert len(uploaded) == len(FILES) - 2 + 1


def test_a_worker_enters_what_is_ready(
    sent: LibraryManifest, bucket: Bucket, there: Store, path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(path)
    enter(there)
    assert path == before, "an image has no library"
    monkeypatch.setenv(VARIABLE, LIBRARY.digest)
    with pytest.raises(EnvironmentProblem, match="not installed completely"):
        enter(there)
    install(LIBRARY.digest, there, bucket, lambda: 300.0)
    enter(there)
    enter(there)
    assert path == ["task", there.absolute(LibraryLayout(LIBRARY.digest).files), *before[1:]]
