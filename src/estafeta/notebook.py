"""A job that was typed into a notebook: the cells' statements that it is made of, as the text of a module.

Only what the job needs is taken: the statement that assigns it, and, again and again, the definitions and imports of
the names that these use, with the assignments that change them (`settings["lr"] = 0.1`, `width *= 2`). Cells that
train, print or plot are left out; so is what a call changes in an object.
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
    wanted, done, kept = {name}, set[str](), set[int]()
    while wanted:
        current = wanted.pop()
        done.add(current)
        for index in range(len(statements) - 1, -1, -1):
            statement = statements[index]
            is_defined = current in _defined(statement)
            if is_defined or current in _changed(statement):
                kept.add(index)
                wanted |= _used(statement) - done
            if is_defined and not (isinstance(statement, ast.Assign) and current in _used(statement)):
                break  # what it was before does not count any more
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
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {alias.asname or alias.name.partition(".")[0] for alias in names}
        case ast.Assign(targets=targets):
            nodes = [node for target in targets for node in ast.walk(target)]
            return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _changed(statement: ast.stmt) -> set[str]:
    """Names of objects that an assignment changes a part of, or makes anew out of what they were."""
    match statement:
        case ast.AugAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            pass
        case ast.AugAssign(target=target):
            targets = [target]
        case _:
            return set()
    return {_base(node) for target in targets for node in ast.walk(target)}


def _base(node: ast.AST) -> str:
    """Whose part an expression such as `a.b[0]` is; nothing if it is no part of anything."""
    part = node
    while isinstance(part, ast.Attribute | ast.Subscript):
        part = part.value
    return part.id if part is not node and isinstance(part, ast.Name) else ""


def _used(statement: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
