"""The end of a run: the final and the best version as files that plain PyTorch loads, then the marker.

best|final/model.safetensors       the model's state dict
           optimizer.safetensors   the optimiser's state: <parameter>.<vector>
           state.json              version, epoch, metrics, digest, optimiser settings
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import epochs_in
from estafeta.protocol.outcome import publish_outcome
from estafeta.protocol.snapshot import Finish, Snapshot, read_epoch, read_plan
from estafeta.protocol.spec import Outcome, Plan, RunSpec, Which
from estafeta.protocol.weights import Weights, read_state, read_weights
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array, TensorFile, encode


def finish(end: Finish, snapshot: Snapshot, spec: RunSpec, invocation: Invocation) -> None:
    """Decide with which version the run ends, export that and the best one, then publish the outcome.

    The decision is published first, once: of two functions that finish a run at the same time, one may have seen a
    newer version, and files of one version must not stand beside the digest of another.
    """
    store, layout, last = invocation.store, RunLayout(spec.run), snapshot.last_epoch
    outcome = Outcome(
        token=invocation.token,
        state="stopped" if end.state == "stopped" else "done",
        version=snapshot.version if snapshot.plan else None,
        best_version=last.best_version if last else snapshot.version if snapshot.plan else None,
        why=end.why,
        limited=end.limited,
        ended_at=store.clock.time(),
    )
    store.publish(layout.ending, [outcome.to_json()], invocation.token)
    outcome = Outcome.model_validate_json(store.read(layout.ending))  # an earlier attempt's, perhaps, and older
    if outcome.version is not None and outcome.best_version is not None:
        export("best", outcome.best_version, spec, invocation)
        digest = export("final", outcome.version, spec, invocation)
        outcome = outcome.model_copy(update={"weights_sha256": digest})
    publish_outcome(invocation, layout, outcome.model_copy(update={"token": invocation.token}))


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


def export(which: Which, version: int, spec: RunSpec, invocation: Invocation) -> str:
    """Publish a version as files that plain PyTorch loads; return the digest of its weights."""
    store, layout, token = invocation.store, RunLayout(spec.run), invocation.token
    plan = read_plan(store, layout)
    folder = layout.export(which)
    metadata = {"format": "pt", "token": token, "run": spec.run, "version": str(version)}
    digest = _export_model(store, layout, plan, version, folder, metadata)  # one after the other in memory
    if spec.update_rule.state_slots:
        vectors = read_state(store, layout, version)
        named = {f"{p}.{v}": array for v, flat in vectors.items() for p, array in _split(plan, flat).items()}
        store.publish(f"{folder}/optimizer.safetensors", encode(named, metadata), token)
    epoch, step = divmod(version, plan.steps_per_epoch)
    # A run may be stopped, or fail, between the last step of an epoch and the record of it.
    recorded = step == 0 and epoch in epochs_in(store.list(layout.epochs))
    record = read_epoch(store, layout, epoch) if recorded else None
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
    store.publish(f"{folder}/state.json", [json.dumps(facts).encode() + b"\n"], token)
    return digest


def _export_model(
    store: Store, layout: RunLayout, plan: Plan, version: int, folder: str, metadata: dict[str, str]
) -> str:
    weights = read_weights(store, layout, version)
    tensors = state_dict(plan, weights, _read_frozen(store, layout) if plan.frozen else {})
    store.publish(f"{folder}/model.safetensors", encode(tensors, metadata), metadata["token"])
    return weights_digest(plan, tensors)


def _read_frozen(store: Store, layout: RunLayout) -> dict[str, Array]:
    return store.reading(
        layout.frozen, lambda reader: {name: file.read(name) for file in [TensorFile(reader)] for name in file.entries}
    )


def _split(plan: Plan, flat: Array) -> dict[str, Array]:
    return {s.name: flat[s.offset : s.offset + s.size].reshape(s.shape) for s in plan.parameters}


def _parameter_keys(plan: Plan) -> Iterator[str]:
    seen: set[str] = set()
    for key, kind, name in plan.state_dict:
        if kind != "buffer" and name not in seen:
            seen.add(name)
            yield key
