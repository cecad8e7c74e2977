"""A job that was typed into a notebook: the cells' statements that it is made of, as the text of a module.

Only what the job needs is taken: the statement that assigns it, and, again and again, the statements that made the
names that these use what they are. Cells that train, print or plot are left out; so is what a mere call has changed.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Sequence

from estafeta.errors import UsageError
from estafeta.job.job import Job

MODULE = "notebook_job"


def job_source(job: Job) -> tuple[Job, str, dict[str, str]]:
    """Find a variable of the running notebook with that job, and its source; returns as `source.import_job` does."""
    main = sys.modules["__main__"]
    name = next((name for name, value in vars(main).items() if value is job and not name.startswith("_")), None)
    if name is None:
        raise UsageError("The job is no variable of the notebook", hint="assign it in a cell: job = estafeta.Job(…)")
    return job, f"{MODULE}:{name}", {f"{MODULE}.py": extract(main.In, name)}


def extract(cells: list[str], name: str) -> str:
    """The statements of `cells`, in their order, that `name` depends on.

    A name that a statement uses is what it was before that statement; one in the body of a function is what it is now.
    """
    statements = [statement for cell in cells for statement in _statements(cell)]
    names = [_names_in(statement) for statement in statements]
    kept: set[int] = set()
    wanted, known = [(name, len(statements))], set[tuple[str, int]]()
    while wanted:
        known.add(asked := wanted.pop())
        for index in _definitions(*asked, names):
            kept.add(index)
            uses = {(use, index) for use in names[index].used} | {(use, len(names)) for use in names[index].used_later}
            wanted += uses - known
    return "\n\n".join(ast.unparse(statements[index]) for index in sorted(kept)) + "\n"


def _statements(cell: str) -> list[ast.stmt]:
    """A cell's statements; lines of the notebook's own language (`%`, `!`) are none."""
    lines = [line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!", "?"))]
    try:
        parsed = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return []
    return [inner for statement in parsed for inner in _unwrapped(statement)]


def _unwrapped(statement: ast.stmt) -> list[ast.stmt]:
    """A statement, or those that it carries out, if it is what IPython makes of `%time`, `%%time` or `%%capture`."""
    match statement:
        case ast.Expr(ast.Call(ast.Attribute(attr="run_line_magic"), [ast.Constant("time"), ast.Constant(str(code))])):
            return _statements(code)
        case ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [magic, _, ast.Constant(str(code))])):
            return _statements(code) if ast.unparse(magic) in ("'time'", "'capture'") else [statement]
    return [statement]


def _definitions(name: str, end: int, names: list[_Names]) -> list[int]:
    """Where a name has got its value, of the statements before `end`; `import *` may bring what nothing else does."""
    newest = next((index for index in range(end - 1, -1, -1) if name in names[index].defined), None)
    if newest is not None:
        return [newest]
    return [] if hasattr(builtins, name) else [index for index in range(end) if "*" in names[index].defined]


def _names_in(statement: ast.stmt) -> _Names:
    names = _Names()
    names.visit(statement)
    if isinstance(statement, (ast.If, ast.For, ast.While, ast.Try, ast.Match)):
        names.used |= names.defined  # it may have left them as they were
    return names


class _Names(ast.NodeVisitor):
    """The names of a statement."""

    def __init__(self) -> None:
        self.defined: set[str] = set()  # that it binds, or whose items or attributes it sets
        self.used: set[str] = set()  # when it is executed
        self.used_later: set[str] = set()  # in the bodies of its functions
        self._has_own_scope = self._is_body = False

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            (self.used_later if self._is_body else self.used).add(node.id)
        else:
            self._define(node.id)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.used.add(node.target.id)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> None:
        base = node.value
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._define(base.id)
        self.generic_visit(node)

    visit_Subscript = visit_Attribute  # noqa: N815

    def visit_alias(self, node: ast.alias) -> None:
        self._define(node.asname or node.name.partition(".")[0])

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._define(node.name)
        self._visit([*node.decorator_list, node.args])
        self._visit(node.body, is_body=True)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit([node.args])
        self._visit([node.body], is_body=True)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._define(node.name)
        self._visit([*node.decorator_list, *node.bases, *node.keywords])
        self._visit(node.body, is_body=self._is_body)

    def visit_ListComp(self, node: ast.expr) -> None:
        self._visit(list(ast.iter_child_nodes(node)), is_body=self._is_body)

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815

    def _visit(self, nodes: Sequence[ast.AST], *, is_body: bool | None = None) -> None:
        """Visit parts; given `is_body`, those of a scope of their own."""
        before = self._has_own_scope, self._is_body
        if is_body is not None:
            self._has_own_scope, self._is_body = True, is_body
        for node in nodes:
            self.visit(node)
        self._has_own_scope, self._is_body = before

    def _define(self, name: str) -> None:
        if not self._has_own_scope:
            self.defined.add(name)
