"""One run's folder on the store: its paths, its spec and its plan."""

from functools import lru_cache

from estafeta.protocol.layout import RunLayout
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.store.store import Store


class RunFolder:
    """A run as its functions see it. The spec and the plan never change while a run exists, so each is read once.

    Args:
        spec: The run's spec, if the caller has it already.
        plan: The run's plan, likewise.
    """

    def __init__(self, store: Store, run: str, spec: RunSpec | None = None, plan: Plan | None = None) -> None:
        self.store, self.run, self.layout = store, run, RunLayout(run)
        self._spec = spec
        self._plan = plan

    @property
    def spec(self) -> RunSpec:
        """What the run was started with.

        Raises:
            Gone: There is no such run.
        """
        if self._spec is None:
            self._spec = RunSpec.model_validate_json(self.store.read(self.layout.spec))
        return self._spec

    @property
    def plan(self) -> Plan:
        """What preparing the run found out.

        Raises:
            Gone: The run is not prepared yet.
        """
        if self._plan is None:
            self._plan = read_plan(self.store, self.layout.plan, self.spec.token)
        return self._plan


@lru_cache(maxsize=8)
def open_folder(store: Store, run: str) -> RunFolder:
    """Return the folder of a run; a warm environment keeps it, so it reads spec and plan once.

    Only functions that belong to the run may use this: a client may have removed a run and started another of its name.
    """
    return RunFolder(store, run)


@lru_cache(maxsize=8)
def read_plan(store: Store, path: str, run_token: str) -> Plan:  # noqa: ARG001 (part of the key)
    """Read a plan; a warm environment keeps it by the run's token, which another run of the same name does not have."""
    return Plan.model_validate_json(store.read(path))
