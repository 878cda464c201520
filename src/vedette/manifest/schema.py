"""The manifest's JSON Schema, and what is wrong with a file by it, with lines."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from vedette.manifest.nodes import Node, Problem

_WORDS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping (key: value)",
}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12), as published."""
    text = files("vedette.manifest").joinpath("schema.json").read_text("utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def problems_of(root: Node) -> list[Problem]:
    """All that is wrong; none if the file is as the schema says."""
    problems: list[Problem] = []
    _check(root, schema(), "the manifest", problems)
    return problems


def _check(node: Node, rule: Mapping[str, Any], name: str, problems: list[Problem]) -> None:
    if "$ref" in rule:
        rule = {**rule, **schema()["$defs"][rule["$ref"].rpartition("/")[2]]}
    if "oneOf" in rule:
        fitting = [one for one in map(_resolved, rule["oneOf"]) if _is(node.value, one["type"])]
        if not fitting:
            wanted = " or ".join(_WORDS[_resolved(one)["type"]] for one in rule["oneOf"])
            problems.append(Problem(node.line, f"{name} must be {wanted}, not {_shown(node)}"))
            return
        rule = fitting[0]
    if not _is(node.value, rule["type"]):
        wanted = _WORDS[rule["type"]]
        problems.append(Problem(node.line, f"{name} must be {wanted}, not {_shown(node)}"))
    elif rule["type"] == "object":
        _check_object(node, rule, name, problems)
    elif rule["type"] == "array":
        _check_array(node, rule, name, problems)
    elif objection := _objection(node.value, rule):
        problems.append(Problem(node.line, f"{name} must be {objection}, not {_shown(node)}"))


def _check_object(node: Node, rule: Mapping[str, Any], name: str, problems: list[Problem]) -> None:
    known = rule.get("properties", {})
    others = rule.get("additionalProperties", False)
    for key, value in node.value.items():
        if key in known:
            _check(value, known[key], key, problems)
        elif others:
            _check(value, others, f"{name}.{key}", problems)
        else:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            message = f"{name} has no {key[:100]!r}; {hint}"
            problems.append(Problem(node.lines[key], message))
    missing = [key for key in rule.get("required", ()) if key not in node.value]
    if missing:
        problems.append(Problem(node.line, f"{name} lacks {', '.join(missing)}"))


def _check_array(node: Node, rule: Mapping[str, Any], name: str, problems: list[Problem]) -> None:
    least, most = rule.get("minItems", 0), rule.get("maxItems", math.inf)
    if not least <= len(node.value) <= most:
        wanted = f"{least}" if least == most else f"{least} or more"
        problems.append(Problem(node.line, f"{name} must have {wanted} entries"))
    for value in node.value:
        _check(value, rule["items"], f"an entry of {name}", problems)


def _objection(value: Any, rule: Mapping[str, Any]) -> str | None:
    """What the value must be; None if it is."""
    if "enum" in rule and value not in rule["enum"]:
        return f"one of {', '.join(rule['enum'])}"
    if isinstance(value, str):
        return "some text" if len(value.strip()) < rule.get("minLength", 0) else None
    least, most = rule.get("minimum", -math.inf), rule.get("maximum", math.inf)
    above = rule.get("exclusiveMinimum", -math.inf)
    if math.isfinite(value) and least <= value <= most and value > above:
        return None
    if math.isfinite(most):
        return f"between {least} and {most}"
    return f"above {above}" if math.isfinite(above) else f"{least} or more"


def _resolved(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in rule:
        return rule
    found: Mapping[str, Any] = schema()["$defs"][rule["$ref"].rpartition("/")[2]]
    return found


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case _:
            return isinstance(value, dict)


def _shown(node: Node) -> str:
    match node.value:
        case None:
            return "nothing: leave it out"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool() as value:
            return f"{str(value).lower()} (text goes in quotes)"
        case int() | float() as value:
            return f"{value}"
        case value:
            return f"{value!r:.100}"
