"""A job that was typed into a notebook: the cells' statements that it is made of, as the text of a module.

Only what the job needs is taken: the statement that assigns it, and, again and again, the definitions and imports of
the names that these use. Cells that train, print or plot are left out.
"""

from __future__ import annotations

import ast
import sys

from estafeta.errors import UsageError
from estafeta.job import Job

MODULE = "notebook_job"


def job_source(job: Job) -> tuple[Job, str, dict[str, str]]:
    """Where a job of the running notebook is, and its source; returns as `shipping.import_job` does.

    Raises:
        UsageError: The job is not a variable of the notebook.
    """
    main = sys.modules["__main__"]
    name = next((name for name, value in vars(main).items() if value is job and not name.startswith("_")), None)
    if name is None:
        raise UsageError("the job is no variable of the notebook", hint="assign it in a cell: job = estafeta.Job(…)")
    return job, f"{MODULE}:{name}", {f"{MODULE}.py": extract(main.In, name)}


def extract(cells: list[str], name: str) -> str:
    """The statements of `cells`, in their order, that the newest definition of `name` depends on."""
    statements = [statement for cell in cells for statement in _statements(cell)]
    wanted, kept = {name}, set[int]()
    while wanted:
        current = wanted.pop()
        for index in range(len(statements) - 1, -1, -1):
            if current in _defined(statements[index]):
                if index not in kept:
                    kept.add(index)
                    wanted |= _used(statements[index])
                break
    return "\n\n".join(ast.unparse(statements[index]) for index in sorted(kept)) + "\n"


def _statements(cell: str) -> list[ast.stmt]:
    """A cell's statements; lines of the notebook's own language (`%`, `!`) are none."""
    lines = [line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!", "?"))]
    try:
        return ast.parse("\n".join(lines)).body
    except SyntaxError:
        return []


def _defined(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name.partition(".")[0] for alias in names}
        case ast.Assign(targets=targets):
            return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _used(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
