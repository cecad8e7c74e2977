"""The preparation of a run: a worker makes the model and opens the data once, publishes version 0 and the plan.

The worker publishes the plan last, so a run with a plan has weights. The plan depends on the spec and the user's code
alone, so a second preparation publishes nothing new.
"""

from estafeta.data.sampler import steps_per_epoch
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.partition import choose
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import next_actions, take_snapshot
from estafeta.protocol.spec import Plan, RunSpec, Slot
from estafeta.protocol.spending import Tab
from estafeta.protocol.weights import Weights, publish_weights
from estafeta.store.tensorfile import CODES, Array, encode
from estafeta.training.session import Session, check_rows, open_session


def prepare(folder: RunFolder, invocation: Invocation, tab: Tab) -> str:
    """Publish the first weights and the plan, then dispatch the next actions; return a summary for the log.

    Raises:
        UserCodeError: The job's code raised.
        UsageError: The model or the data cannot be trained, or there are fewer rows than workers.
    """
    store, layout, spec, token = folder.store, folder.layout, folder.spec, invocation.token
    if not store.exists(layout.plan):
        session = open_session(folder, invocation)
        plan = plan_of(session, spec, token)
        learner = session.learner
        learner.check_metrics(spec.early_stopping.monitor, validates=plan.valid_rows > 0)
        if learner.frozen:
            store.publish(layout.frozen, encode(learner.frozen, {"token": token}), token)
        state = spec.update_rule.initial_state(plan.size)
        first = Weights(0, learner.parameters, dict(learner.buffers), state, spent_usd=tab.usd())
        if publish_weights(folder, first, token):
            tab.said(first.spent_usd)
        store.publish(layout.plan, [plan.to_json()], token)
    actions = next_actions(take_snapshot(folder))
    dispatch(actions, spec, invocation)
    return f"prepared, dispatched {len(actions)}"


def plan_of(session: Session, spec: RunSpec, token: str) -> Plan:
    """The plan of a run, before it begins; raises as `prepare` does."""
    learner, rows = session.learner, session.data.rows
    steps = steps_per_epoch(len(rows["train"]), spec.batch_size, spec.drop_last)
    check_rows(session.data, spec, steps)
    return Plan(
        token=token,
        topology=choose(spec.topology, learner.parameters.size, spec.workers),
        train_rows=len(rows["train"]),
        valid_rows=len(rows["valid"]),
        steps_per_epoch=steps,
        total_steps=steps * spec.epochs,
        data=session.data.tokens,
        sums=tuple(learner.sums),
        parameters=learner.slots,
        buffers=tuple(_slot(name, array) for name, array in learner.buffers.items()),
        frozen=tuple(_slot(name, array) for name, array in learner.frozen.items()),
        state_dict=learner.state_dict_keys(),
    )


def _slot(name: str, array: Array) -> Slot:
    return Slot(name=name, shape=array.shape, dtype=CODES[array.dtype])
