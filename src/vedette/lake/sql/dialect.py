"""Queries in Databricks' dialect (or DuckDB's), as text that DuckDB runs.

sqlglot translates. What it is known to translate into something else than was meant is put right in
`vedette.lake.sql.databricks`; what can't be translated is refused. Nothing here guards anything:
that the text only reads the lake is checked where it is run, see `vedette.lake.sql.sandbox`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel

from vedette.lake.location import DEFAULT, Location
from vedette.lake.sql.databricks import to_duckdb
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.names import TABLES_SCHEMA, located, resolve, unknown

DIALECTS = ("databricks", "duckdb")
_MOST_CHARACTERS = 100_000
_UNDERLINED = ("\x1b[4m", "\x1b[0m")

# It reports what it passes on unparsed; we refuse that
logging.getLogger("sqlglot").setLevel(logging.ERROR)


class Translation(NamedTuple):
    """A query for DuckDB, and the names of the tables and views that it reads."""

    sql: str
    names: frozenset[str]


@lru_cache(maxsize=256)
def translate(
    text: str, dialect: str = "databricks", locations: tuple[Location, ...] = (DEFAULT,)
) -> Translation:
    """One query, with the tables of these locations named as DuckDB has them.

    Raises:
        QueryRefused: it doesn't parse, is no query, is several, names a table that isn't there, or
            says something that DuckDB has no words for.
    """
    if len(text) > _MOST_CHARACTERS:
        raise QueryRefused(f"the query is longer than {_MOST_CHARACTERS:,} characters")
    query = parse(text, dialect)
    names = _place_tables(query, TABLES_SCHEMA, locations)
    if dialect == "databricks":
        query = to_duckdb(query)
    sql = _written(query, "duckdb", comments=False)
    _require_nothing_lost(query, sql)
    return Translation(sql, names)


def in_dialect(text: str, dialect: str, location: Location = DEFAULT) -> str:
    """A query of ours, in Databricks' dialect, as text for another engine.

    Args:
        text: names the tables of the location by default.
        dialect: ``databricks``, ``spark`` or ``duckdb``; in DuckDB the tables have no catalog.
        location: whose tables are meant.

    Raises:
        QueryRefused: the engine has no words for it.
    """
    text = located(text, location)
    if dialect == "databricks":
        return text.strip()
    query = parse(text, "databricks")
    if dialect == "duckdb":
        _place_tables(query, None, (location,))
        query = to_duckdb(query)
    return _written(query, dialect, pretty=True)


def _written(query: exp.Query, dialect: str, **options: bool) -> str:
    try:
        return query.sql(dialect, unsupported_level=ErrorLevel.RAISE, **options)
    except Exception as error:  # sqlglot stumbles over some texts, in whatever way
        raise QueryRefused(f"{dialect} has no words for this: {_told(error)}") from error


def parse(text: str, dialect: str) -> exp.Query:
    """The one query that the text is.

    Raises:
        QueryRefused: it isn't one.
    """
    try:
        found = [one for one in sqlglot.parse(text, read=dialect) if one is not None]
    except Exception as error:  # sqlglot stumbles over some texts, in whatever way
        raise QueryRefused(f"the query doesn't parse: {_told(error)}") from error
    if not found:
        raise QueryRefused("there is no query in this text")
    if len(found) != 1:
        raise QueryRefused(f"one query at a time, please: this is {len(found)} statements")
    (query,) = found
    if isinstance(query, exp.Values):
        query = exp.select("*").from_(query)
    if not isinstance(query, exp.Query):
        what = query.name if isinstance(query, exp.Command) else type(query).__name__
        raise QueryRefused(f"only queries (SELECT ...) can be run, and this is {what.upper()}")
    return query


def _place_tables(
    query: exp.Query, schema: str | None, locations: Sequence[Location]
) -> frozenset[str]:
    """Let every name of one of the lake's tables be that of the table in DuckDB's ``schema``."""
    names = set()
    for table in list(query.find_all(exp.Table)):
        parts = [part.name for part in table.parts if isinstance(part, exp.Identifier)]
        if not parts or not isinstance(table.this, exp.Identifier):
            continue  # a table function: the sandbox knows which there may be
        if len(parts) == 1 and _is_cte(table, parts[0]):
            continue
        for said, what in (("version", "time travel"), ("when", "time travel")):
            if table.args.get(said) is not None:
                raise QueryRefused(f"{what} is not available: queries read the newest version")
        name = resolve(parts, locations)
        if name is None:
            raise QueryRefused(unknown(parts, locations))
        names.add(name.key)
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        table.set("this", exp.to_identifier(name.key))
        table.set("db", exp.to_identifier(schema))
        table.set("catalog", None)
    for column in query.find_all(exp.Column):  # main.default.t.x is t.x, as the table's alias is t
        named = [part.name for part in column.parts[:-1]]
        if column.args.get("db") is not None and resolve(named, locations):
            column.set("db", None)
            column.set("catalog", None)
    return frozenset(names)


def _is_cte(table: exp.Table, name: str) -> bool:
    """Whether the name is that of a WITH clause which the table's place can see."""
    below: Any = table
    above = table.parent
    while above is not None:
        if isinstance(above, exp.With):  # in one of its queries: those before it can be seen
            earlier = above.expressions[: above.expressions.index(below)]
            seen = [*earlier, below] if above.args.get("recursive") else earlier
        elif (clause := above.args.get("with_")) is not None and clause is not below:
            seen = clause.expressions
        else:
            seen = []
        if any(one.alias.lower() == name.lower() for one in seen):
            return True
        below, above = above, above.parent
    return False


def _require_nothing_lost(query: exp.Query, sql: str) -> None:
    """Every column and every text of the query must be in what DuckDB gets, too."""
    kept = parse(sql, "duckdb")
    words = {one.name.lower() for one in kept.find_all(exp.Identifier)}
    for column in query.find_all(exp.Column):
        if isinstance(column.this, exp.Identifier) and column.name.lower() not in words:
            function = column.find_ancestor(exp.Func)
            where = f", in {function.sql('databricks')}" if function is not None else ""
            raise QueryRefused(f"DuckDB, which runs it, has no words for {column.name}{where}")


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first = str(error)
    for code in _UNDERLINED:
        first = first.replace(code, "")
    return " ".join(first.split())[:500]
