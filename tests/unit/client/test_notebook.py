"""The part of a notebook that a job is made of."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import estafeta
from estafeta.client.notebook import extract, job_source
from estafeta.client.source import find_job
from estafeta.errors import UsageError

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


def test_a_change_of_a_name_before_its_use_is_taken_too() -> None:
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


@pytest.mark.parametrize(
    "cells",
    [
        ["x = 2", "x = x + 1", "job = x"],
        ["x = 2", "x += 1", "job = x"],
        ["x = [0]", "x[0] = 3", "job = x[0]"],
        ["class X: pass", "x = X()", "x.size = 3", "job = x.size"],
        ["x = 2\nif x:\n    x = 3", "job = x"],
        ["import contextlib\nwith contextlib.nullcontext(3) as x:\n    pass", "job = x"],
        ["for x in range(4):\n    pass", "job = x"],
        ["try:\n    import nothing_of_this_name as x\nexcept ImportError:\n    x = 3", "job = x"],
        ["x = 3", "job = x", "x = run(job)"],
        ["def f(): return x", "x = 1", "x = 3", "job = f()"],
        ["def f(n=3): return n", "job = f()", "def f(): return 4"],
        ["x = 3", "class C:\n    x = 4\n    def f(self): return x", "job = C().f()"],
        ["x = 3", "y = [x for x in range(9)]", "job = x"],
        ["from math import *", "job = floor(3.5)"],
        ["get_ipython().run_cell_magic('time', '', 'x = 3\\n')", "job = x"],
        ["get_ipython().run_cell_magic('capture', 'out', 'x = 3\\n')", "job = x"],
        ["get_ipython().run_line_magic('time', 'x = 3')\ny = 4", "job = x"],
        ["x = 3", "get_ipython().run_cell_magic('writefile', 'x.py', 'x = 4\\n')", "job = x"],
    ],
    ids=lambda cells: cells[-2] if "run" not in cells[-1] else cells[-1],
)
def test_names_have_the_values_that_they_had(cells: list[str]) -> None:
    namespace: dict[str, object] = {}
    exec(extract(cells, "job"), namespace)
    assert namespace["job"] == 3


def test_modules_beside_the_notebook_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbour.py").write_text("EPOCHS = 3")
    cells = ["import neighbour", *CELLS[:-3], CELLS[-3].replace("lr=1)", "lr=1), epochs=neighbour.EPOCHS")]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(extract(cells, "job"), namespace)
    main, job = ModuleType("__main__"), namespace["job"]
    assert isinstance(job, estafeta.Job)
    vars(main).update(In=cells, job=job)
    monkeypatch.setitem(sys.modules, "__main__", main)
    _, place, code = find_job(job)
    assert place == "notebook_job:job"
    assert sorted(code) == ["neighbour.py", "notebook_job.py"]


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
