"""A local service of the tests' own, and the way to start runs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from estafeta import local
from estafeta.client.backend import LOG_LAG_S, Backend
from estafeta.client.connect import connect
from estafeta.client.launch import start
from estafeta.client.run import Run
from estafeta.client.source import import_job
from estafeta.protocol.spec import Choice

JOBS = Path(__file__).with_name("jobs")
Start = Callable[..., Run]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the store and the local service of this test process."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTAFETA_HOME", str(home))
        yield home
        local.stop(home)


@pytest.fixture(scope="session")
def inline(home: Path) -> Backend:
    """Runs in this process."""
    return connect("inline")


@pytest.fixture(scope="session")
def on_local(home: Path) -> Backend:
    """Runs on the local service."""
    return connect("local")


@pytest.fixture
def whole_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for every REPORT line, however late the service writes it on a machine that is busy."""
    monkeypatch.setitem(LOG_LAG_S, "local", 60.0)


@pytest.fixture(scope="session")
def begin() -> Start:
    """Start a run of one of the jobs: `begin(backend, "small.py:job", workers=2, options={"option": value})`."""

    def begin(
        backend: Backend,
        place: str,
        workers: int = 2,
        options: dict[str, object] | None = None,
        topology: Choice = "auto",
        chaos: str = "",
        limits: dict[str, float | None] | None = None,
    ) -> Run:
        found = import_job(str(JOBS / place))
        return start(
            *found,
            backend=backend,
            workers=workers,
            topology=topology,
            options=options or {},
            chaos=chaos,
            limits=limits,
        )

    return begin


def digest(run: Run) -> str:
    """The digest of a run's final weights, once it is done."""
    run.wait()
    outcome = run.status().outcome
    assert outcome is not None
    assert outcome.state == "done", outcome
    assert outcome.weights_sha256 is not None
    return outcome.weights_sha256
