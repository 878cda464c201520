"""Whether a scorer function can run from its text alone, away from the module it was written in.

MLflow stores of an ``@scorer`` function the text of its body and of its signature, and makes a
function of them where it runs. Of the module around it only the names in `PROVIDED` are there.

The compiler decides what is a name from outside: the function is compiled, never run, and the
instructions that look a name up in the module are read. So scopes are Python's own, in every corner
(comprehensions, class bodies, walrus, match, except-as, global). This module imports nothing of
MLflow.
"""

from __future__ import annotations

import ast
import builtins
import copy
import dis
from collections.abc import Callable, Iterator, Set
from types import CodeType

from vedette.client.findings import Finding

FUTURE_ANNOTATIONS = annotations.compiler_flag
# What MLflow's `recreate_function` gives to the function that it makes (a test compares).
PROVIDED = frozenset(
    {
        "Assessment",
        "AssessmentError",
        "AssessmentSource",
        "AssessmentSourceType",
        "CategoricalRating",
        "Feedback",
        "Trace",
        "mlflow",
    }
)
# What a scorer is called with (SPEC 3).
_PARAMETERS = ("inputs", "outputs", "expectations", "trace", "session")
# Class bodies with annotations look these up in themselves.
_OF_CLASSES = frozenset({"__annotations__", "__conditional_annotations__"})
_KNOWN = PROVIDED | _OF_CLASSES | frozenset(dir(builtins))
_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_GLOBAL"}
_STORES = {"STORE_GLOBAL", "STORE_NAME"}
_MAX_LENGTH = 1_000_000  # characters; what a compiler takes in seconds
_COMPILER_LIMITS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_HANDLES_MISSING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


def check_function(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    *,
    objection: Callable[[str], tuple[str, str] | None],
    annotations: bool = True,
    hidden: Set[str] = frozenset(),
) -> list[Finding]:
    """What keeps a function from running elsewhere, in the order of its lines.

    Args:
        function: as parsed, with its decorators.
        objection: given the top-level name of an imported module, what is wrong with it and what to
            write instead, or None.
        annotations: whether annotations of its signature count. They don't where the module has
            ``from __future__ import annotations``: then they are stored as quoted text.
        hidden: names that are known where it runs, and that the module around it gives another
            meaning: with ``from re import compile``, ``compile`` is not the built-in one.
    """
    if found := _missing_body(function):
        return [found]
    findings = [
        *_unknown_parameters(function),
        *_lost_decorators(function),
        *_import_findings(function, objection),
    ]
    if annotations:
        findings.extend(_annotation_findings(function, hidden))
    try:
        findings.extend(_name_findings(function, hidden))
    except _COMPILER_LIMITS as error:
        findings.append(_unparsable(error, function.lineno))
    return sorted(findings)


def check_stored(
    name: str,
    body: str,
    signature: str,
    *,
    objection: Callable[[str], tuple[str, str] | None],
) -> list[Finding]:
    """What keeps a stored function from running, with lines counted from the first of its body.

    Args:
        name: of the function.
        body: its body without indentation, as MLflow stores it.
        signature: with parentheses, as `inspect.signature` writes it.
        objection: as for `check_function`.
    """
    function = _stored_function(name, body, signature)
    if isinstance(function, Finding):
        return [function]
    return [_in_body(found) for found in check_function(function, objection=objection)]


def _stored_function(name: str, body: str, signature: str) -> ast.FunctionDef | Finding:
    if not body.strip() or body.lstrip().startswith(f"def {name}("):
        return _no_body(1, "is a lambda, async or written on one line")
    if len(body) > _MAX_LENGTH:
        return Finding(1, 1, "too-long", f"has {len(body):,} characters", "store data elsewhere")
    if not _is_signature(signature):
        message = f"its signature {signature} can't be written as Python"
        fix = "leave out annotations and default values that are not plain literals"
        return Finding(1, 1, "signature", message, fix)
    indented = "\n".join(f"    {line}" for line in body.split("\n"))
    try:
        tree = ast.parse(f"def {name}{signature}:\n{indented}")
    except _COMPILER_LIMITS as error:
        return _in_body(_unparsable(error))
    function = tree.body[0]
    if len(tree.body) > 1 or not isinstance(function, ast.FunctionDef):
        return Finding(1, 1, "syntax", f"{name!r} is not a function name", "name the function")
    return function


def _is_signature(text: str) -> bool:
    try:
        return len(ast.parse(f"def f{text}: pass").body) == 1
    except _COMPILER_LIMITS:
        return False


def _missing_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Finding | None:
    """MLflow finds the body by its lines: after the ``def`` and the docstring, of no async one."""
    if isinstance(function, ast.AsyncFunctionDef):
        return _no_body(function.lineno, "is async")
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return _no_body(function.lineno, "has nothing but a docstring")
    if body[0].lineno == function.lineno:
        return _no_body(function.lineno, "is written on one line")
    return None


def _no_body(line: int, why: str) -> Finding:
    fix = "write it with a plain def and put its body on lines of its own"
    return Finding(line, 1, "no-body", f"{why}, so that MLflow stores no body of it", fix)


def _in_body(found: Finding) -> Finding:
    """Without the line of the ``def`` and the indentation."""
    line, column = max(found.line - 1, 1), max(found.column - 4, 1)
    return Finding(line, column, found.code, found.message, found.fix)


def _unparsable(error: Exception, line: int = 1) -> Finding:
    if isinstance(error, SyntaxError):
        line, column = error.lineno or line, error.offset or 1
        return Finding(line, column, "syntax", f"is not Python: {error.msg}", "correct it")
    message = f"is too much for Python's compiler: {type(error).__name__}: {error}"
    return Finding(line, 1, "syntax", message, "make it simpler")


def _unknown_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    """Those that no call gives a value: `Scorer.run` passes what it has, by name."""
    taken = function.args
    positional = [*taken.posonlyargs, *taken.args]
    required = positional[: len(positional) - len(taken.defaults)]
    keywords = zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
    required += [one for one, default in keywords if default is None]
    for one in required:
        if one.arg in _PARAMETERS and one not in taken.posonlyargs:
            continue
        message = f"takes {one.arg}, which nothing is passed for"
        fix = f"take any of {', '.join(_PARAMETERS)}, by name, or give it a default value"
        yield Finding(one.lineno, one.col_offset + 1, "parameter", message, fix)


def _lost_decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Finding]:
    """Decorators below ``@scorer``: it is the bare function that is stored."""
    names = [
        ast.unparse(one.func if isinstance(one, ast.Call) else one)
        for one in function.decorator_list
    ]
    ours = next((at for at, name in enumerate(names) if name.split(".")[-1] == "scorer"), 0)
    for decorator, name in list(zip(function.decorator_list, names, strict=True))[ours + 1 :]:
        message = f"is decorated with {name}, which is not stored with it"
        fix = "do inside the function what the decorator does"
        line, column = decorator.lineno, decorator.col_offset + 1
        yield Finding(line, column, "lost-decorator", message, fix)


def _name_findings(
    function: ast.FunctionDef | ast.AsyncFunctionDef, hidden: Set[str]
) -> Iterator[Finding]:
    bare = copy.copy(function)
    bare.decorator_list = []  # run when the scorer is made, not when it scores
    code = compile(
        ast.Module([bare], type_ignores=[]),
        "<scorer>",
        "exec",
        flags=FUTURE_ANNOTATIONS,  # as MLflow compiles it
        dont_inherit=True,
        optimize=0,
    )
    seen = set(_KNOWN - hidden)
    for name, line, column in sorted(_outside_names(code), key=lambda found: found[1:]):
        if name in seen:
            continue
        seen.add(name)
        if name == function.name:
            message = f"calls itself, but is not known as {name} where it runs"
            fix = "put the part that calls itself into a function inside it"
        else:
            message = f"uses {name}, which is defined outside the function"
            fix = "import or define it inside the function"
        yield Finding(line, column, "outside-name", message, fix)


def _outside_names(module: CodeType) -> Iterator[tuple[str, int, int]]:
    """(name, line, column) of what is looked up in the module, or beyond it in the builtins."""
    codes = list(_nested(module))
    stored: dict[str, set[CodeType]] = {}
    for code in codes:
        for instruction in dis.get_instructions(code):
            if instruction.opname == "STORE_GLOBAL":
                stored.setdefault(instruction.argval, set()).add(code)
    for code in codes:
        here: set[str] = set()
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname in _STORES:
                here.add(name)
            elif instruction.opname in _LOADS and name not in here:
                if stored.get(name, set()) - {code}:  # `global`, set in another part of it
                    continue
                position = instruction.positions
                line = (position and position.lineno) or code.co_firstlineno
                yield name, line, ((position and position.col_offset) or 0) + 1


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _annotation_findings(
    function: ast.FunctionDef | ast.AsyncFunctionDef, hidden: Set[str]
) -> Iterator[Finding]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one]
    annotations = [one.annotation for one in every] + [function.returns]
    seen = set(_KNOWN - hidden)
    for annotation in annotations:
        for node in ast.walk(annotation) if annotation else ():
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                message = f"its signature needs {node.id}, which is not there where it runs"
                fix = "annotate with built-in types, Trace or Feedback, or leave the annotation out"
                yield Finding(node.lineno, node.col_offset + 1, "signature-import", message, fix)


def _import_findings(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    objection: Callable[[str], tuple[str, str] | None],
) -> Iterator[Finding]:
    optional = {
        id(node)
        for guard in ast.walk(function)
        if isinstance(guard, ast.Try) and any(map(_handles_missing, guard.handlers))
        for statement in guard.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(function):
        if not isinstance(node, ast.Import | ast.ImportFrom) or id(node) in optional:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            message = f"imports from its own package ({'.' * node.level}{node.module or ''})"
            yield _import_finding(node, message, "put what it needs inside the function")
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            modules = [node.module or ""]
        for module in modules:
            if found := objection(module.split(".")[0]):
                yield _import_finding(node, *found)


def _import_finding(node: ast.Import | ast.ImportFrom, message: str, fix: str) -> Finding:
    return Finding(node.lineno, node.col_offset + 1, "own-import", message, fix)


def _handles_missing(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(one, ast.Name) and one.id in _HANDLES_MISSING for one in caught)
