"""The text of a function's body that, stored and made a function of again, says the same.

MLflow stores the lines of the body with less indentation than they have, and makes a function of
them with four spaces before each. That changes texts that go over several lines, and loses what is
not on the lines of a statement, such as the decorator of an inner function that comes first.
"""

from __future__ import annotations

import ast


def faithful_body(function: ast.FunctionDef, stored: str) -> str:
    """The body to store.

    Args:
        function: as parsed.
        stored: what MLflow would store.

    Returns:
        That, if it says the same as the function; else the body written anew, without comments and
        with each text on one line.
    """
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if _meaning(_recreated(stored)) == _meaning(body):
        return stored
    return "\n".join(ast.unparse(statement) for statement in body)


def _recreated(text: str) -> list[ast.stmt]:
    """The statements that MLflow's ``recreate_function`` makes of a text; none if it can't."""
    indented = "\n".join(f"    {line}" for line in text.split("\n"))
    try:
        tree = ast.parse(f"def stored():\n{indented}").body
    except SyntaxError:
        return []
    function = tree[0]
    return function.body if len(tree) == 1 and isinstance(function, ast.FunctionDef) else []


def _meaning(body: list[ast.stmt]) -> str:
    """What statements do, apart from how the docstrings in them are indented."""
    copy = ast.parse(ast.unparse(ast.Module(body, type_ignores=[])))
    for node in ast.walk(copy):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
            (text := ast.get_docstring(node)) is not None
        ):
            node.body[0] = ast.Expr(ast.Constant(text))
    return ast.dump(copy)
