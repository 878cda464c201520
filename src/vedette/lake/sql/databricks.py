"""Where Databricks' functions mean something else than what sqlglot makes of them for DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from vedette.lake.sql.errors import QueryRefused

# Not known to sqlglot, which passes them on as they are: in DuckDB they mean the same
_SAME = {"date_part", "make_date", "map_concat", "map_entries", "map_values", "mean"}
_ALIASES = {"every": "BOOL_AND", "some": "BOOL_OR", "std": "STDDEV", "cardinality": "LEN"}
_MICROSECONDS = {"SECOND": 10**6, "MINUTE": 60 * 10**6, "HOUR": 3600 * 10**6, "DAY": 86400 * 10**6}
_WHOLE_UNITS = ("MICROSECOND", "MILLISECOND", *_MICROSECONDS, "WEEK", "MONTH", "QUARTER", "YEAR")


def to_duckdb(query: exp.Query) -> exp.Query:
    """The query with such functions replaced.

    Raises:
        QueryRefused: it calls a function of which no translation is known.
    """
    for node in reversed(list(query.walk())):  # what is inside first
        if (replacement := _REPLACEMENTS.get(type(node))) is not None:
            node.replace(replacement(node))
    return query


def _call(name: str, *arguments: Any) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _path(node: exp.JSONExtract) -> exp.Expr:
    """``column:path``: the text of what is there, as in Databricks for columns of JSON text."""
    if not node.args.get("variant_extract"):
        return node
    return exp.JSONExtractScalar(this=node.this, expression=node.expression)


def _percentile(node: exp.Quantile) -> exp.Expr:
    """Databricks interpolates, DuckDB's QUANTILE doesn't."""
    return _call("QUANTILE_CONT", node.this, node.args["quantile"])


def _exists(node: exp.Exists) -> exp.Expr:
    """``exists(array, x -> ...)``, of which sqlglot loses the condition."""
    condition = node.args.get("expression")
    if condition is None:
        return node
    matching = exp.ArrayFilter(this=node.this, expression=condition)
    return exp.GT(this=_call("LEN", matching), expression=exp.Literal.number(0))


def _difference(node: exp.DateDiff | exp.TimestampDiff) -> exp.Expr:
    """Whole units that have passed; DuckDB's DATE_DIFF counts the boundaries in between."""
    unit = node.text("unit").upper() or "DAY"
    if unit not in _WHOLE_UNITS:
        raise QueryRefused(f"{unit} is not a unit of time: there are {', '.join(_WHOLE_UNITS)}")
    since, until = (_instant(node.args[side]) for side in ("expression", "this"))
    return _call("DATE_SUB", exp.Literal.string(unit.lower()), since, until)


def _truncation(node: exp.TimestampTrunc) -> exp.Expr:
    """Up to days by arithmetic: DuckDB's DATE_TRUNC asks a calendar and takes several times longer.

    Right in UTC, which is the time zone of all queries.
    """
    size = _MICROSECONDS.get(node.text("unit").upper())
    if size is None:
        return node
    moment = f"EPOCH_US({_instant(node.this).sql('duckdb')})"
    return _duckdb(f"MAKE_TIMESTAMPTZ({moment} - (({moment} % {size}) + {size}) % {size})")


def _seconds(node: exp.StrToUnix) -> exp.Expr:
    if node.this is None:
        return _duckdb("CAST(FLOOR(EPOCH(NOW())) AS BIGINT)")
    return _duckdb(f"CAST(FLOOR(EPOCH({_instant(node.this).sql('duckdb')})) AS BIGINT)")


def _from_json(node: exp.FromJson) -> exp.Expr:
    """Keys that the type doesn't name are left out; what doesn't fit it, and no JSON, is NULL."""
    schema = node.args.get("expression")
    text = schema.name if isinstance(schema, exp.Literal) else ""
    for form in (text, f"STRUCT<{text}>") if text.strip() else ():
        try:
            kind = exp.DataType.build(form, dialect="databricks")
        except (SqlglotError, ValueError):
            continue
        if kind.this != exp.DataType.Type.USERDEFINED:
            shape = exp.Literal.string(orjson.dumps(_shape(kind)).decode())
            value = exp.TryCast(this=node.this, to=exp.DataType.build("JSON"))
            return _call("JSON_TRANSFORM", value, shape)
    raise QueryRefused("from_json needs its type as a text, such as 'MAP<STRING, STRING>'")


def _shape(kind: exp.DataType) -> Any:
    """A type as DuckDB's JSON_TRANSFORM wants it: arrays and structs as JSON, others by name."""
    if kind.this == exp.DataType.Type.STRUCT:
        return {part.name: _shape(part.args["kind"]) for part in kind.expressions}
    if kind.this == exp.DataType.Type.ARRAY:
        return [_shape(kind.expressions[0])]
    return kind.sql("duckdb")


def _unknown_to_sqlglot(node: exp.Anonymous) -> exp.Expr:
    name = node.name.lower()
    if name in _SAME:
        return node
    if name in _ALIASES:
        return _call(_ALIASES[name], *node.expressions)
    replace = _FUNCTIONS.get(name)
    if replace is None:
        raise QueryRefused(
            f"Databricks' function {name} has no translation here; with the dialect duckdb you can "
            "use DuckDB's own functions"
        )
    try:
        return replace(*node.expressions)
    except TypeError:
        raise QueryRefused(f"{name} takes another number of arguments") from None


def _instant(value: exp.Expr) -> exp.Expr:
    return exp.Cast(this=value.copy(), to=exp.DataType.build("TIMESTAMPTZ"))


def _duckdb(text: str) -> exp.Expr:
    return sqlglot.parse_one(text, read="duckdb")


def _moment(value: exp.Expr, per_second: int) -> exp.Expr:
    microseconds = f"CAST(({value.sql('duckdb')}) * {10**6 // per_second} AS BIGINT)"
    return _duckdb(f"MAKE_TIMESTAMPTZ({microseconds})")


_FUNCTIONS: dict[str, Callable[..., exp.Expr]] = {
    "timestamp_seconds": lambda value: _moment(value, 1),
    "timestamp_millis": lambda value: _moment(value, 10**3),
    "timestamp_micros": lambda value: _moment(value, 10**6),
    "isnull": lambda value: exp.Is(this=value, expression=exp.Null()),
    "isnotnull": lambda value: exp.Not(this=exp.Is(this=value, expression=exp.Null())),
    "map_filter": lambda map_, condition: _call(
        "MAP_FROM_ENTRIES",
        exp.ArrayFilter(this=_call("MAP_ENTRIES", map_), expression=_of_entry(condition)),
    ),
}


def _of_entry(condition: exp.Expr) -> exp.Expr:
    """``(k, v) -> ...`` as a function of a map's entry."""
    if not isinstance(condition, exp.Lambda) or len(condition.expressions) != 2:
        raise QueryRefused("map_filter needs a condition (key, value) -> ...")
    key, value = (one.name for one in condition.expressions)
    entry = exp.to_identifier("entry")

    def rename(node: exp.Expr) -> exp.Expr:
        name = node.name if isinstance(node, exp.Column | exp.Identifier) else None
        if name in (key, value) and not isinstance(node.parent, exp.Dot):
            field = exp.to_identifier("key" if name == key else "value")
            return exp.Dot(this=entry.copy(), expression=field)
        return node

    return exp.Lambda(this=condition.this.copy().transform(rename), expressions=[entry])


_REPLACEMENTS: dict[type[exp.Expr], Callable[[Any], exp.Expr]] = {
    exp.JSONExtract: _path,
    exp.Quantile: _percentile,
    exp.Exists: _exists,
    exp.DateDiff: _difference,
    exp.TimestampDiff: _difference,
    exp.TimestampTrunc: _truncation,
    exp.StrToUnix: _seconds,
    exp.FromJson: _from_json,
    exp.Anonymous: _unknown_to_sqlglot,
}
