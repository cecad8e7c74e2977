"""The part of a notebook that a job is made of."""

from __future__ import annotations

import sys

import pytest

import estafeta
from estafeta.errors import UsageError
from estafeta.notebook import extract, job_source

CELLS = [
    "%matplotlib inline\nimport estafeta, torch\nfrom torch import nn",
    "import pandas as pd\ntable = pd.DataFrame()",
    "WIDTH = 4\ndef model():\n    return nn.Linear(64, WIDTH)",
    "def model():\n    return nn.Linear(64, 10)  # the newer one counts",
    "!ls\nprint('loss so far')",
    "job = estafeta.Job(model=model, loss=nn.functional.cross_entropy, dataset='digits', optimizer=estafeta.SGD(lr=1))",
    "run = job.train(workers=4)",
    "def broken(:",
]


def test_only_what_the_job_needs_is_taken() -> None:
    source = extract(CELLS, "job")
    assert "nn.Linear(64, 10)" in source
    for left_out in ("WIDTH", "pandas", "job.train", "print", "%", "!"):
        assert left_out not in source


def test_what_changes_a_name_before_it_is_used_is_taken_too() -> None:
    cells = [
        "settings = {}\nsettings['lr'] = 0.1\nwidth = 2\nwidth *= 3\nname = 'a'\nname = name + 'b'\nold = 1\nold = 2",
        "class Box: pass\nbox = Box()\nbox.part = Box()\nbox.part.size, other = 5, 6",
        "result = settings['lr'], width, name, old, box.part.size",
    ]
    namespace: dict[str, object] = {}
    source = extract(cells, "result")
    exec(source, namespace)
    assert namespace["result"] == (0.1, 6, "ab", 2, 5)
    assert "old = 1" not in source


def test_the_extract_is_a_module_that_makes_the_job() -> None:
    namespace: dict[str, object] = {}
    exec(extract(CELLS, "job"), namespace)
    assert isinstance(namespace["job"], estafeta.Job)


def test_a_job_is_looked_up_among_the_notebooks_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace: dict[str, object] = {}
    exec(extract(CELLS, "job"), namespace)
    job = namespace["job"]
    assert isinstance(job, estafeta.Job)
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "In", CELLS, raising=False)
    with pytest.raises(UsageError, match="no variable of the notebook"):
        job_source(job)
    monkeypatch.setattr(main, "job", job, raising=False)
    found, place, code = job_source(job)
    assert found is job
    assert place == "notebook_job:job"
    assert list(code) == ["notebook_job.py"]
