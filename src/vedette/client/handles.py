"""Which expressions of a source file are scorers, as far as its text tells."""

from __future__ import annotations

import ast
from typing import TypeGuard

_MAKERS = {"get_scorer", "make_judge", "make_scorer_ensemble"}
_NOT_SCORERS = {"Scorer", "ScorerSamplingConfig", "ScorerStatus"}
_HOMES = ("mlflow.genai.scorers", "mlflow.genai.judges")
_METHODS = {"register", "start", "stop", "update"}


class Handles:
    """The names that hold scorers anywhere in a module: ``@scorer`` functions, built-in scorers,
    judges, and what `get_scorer` and the methods of all these return."""

    def __init__(self, module: ast.Module) -> None:
        self._imported = dict(_imports(module))
        self._names: set[str] = set()
        assignments = []
        for node in ast.walk(module):
            if self.is_scorer_function(node):
                self._names.add(node.name)
            elif isinstance(node, ast.Assign):
                assignments += [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                assignments.append((node.target, node.value))
        for target, value in assignments:
            name = dotted(target)
            if name is not None and self.is_handle(value):
                self._names.add(name)

    def is_scorer_function(
        self, node: ast.AST
    ) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Whether a node is a function with the ``@scorer`` decorator."""
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return False
        for decorator in node.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            name = dotted(target)
            if name is not None and self._full(name) in _DECORATORS:
                return True
        return False

    def is_handle(self, node: ast.expr) -> bool:
        """Whether an expression is a scorer."""
        if (name := dotted(node)) is not None:
            return name in self._names
        if not isinstance(node, ast.Call):
            return False
        if (name := dotted(node.func)) is not None and self._makes(self._full(name)):
            return True
        return self.method(node) is not None

    def method(self, call: ast.Call) -> ast.Attribute | None:
        """The ``x.start`` of a call ``x.start(...)``, if x is a scorer and that gives a handle."""
        target = call.func
        if not isinstance(target, ast.Attribute) or target.attr not in _METHODS:
            return None
        if any(keyword.arg == "sampling_config" for keyword in call.keywords):
            return target  # whatever x is, nothing else takes this
        return target if self.is_handle(target.value) else None

    def _full(self, name: str) -> str:
        first, _, rest = name.partition(".")
        known = self._imported.get(first, first)
        return f"{known}.{rest}" if rest else known

    def _makes(self, full: str) -> bool:
        home, _, last = full.rpartition(".")
        if not home.startswith("mlflow.genai"):
            return False
        return last in _MAKERS or (
            home.startswith(_HOMES) and last[:1].isupper() and last not in _NOT_SCORERS
        )


# Bare: imported by a star, or in another cell of a notebook
_DECORATORS = {
    "scorer",
    "mlflow.genai.scorer",
    "mlflow.genai.scorers.scorer",
    "mlflow.genai.scorers.base.scorer",
}


def dotted(node: ast.AST) -> str | None:
    """``a.b.c`` of an expression that is just that."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)) is not None:
        return f"{before}.{node.attr}"
    return None


def _imports(module: ast.Module) -> list[tuple[str, str]]:
    """What each imported name stands for."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [(alias.asname, alias.name) for alias in node.names if alias.asname]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [
                (alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names
            ]
    return found
