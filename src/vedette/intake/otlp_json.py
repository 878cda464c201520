"""OTLP's JSON as the messages it stands for: of a request that is wrong somewhere, all the rest."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import orjson
from google.protobuf.json_format import Error as JsonFormatError
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from vedette.intake.signals import Branches, Signal
from vedette.unicode import storable

_NESTING = 100  # of JSON; protobuf's own limit for values within values
_IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")


def parse_json(signal: Signal, data: bytes, rejections: list[str]) -> Message:
    """A request from its JSON.

    Args:
        signal: what it is a request of.
        data: the JSON.
        rejections: gets the reason for everything that is left out.

    Raises:
        ValueError: it is none at all; the message says why.
    """
    content = _loads(data)
    if not isinstance(content, dict):
        raise ValueError(f"not an {signal.request.__name__}: no JSON object")
    request = signal.request()
    for leaf in _leaves(content, signal.branches, signal.request()):
        _read_ids(leaf)
    try:
        _fill(request, content)
        return request
    except ValueError:
        pass
    # Something in it is wrong: take it apart, to lose no more than what is wrong
    request = signal.request()
    _Apart(signal, rejections).fill(request, content, signal.branches)
    if not getattr(request, signal.groups) and not rejections:
        raise ValueError(f"not an {signal.request.__name__}")
    return request


def camel(name: str) -> str:
    """``scope_spans`` -> ``scopeSpans``, as JSON has it."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


class _Apart:
    """Fills messages one by one."""

    def __init__(self, signal: Signal, rejections: list[str]) -> None:
        self._signal = signal
        self._rejections = rejections

    def fill(
        self,
        message: Any,
        content: dict[str, Any],
        branches: Branches,
        problem: str | None = None,
        name: object = None,
    ) -> bool:
        """Fill a message and those on its branches; False, with a reason told, if it is a leaf
        that can't be. What is wrong with a message is wrong with all its leaves.
        """
        name = content.get("name", name)
        problem = problem or _fill_alone(message, content, branches)
        if not branches:
            if problem is not None:
                self._rejections.append(self._signal.told(name, problem))
            return problem is None
        children = {branch: list(_children(content, message, branch)) for branch in branches}
        if sum(map(bool, children.values())) > 1:
            problem = problem or "there is data of more than one kind"
        for branch, contents in children.items():
            for child in contents:
                field = getattr(message, branch)
                repeated = hasattr(field, "add")
                target = field.add() if repeated else field
                if not self.fill(target, child, branches[branch], problem, name) and repeated:
                    del field[-1]
        return True


def _fill_alone(message: Message, content: dict[str, Any], branches: Branches) -> str | None:
    """Fill a message but for its branches; what is wrong if that can't be done."""
    without = {*branches, *map(camel, branches)}
    try:
        _fill(message, {name: value for name, value in content.items() if name not in without})
    except ValueError as error:
        return str(error).rpartition("field: ")[2]
    return None


def _fill(message: Message, content: dict[str, Any]) -> None:
    """Raises ValueError."""
    try:
        ParseDict(content, message, ignore_unknown_fields=True, max_recursion_depth=_NESTING)
    except (JsonFormatError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error


def _leaves(content: dict[str, Any], branches: Branches, like: Any) -> Iterator[dict[str, Any]]:
    """What is counted; ``like`` is an empty message of the kind that ``content`` stands for."""
    if not branches:
        yield content
    for branch, inner in branches.items():
        children = list(_children(content, like, branch))
        if children:
            field = getattr(like, branch)
            below = field.add() if hasattr(field, "add") else field
            for child in children:
                yield from _leaves(child, inner, below)


def _children(content: dict[str, Any], message: Any, branch: str) -> Iterator[dict[str, Any]]:
    repeated = hasattr(getattr(message, branch), "add")
    for name in dict.fromkeys((camel(branch), branch)):
        found = content.get(name)
        if repeated:
            yield from _objects(found)
        elif isinstance(found, dict):
            yield found


def _objects(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, list):
        yield from (item for item in found if isinstance(item, dict))


def _read_ids(leaf: dict[str, Any]) -> None:
    """OTLP's JSON has ids in hex, protobuf's JSON has bytes in base64."""
    for holder in (leaf, *_objects(leaf.get("links")), *_objects(leaf.get("exemplars"))):
        for name in _IDS:
            value = holder.get(name)
            if isinstance(value, str) and value:
                try:
                    raw = bytes.fromhex(value)
                except ValueError:
                    raw = b"?"  # of no valid length, and told or left out for that
                holder[name] = base64.b64encode(raw).decode()


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError as error:
        problem = ValueError(f"not JSON: {error}")
        if b"\\ud" not in data.lower():
            raise problem from error
    # Half a surrogate pair must not cost the whole batch
    try:
        text = json.dumps(json.loads(data.decode()), ensure_ascii=False)
        return orjson.loads(storable(text))
    except (ValueError, RecursionError):
        raise problem from None
