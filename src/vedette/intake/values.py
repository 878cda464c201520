"""Attribute values: OTLP's, and the text form in which MLflow keeps them.

MLflow stores every span attribute as JSON text. A string that is itself the JSON text of a string,
list or object is stored as it is (OTLP exporters send MLflow's own attributes that way); anything
else is dumped. The lake keeps the value as it was sent, and this module gets from one to the other:

==============================  ======================  ==================
sent (and in the lake)          MLflow stores           and reads
==============================  ======================  ==================
``{"a": 1}`` (kvlist)           ``{"a": 1}``            ``{"a": 1}``
``'{"a": 1}'`` (string)         ``{"a": 1}``            ``{"a": 1}``
``'hello'``                     ``"hello"``             ``'hello'``
``'"hello"'``                   ``"hello"``             ``'hello'``
``'12'``                        ``"12"``                ``'12'``
``12``                          ``12``                  ``12``
==============================  ======================  ==================
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from vedette.unicode import storable

# What JSON text of a string, list or object can begin with
DOCUMENT_STARTS = frozenset('"[{ \t\n\r')
_BLANKS = " \t\n\r"
_BRACKETS = ('""', "{}", "[]")

_encode = json.JSONEncoder(ensure_ascii=False).encode
_NOT_A_DOCUMENT = object()


def any_value(value: AnyValue) -> Any:
    """The Python value of an OTLP ``AnyValue``.

    JSON has neither bytes nor NaN: bytes become their Python literal (``b'...'``), as in MLflow,
    and non-finite numbers OTLP's JSON names (``NaN``, ``Infinity``, ``-Infinity``), both strings.
    """
    if text := value.string_value:  # most values are; asking for the kind first costs more
        return text
    read = _READERS.get(value.WhichOneof("value"))
    return None if read is None else read(value)


def attribute_values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP's attributes as Python values; the last of those with the same key."""
    # Most values are non-empty strings; reading the field costs less than asking which it is
    return {
        attribute.key: attribute.value.string_value or any_value(attribute.value)
        for attribute in attributes
    }


def json_text(value: Any) -> str:
    """What `any_value` or `attribute_values` gave, as the lake keeps it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # half a surrogate pair (becomes "?"), or an integer of more than 64 bits
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return storable(text)


def _number(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


_READERS: dict[str | None, Callable[[AnyValue], Any]] = {
    "string_value": lambda value: "",
    "int_value": lambda value: value.int_value,
    "double_value": lambda value: _number(value.double_value),
    "bool_value": lambda value: value.bool_value,
    "bytes_value": lambda value: repr(value.bytes_value),
    "array_value": lambda value: [any_value(item) for item in value.array_value.values],
    "kvlist_value": lambda value: {
        item.key: any_value(item.value) for item in value.kvlist_value.values
    },
}


def dump(value: Any) -> str:
    """JSON text as MLflow writes it: Python's separators, non-ASCII text unescaped."""
    return _encode(value)


def _document(text: str) -> Any:
    """The string, list or object that ``text`` is the JSON of, else `_NOT_A_DOCUMENT`."""
    if text[:1] not in DOCUMENT_STARTS:
        return _NOT_A_DOCUMENT
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:  # Python's parser, MLflow's, takes a little more: NaN, \ud800
        try:
            parsed = json.loads(storable(_encode(json.loads(text))))
        except (ValueError, RecursionError):
            return _NOT_A_DOCUMENT
    return parsed if isinstance(parsed, str | list | dict) else _NOT_A_DOCUMENT


def stored(value: Any) -> str:
    """The text that MLflow stores for an attribute sent as ``value``."""
    if isinstance(value, str) and _document(value) is not _NOT_A_DOCUMENT:
        return value
    return _encode(value)


def loaded(value: Any) -> Any:
    """The value that MLflow reads back for an attribute sent as ``value``."""
    if isinstance(value, str) and (parsed := _document(value)) is not _NOT_A_DOCUMENT:
        return parsed
    return value


def text_of(value: Any) -> str:
    """An attribute as plain text: strings unquoted, anything else as its JSON."""
    if not isinstance(value, str):
        return _encode(value)
    parsed = _document(value)
    return parsed if isinstance(parsed, str) else value


def unstored(text: Any) -> Any:
    """A value that can go into the lake for what MLflow stores as ``text``.

    ``stored`` of the result is ``text``, or, for the odd text that no value is stored as, reads the
    same to MLflow.
    """
    if not isinstance(text, str):
        return text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(parsed, str):
        return parsed if stored(parsed) == text else text
    if isinstance(parsed, list | dict):
        return text
    if isinstance(parsed, int) and not -(2**63) <= parsed < 2**64:
        return text
    return text if isinstance(parsed, float) and not math.isfinite(parsed) else parsed


def is_empty(value: Any) -> bool:
    """Whether MLflow takes the attribute for not being there: null, false, 0 or nothing inside."""
    if not isinstance(value, str):
        return not value
    if not value:
        return True
    if value[0] not in DOCUMENT_STARTS:
        return False
    text = value.strip(_BLANKS)
    if len(text) < 2 or text[0] + text[-1] not in _BRACKETS:
        return False
    return text == '""' or (text[0] != '"' and text[1:-1].isspace()) or len(text) == 2
