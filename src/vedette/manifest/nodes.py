"""YAML whose every value knows its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which line (from 1)."""

    line: int
    message: str


class ManifestError(ValueError):
    """A manifest can't be used.

    Attributes:
        problems: all that is wrong with it, by line.
    """

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda one: (one.line, one.message))
        told = (f"{where}:{one.line}: {one.message}" for one in self.problems)
        super().__init__("\n".join(dict.fromkeys(told)))


@dataclass(frozen=True, slots=True)
class Node:
    """A value.

    Attributes:
        value: a dict or list of nodes, or a scalar.
        line: where it begins, from 1.
        lines: of a dict's keys.
    """

    value: Any
    line: int
    lines: Mapping[str, int] = field(default_factory=dict)

    def get(self, key: str) -> Node | None:
        """A dict's value; None if there is none."""
        found: Node | None = self.value.get(key)
        return found

    def items(self, key: str) -> Sequence[Node]:
        """The nodes of a dict's list; none if there is no such list."""
        found = self.get(key)
        return () if found is None else found.value

    def plain(self) -> Any:
        """Without lines."""
        match self.value:
            case dict():
                return {key: one.plain() for key, one in self.value.items()}
            case list():
                return [one.plain() for one in self.value]
            case value:
                return value


def read_yaml(text: str, where: str) -> Node:
    """The one document of a text.

    Args:
        where: the file's name, for errors.

    Raises:
        ManifestError: it is no YAML, has a key twice, or is nested too deep.
    """
    problems: list[Problem] = []
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        found = Node({}, 1) if root is None else _node(loader, root, 0, problems)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = 1 if mark is None else mark.line + 1
        raise ManifestError(where, [Problem(line, f"this is no YAML: {message}")]) from error
    if problems:
        raise ManifestError(where, problems)
    return found


def _node(loader: yaml.SafeLoader, node: Any, depth: int, problems: list[Problem]) -> Node:
    line = node.start_mark.line + 1
    if depth > _DEEPEST:  # an alias may hold itself
        problems.append(Problem(line, "this is nested too deep"))
        return Node(None, line)
    if isinstance(node, yaml.SequenceNode):
        return Node([_node(loader, one, depth + 1, problems) for one in node.value], line)
    if isinstance(node, yaml.ScalarNode):
        return Node(loader.construct_object(node), line)
    values: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        key_line = key.start_mark.line + 1
        if name in values:
            problems.append(Problem(key_line, f"{name} is there twice, first in {lines[name]}"))
        values[name] = _node(loader, value, depth + 1, problems)
        lines[name] = key_line
    return Node(values, line, lines)
