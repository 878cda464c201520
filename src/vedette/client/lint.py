"""What ``vedette lint`` looks for in source files, which it parses and never imports.

- scorer functions that `register` would refuse (see `self_contained`);
- handles whose successor is dropped: ``x.start(...)`` alone on a line;
- registration, start or archival in the handler of a request: once per request instead of once;
- filters of scorers with a date written into them.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

from vedette.client.findings import Finding
from vedette.client.handles import Handles, dotted
from vedette.client.own_modules import own_modules
from vedette.client.self_contained import check_function

_ARCHIVAL = {"enable_trace_archival", "enable_databricks_trace_archival"}
_ROUTES = {
    "api_route",
    "delete",
    "get",
    "head",
    "invoke",
    "options",
    "patch",
    "post",
    "put",
    "route",
    "stream",
    "view",
    "websocket",
}
_HANDLER_NAME = re.compile(r"(^|_)(handle|handler|endpoint)(_|$)|^on_", re.IGNORECASE)
_REQUEST_NAMES = {"req", "request", "websocket"}
_CLAUSE = r"(?P<key>[\w.`\-]+)\s*(?P<operator>[<>!=]+|\b\w+\b)\s*\(?\s*['\"]?"
_ISO_DATE = re.compile(_CLAUSE + r"(?P<date>(19|20)\d\d-\d\d-\d\d)")
_EPOCH = re.compile(r"time\w*`?\s*[<>!=]+\s*['\"]?(?P<date>\d{9,})", re.IGNORECASE)


def lint(text: str, file: Path) -> list[Finding]:
    """What is wrong in a source file, in the order of its lines.

    Args:
        text: of the file.
        file: where it is, to tell the author's own modules from libraries.
    """
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        line, column = error.lineno or 1, error.offset or 1
        return [Finding(line, column, "syntax", f"is not Python: {error.msg}", "correct it")]
    except (ValueError, RecursionError, MemoryError) as error:
        return [Finding(1, 1, "syntax", f"can't be parsed: {error}", "correct it")]
    handles = Handles(module)
    findings = [
        *_functions(module, handles, file),
        *_dropped(module, handles),
        *_in_handlers(module, handles),
        *_fixed_dates(module),
    ]
    return sorted(set(findings))


def _functions(module: ast.Module, handles: Handles, file: Path) -> Iterator[Finding]:
    quoted = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in module.body
    )
    objection = own_modules(file)
    hidden = set(_bound(module)) & set(dir(builtins))
    for node in ast.walk(module):
        if handles.is_scorer_function(node):
            found = check_function(node, objection=objection, annotations=not quoted, hidden=hidden)
            for one in found:
                message = f"scorer {node.name} {one.message}"
                yield Finding(one.line, one.column, one.code, message, one.fix)


def _bound(module: ast.Module) -> Iterator[str]:
    """The names that the module's own statements give a meaning."""
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (one.id for one in ast.walk(target) if isinstance(one, ast.Name))


def _dropped(module: ast.Module, handles: Handles) -> Iterator[Finding]:
    for node in ast.walk(module):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
            continue
        method = handles.method(node.value)
        # A handle that is only passed through, as in get_scorer(...).stop(), can't be asked later
        if method is None or (name := dotted(method.value)) is None:
            continue
        message = (
            f"the handle that {name}.{method.attr}() returns is dropped, and {name} goes stale"
        )
        fix = f"write {name} = {name}.{method.attr}(...)"
        yield Finding(node.lineno, node.col_offset + 1, "dropped-handle", message, fix)


def _in_handlers(module: ast.Module, handles: Handles) -> Iterator[Finding]:
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not _is_handler(function):
            continue
        for node in ast.walk(ast.Module(function.body, type_ignores=[])):
            if not isinstance(node, ast.Call):
                continue
            method = handles.method(node)
            name = (dotted(node.func) or "").split(".")[-1]
            if method is not None and method.attr in {"register", "start"}:
                what = f".{method.attr}()"
            elif name in _ARCHIVAL:
                what = f"{name}()"
            else:
                continue
            message = f"{what} is called in {function.name}, which runs at every request"
            fix = "call it once, in a script or when the application starts"
            yield Finding(node.lineno, node.col_offset + 1, "in-request-handler", message, fix)


def _is_handler(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (dotted(target) or "").split(".")[-1] in _ROUTES:
            return True
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    if any(one.arg in _REQUEST_NAMES or _is_request(one.annotation) for one in arguments):
        return True
    return isinstance(function, ast.AsyncFunctionDef) and bool(_HANDLER_NAME.search(function.name))


def _is_request(annotation: ast.expr | None) -> bool:
    name = dotted(annotation) if annotation is not None else None
    return name is not None and name.split(".")[-1].endswith(("Request", "WebSocket"))


def _fixed_dates(module: ast.Module) -> Iterator[Finding]:
    texts = {
        target.id: node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        if (dotted(node.func) or "").split(".")[-1] != "ScorerSamplingConfig":
            continue
        filters = [one.value for one in node.keywords if one.arg == "filter_string"]
        for given in [*filters, *node.args[1:2]]:
            expression = texts.get(given.id, given) if isinstance(given, ast.Name) else given
            if date := _date_in(_text(expression)):
                message = f"the filter has the fixed date {date} in it, and is never made anew"
                fix = "leave the date out: a scorer scores what completes after its start"
                line, column = expression.lineno, expression.col_offset + 1
                yield Finding(line, column, "fixed-date", message, fix)


def _text(expression: ast.expr) -> str:
    """What is written out in an expression; gaps where it is computed."""
    if isinstance(expression, ast.Constant):
        return expression.value if isinstance(expression.value, str) else ""
    if isinstance(expression, ast.JoinedStr):
        return "".join(_text(part) for part in expression.values)
    if isinstance(expression, ast.BinOp):
        return _text(expression.left) + _text(expression.right)
    return "\N{REPLACEMENT CHARACTER}"


def _date_in(text: str) -> str | None:
    if found := _EPOCH.search(text):
        return found["date"]
    for found in _ISO_DATE.finditer(text):
        names_a_release = found["key"].startswith(("tag", "meta")) and found["operator"] == "="
        if not names_a_release:
            return found["date"]
    return None
