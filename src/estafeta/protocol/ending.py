"""The end of a run: the final and the best version as files that plain PyTorch loads, then one marker.

The marker is published once, and every function looks for it before it goes on.

best|final/model.safetensors       the model's state dict
           optimizer.safetensors   the optimiser's state: <parameter>.<vector>
           state.json              version, epoch, metrics, digest, optimiser settings
"""

import errno
import hashlib
import json
from collections.abc import Iterator

from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import name_of
from estafeta.protocol.listing import epochs_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES, Finish, Snapshot, read_epoch
from estafeta.protocol.spec import Failure, Outcome, Plan, Which
from estafeta.protocol.weights import Weights, read_state, read_weights
from estafeta.store.files import Reader
from estafeta.store.tensorfile import Array, TensorFile, encode

RESERVE_BYTES = 64 * 1024
"""Room kept free on the disk for the last words of a run that fills it."""


def publish_outcome(folder: RunFolder, outcome: Outcome) -> bool:
    """Publish the end of a run; return whether this call ended it, since a run ends once.

    A full disk cannot keep the function from saying so: it gives up the run's reserve for that.
    """
    store, layout = folder.store, folder.layout
    if not store.list(layout.root).isdisjoint(f"{state}.json" for state in OUTCOMES):
        return False
    path, content = layout.outcome(outcome.state), [outcome.to_json()]
    try:
        return store.publish(path, content, outcome.token)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        store.sweep(layout.root, [name_of(layout.reserve)])
        return store.publish(path, content, outcome.token)


def fail(folder: RunFolder, invocation: Invocation, failure: Failure) -> None:
    """End a run as failed, for the reason given; where the log is, is added."""
    failure = failure.model_copy(
        update={
            "function": failure.function or invocation.function,
            "request_id": failure.request_id or invocation.token,
            "log_group": failure.log_group or invocation.log_group,
            "log_stream": failure.log_stream or invocation.log_stream,
        }
    )
    outcome = Outcome(
        token=invocation.token, state="failed", why=failure.message, failure=failure, ended_at=folder.store.clock.time()
    )
    publish_outcome(folder, outcome)
    invocation.note(folder.run, failed=failure.message)


def finish(end: Finish, snapshot: Snapshot, folder: RunFolder, token: str) -> None:
    """Decide with which version the run ends, export that and the best one, then publish the outcome.

    The decision is published first, once: of two functions that finish a run at the same time, one may have seen a
    newer version, and files of one version must not stand beside the digest of another.
    """
    store, layout, last = folder.store, folder.layout, snapshot.last_epoch
    outcome = Outcome(
        token=token,
        state="stopped" if end.state == "stopped" else "done",
        version=snapshot.version if snapshot.plan else None,
        best_version=last.best_version if last else snapshot.version if snapshot.plan else None,
        why=end.why,
        limited=end.limited,
        ended_at=store.clock.time(),
    )
    store.publish(layout.ending, [outcome.to_json()], token)
    outcome = Outcome.model_validate_json(store.read(layout.ending))  # an earlier attempt's, perhaps, and older
    if outcome.version is not None and outcome.best_version is not None:
        export("best", outcome.best_version, folder, token)
        digest = export("final", outcome.version, folder, token)
        outcome = outcome.model_copy(update={"weights_sha256": digest})
    publish_outcome(folder, outcome.model_copy(update={"token": token}))


def state_dict(plan: Plan, weights: Weights, frozen: dict[str, Array]) -> dict[str, Array]:
    """A model's state dict, in its order; tied tensors stand in it under each of their names."""
    tensors = {**weights.buffers, **frozen, **_split(plan, weights.parameters)}
    return {key: tensors[name] for key, _, name in plan.state_dict}


def weights_digest(plan: Plan, tensors: dict[str, Array]) -> str:
    """SHA-256 over the raw bytes of the parameters in state-dict order, each once."""
    digest = hashlib.sha256()
    for key in _parameter_keys(plan):
        digest.update(tensors[key].reshape(-1).view("u1").data)
    return digest.hexdigest()


def export(which: Which, version: int, folder: RunFolder, token: str) -> str:
    """Publish a version as files that plain PyTorch loads; return the digest of its weights."""
    store, layout, spec, plan = folder.store, folder.layout, folder.spec, folder.plan
    place = layout.export(which)
    metadata = {"format": "pt", "token": token, "run": spec.run, "version": str(version)}
    digest = _export_model(folder, version, place, metadata)  # one after the other in memory
    if spec.update_rule.state_slots:
        vectors = read_state(folder, version)
        named = {f"{p}.{v}": array for v, flat in vectors.items() for p, array in _split(plan, flat).items()}
        store.publish(f"{place}/optimizer.safetensors", encode(named, metadata), token)
    epoch, step = divmod(version, plan.steps_per_epoch)
    # A run may be stopped, or fail, between the last step of an epoch and the record of it.
    recorded = step == 0 and epoch in epochs_in(store.list(layout.epochs))
    record = read_epoch(folder, epoch) if recorded else None
    facts = {
        "format": "estafeta-state/1",
        "token": token,
        "run": spec.run,
        "version": version,
        "epoch": epoch,
        "metrics": record.metrics if record else {},
        "weights_sha256": digest,
        "optimizer": spec.optimizer,
        "has_optimizer_state": bool(spec.update_rule.state_slots),
        "seed": spec.seed,
    }
    store.publish(f"{place}/state.json", [json.dumps(facts).encode() + b"\n"], token)
    return digest


def _export_model(folder: RunFolder, version: int, place: str, metadata: dict[str, str]) -> str:
    plan, weights = folder.plan, read_weights(folder, version)
    tensors = state_dict(plan, weights, _read_frozen(folder) if plan.frozen else {})
    folder.store.publish(f"{place}/model.safetensors", encode(tensors, metadata), metadata["token"])
    return weights_digest(plan, tensors)


def _read_frozen(folder: RunFolder) -> dict[str, Array]:
    def read(reader: Reader) -> dict[str, Array]:
        file = TensorFile(reader)
        return {name: file.read(name) for name in file.entries}

    return folder.store.reading(folder.layout.frozen, read)


def _split(plan: Plan, flat: Array) -> dict[str, Array]:
    return {s.name: flat[s.offset : s.offset + s.size].reshape(s.shape) for s in plan.parameters}


def _parameter_keys(plan: Plan) -> Iterator[str]:
    seen: set[str] = set()
    for key, kind, name in plan.state_dict:
        if kind != "buffer" and name not in seen:
            seen.add(name)
            yield key
