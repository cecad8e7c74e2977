"""Source goes to a stack by S3: what has arrived is not sent again, and what is not what was sent starts nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.specs import CODE, spec_of
from estafeta.aws.bucket import Bucket
from estafeta.client.backend import unwrap
from estafeta.client.send_source import MOST_IN_BUCKET, MOST_IN_EVENT, check_size, send_source, start_verb
from estafeta.errors import Corrupt, EnvironmentProblem, UsageError
from estafeta.functions import control as module
from estafeta.functions.control import control
from estafeta.functions.verbs import start as start_module
from estafeta.functions.verbs.take_source import SOURCES, take_source
from estafeta.protocol.layout import RUNS, RunLayout
from estafeta.protocol.spec import RunSpec
from estafeta.store.store import Store

from .conftest import Interrupted, invocation

FILES = {f"part_{number}.py": f"NUMBER = {number}\n" for number in range(9)} | {"package/wide.py": "ROOF = '⌂'\n"}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> list[Any]:
    """What is set going; `control` finds the bucket that the test has."""
    seen: list[Any] = []
    monkeypatch.setattr(start_module, "dispatch", lambda actions, *_: seen.extend(actions))
    monkeypatch.setattr(module, "_bucket", lambda name: Bucket(name, bucket._client))
    return seen


def start(store: Store, spec: RunSpec, code: dict[str, str], bucket: Bucket | None) -> Any:
    return unwrap(control(start_verb(spec, code, bucket).model_dump(mode="json"), invocation(store)))


def sent(code: dict[str, str], bucket: Bucket) -> dict[str, str]:
    """What the event that starts a run has of source that went to the bucket."""
    uploaded = start_verb(spec_of("plain"), code, bucket).uploaded
    assert uploaded is not None
    return uploaded.files


def files_of(store: Store) -> dict[str, bytes]:
    root = Path(store.absolute("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_run_is_the_same_whichever_way_its_source_came(
    bucket: Bucket, here: Store, there: Store, events: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "carried").mkdir()
    carried, spec, code = Store(tmp_path / "carried"), spec_of("plain"), {**CODE, **FILES}
    start(carried, spec, code, None)
    sizes = list(send_source(code, bucket))
    assert sizes == sorted(sizes)
    assert sizes[-1] == sum(len(text.encode()) for text in code.values())
    for _ in range(2):  # repeating it changes nothing
        start(there, spec, code, bucket)
        assert files_of(there) == files_of(carried)
    assert len(events) == 3


@pytest.mark.parametrize("after", [0, 4, len(FILES)])
def test_a_broken_line_costs_what_had_not_arrived(after: int, bucket: Bucket) -> None:
    first, second = Interrupted(bucket, after), Interrupted(bucket, 1000)
    if after < len(FILES):
        with pytest.raises(EnvironmentProblem, match="the line is broken"):
            list(send_source(FILES, first))
    else:
        list(send_source(FILES, first))
    assert len(list(bucket.objects(SOURCES))) == len(first.keys) == after
    list(send_source(FILES, second))
    assert set(first.keys).isdisjoint(second.keys)
    assert len(first.keys) + len(second.keys) == len(FILES)
    assert take_source(sent(FILES, bucket), bucket) == FILES


def test_a_change_costs_what_has_changed(bucket: Bucket) -> None:
    list(send_source(FILES, bucket))
    again = Interrupted(bucket, 1000)
    list(send_source({**FILES, "part_3.py": "NUMBER = 33\n", "copy.py": FILES["part_1.py"]}, again))
    assert len(again.keys) == 1


def test_a_large_file_goes_up_in_parts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estafeta.aws.bucket.PART_BYTES", 5 << 20)
    code = {"large.py": "#" * (6 << 20)}
    list(send_source(code, bucket))
    (found,) = bucket.objects(SOURCES)
    assert bucket._client.head_object(Bucket=bucket.name, Key=found.key)["ETag"].endswith('-2"')
    assert take_source(sent(code, bucket), bucket) == code


@pytest.mark.parametrize(("damage", "kind"), [("a bit", Corrupt), ("missing", UsageError)])
def test_damaged_source_starts_nothing(
    damage: str, kind: type[Exception], bucket: Bucket, there: Store, events: list[Any]
) -> None:
    list(send_source(FILES, bucket))
    key = next(iter(bucket.objects(SOURCES))).key
    bucket.remove(key)
    if damage == "a bit":
        bucket.upload(key, b"import nothing")
    with pytest.raises(kind, match=key):
        start(there, spec_of("plain"), FILES, bucket)
    assert there.list(RUNS) == frozenset()
    assert events == []
    list(send_source(FILES, bucket))
    assert start(there, spec_of("plain"), FILES, bucket) == {"run": "r"}


def test_a_path_that_leads_out_of_the_folder(bucket: Bucket, there: Store, events: list[Any]) -> None:
    code = {"../jobs.py": "x = 1\n"}
    list(send_source(code, bucket))
    with pytest.raises(UsageError, match="is no path of a Python module"):
        start(there, spec_of("plain"), code, bucket)
    assert not there.exists(RunLayout("r").spec)


def test_too_much_source_is_refused() -> None:
    bucket = Bucket("b", None)  # type: ignore[arg-type]
    some, much = {"a.py": "#" * (MOST_IN_EVENT + 1)}, {"a.py": "#" * MOST_IN_BUCKET, "b.py": "#"}
    check_size(some, bucket)
    for code, place in ((some, None), (much, bucket)):
        with pytest.raises(UsageError, match="MB of imported source"):
            check_size(code, place)
