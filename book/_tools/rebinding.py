"""Which global names a piece of Python binds or reads, found without running it."""

import ast


def bound_names(tree: ast.AST) -> set[str]:
    """Every name that running `tree` at the top level of a cell can bind or delete.

    Assignments of all kinds (also augmented, unpacked, annotated, by the walrus), targets of
    `for` and `with`, imports, exceptions, patterns, and names of functions and classes. What a
    function binds for itself does not count, except under `global`.
    """
    finder = _Bound()
    finder.visit(tree)
    return finder.names


def used_names(tree: ast.AST) -> set[str]:
    """Every name that `tree` reads, inside functions too."""
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


class _Bound(ast.NodeVisitor):
    def __init__(self):
        self.names: set[str] = set()
        self.local = 0  # inside how many comprehensions: their targets are their own

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store | ast.Del) and not self.local:
            self.names.add(node.id)

    def visit_NamedExpr(self, node):
        self.names.add(node.target.id)
        self.visit(node.value)

    def visit_alias(self, node):
        self.names.add(node.asname or node.name.partition(".")[0])

    def visit_ExceptHandler(self, node):
        self._add(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node):
        self._add(node.name)
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs

    def visit_MatchMapping(self, node):
        self._add(node.rest)
        self.generic_visit(node)

    def visit_TypeAlias(self, node):
        self.visit(node.name)

    def _add(self, name):
        if name:
            self.names.add(name)

    def visit_FunctionDef(self, node):
        self.names.add(node.name)
        self._outside(node, node.decorator_list)
        self._globals(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node):
        self._outside(node, [])

    def visit_ClassDef(self, node):
        self.names.add(node.name)
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        self._globals(node)

    def _outside(self, node, decorators):
        """Decorators and default values run where the function is defined."""
        defaults = [value for value in node.args.kw_defaults if value is not None]
        for part in [*decorators, *node.args.defaults, *defaults]:
            self.visit(part)

    def _globals(self, node):
        """Names that the body of a function or class declares global and binds."""
        declared = {n for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
        inner = _Bound()
        for statement in node.body:
            inner.visit(statement)
        self.names |= inner.names & declared

    def _comprehension(self, node):
        self.local += 1
        self.generic_visit(node)
        self.local -= 1

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension
