"""The DuckDB in which other people's queries run, and why they can do nothing but read the lake.

A query is anybody's text. Three layers stand between it and the machine, and each would do alone
for most of what can be tried:

1. **Its own parse tree** (`require_harmless`). DuckDB itself parses the text and shows its tree as
   JSON, so there is no second parser to fool. Only what is on a list passes: one SELECT (also
   below WITH: DuckDB lets INSERT and DELETE stand there), tables and views of the lake, five table
   functions, and pure scalar functions. ``read_csv``, ``glob``, ``query``, ``'/etc/passwd'`` as a
   table, ``duckdb_settings``, ``current_setting``, ``getvariable`` are not. COPY, ATTACH, INSTALL,
   LOAD, SET, PRAGMA, CALL, EXPLAIN ANALYZE, CREATE are no SELECT. As nothing can be created, no
   view or macro can hide any of them.
2. **DuckDB's settings** (`open_database`). Access to anything outside is off, but for the
   directories of the tables' files; no extension can be installed or loaded; no Python variable is
   a table; no secrets, no logs, no files for what doesn't fit into memory; settings are locked.
   It could still overwrite the tables' files: that is what layers 1 and 3 are for.
3. **The process** (`restrict_process`). Queries run in processes of their own, so that one that
   takes all memory or never ends takes nothing along: those are killed. They have an empty
   environment, and of the file system they can read the tables' directories and write nothing
   (Landlock, where the kernel has it; the limit on files' size elsewhere). No network.

Layer 3 must come before DuckDB starts its threads: Landlock binds a thread and those it starts.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import orjson

from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.landlock import restrict
from vedette.lake.sql.names import TABLES_SCHEMA

MEMORY_BYTES = 1 << 30
THREADS = 2

# Nodes of a query, other than expressions. Not SHOW_REF, INSERT_QUERY_NODE, COLUMN_DATA, ...
_NODES = {
    *("SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"),
    *("BASE_TABLE", "SUBQUERY", "JOIN", "EMPTY", "EXPRESSION_LIST", "TABLE_FUNCTION", "CTE"),
    *("PIVOT", "ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"),
    # of ORDER BY, not of a node: the direction
    *("ASCENDING", "DESCENDING", "ORDER_DEFAULT"),
}
_TABLE_FUNCTIONS = {"unnest", "range", "generate_series", "json_each", "json_tree"}
# Of those whose result is not a function of their arguments alone
_IMPURE = {
    *("now", "today", "current_date", "current_localtime", "current_localtimestamp"),
    *("get_current_time", "get_current_timestamp", "transaction_timestamp"),
    *("random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid"),
}
_PLAIN_NAME = re.compile(r"[\w $-]+")  # no path of a file
_OF_THE_SYSTEM = (
    *("pg_", "has_", "current_", "session_", "duckdb_", "inet_", "icu_", "__internal"),
    *("json_execute", "json_serialize", "json_deserialize", "get_block_size", "version", "user"),
    # They take bytes of DuckDB's own memory as they are given
    *("finalize", "combine", "to_aggregate_state", "index_key"),
)

_MEMORY = Path("/proc/self/statm")
# Which can still be read: DuckDB looks for its limits there, and we for what it holds
_OF_THE_PROCESS = (_MEMORY, Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
_ADDRESS_SPACE = 2 * MEMORY_BYTES  # beyond what there is before; some of DuckDB's isn't counted
_OPEN_FILES = 4096
_NICENESS = 15  # queries wait when the server or the engine need the processor


def restrict_process(readable: Sequence[Path]) -> str | None:
    """Give up what queries have no use for. Call it before `open_database`, after all imports.

    Args:
        readable: the directories that tables' files are in.

    Returns:
        None, or why the file system is out of reach by DuckDB's settings alone.

    Raises:
        OSError: the kernel refuses to go on half way.
    """
    with duckdb.connect() as warm:  # what it, pyarrow and Python load when they are first used
        warm.execute("SET TimeZone = 'UTC'")
        warm.sql("SELECT now(), 'a' AS text").to_arrow_table().to_pylist()
        with suppress(duckdb.Error):
            warm.sql("SELECT no_such_column")
    if sys.platform == "linux":
        pages = int(_MEMORY.read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + _ADDRESS_SPACE)
        with suppress(OSError):  # if memory is short, the kernel is to take it from queries first
            Path("/proc/self/oom_score_adj").write_text("1000")
        with suppress(OSError):  # where each session gets its share, niceness counts only within it
            Path("/proc/self/autogroup").write_text(str(_NICENESS))
    missing = restrict([*readable, *_OF_THE_PROCESS])
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    os.nice(_NICENESS)
    return missing


def held_memory() -> int:
    """Bytes of memory that this process holds now; 0 where only Linux would know."""
    if sys.platform != "linux":
        return 0
    return int(_MEMORY.read_text().split()[1]) * resource.getpagesize()


def open_database(readable: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """A database in memory that can read files below ``readable``, and do nothing else outside."""
    database = duckdb.connect(
        config={
            "threads": THREADS,
            "memory_limit": f"{MEMORY_BYTES}B",
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
        }
    )
    places = ", ".join(_quoted(f"{path}/") for path in readable)
    for statement in (
        "SET TimeZone = 'UTC'",
        "SET parquet_metadata_cache = true",
        "SET enable_external_file_cache = false",
        f"CREATE SCHEMA {TABLES_SCHEMA}",
        f"SET allowed_directories = [{places}]",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        database.execute(statement)
    return database


class Guard:
    """Knows what queries may say."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._connection = database.cursor()
        self._pure = {
            name
            for name, kind, stability in self._connection.execute(
                "SELECT function_name, function_type, stability FROM duckdb_functions()"
            ).fetchall()
            if stability in (None, "CONSISTENT")
            if kind in ("scalar", "aggregate", "macro", "window")
            if not name.startswith(_OF_THE_SYSTEM)
        }
        self._builtin = {
            name
            for (name,) in self._connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE internal"
            ).fetchall()
        }

    def require_harmless(self, sql: str, names: Collection[str]) -> None:
        """Check a query's parse tree.

        Args:
            sql: in DuckDB's dialect.
            names: the tables and views, in the schema of the lake's tables, that there are.

        Raises:
            QueryRefused: it is no query, not one, or says something that queries may not.
        """
        try:
            found = self._connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
            tree = orjson.loads(found[0] if found else "")
        except (duckdb.Error, orjson.JSONDecodeError) as error:
            raise QueryRefused(f"the query is nested too deeply: {error}") from error
        if tree.get("error"):
            raise QueryRefused(f"only queries can be run: {tree.get('error_message')}")
        if len(tree["statements"]) != 1:
            raise QueryRefused("one query at a time, please")
        nodes = list(_walk(tree["statements"]))
        with_names = {entry["key"].lower() for node in nodes for entry in _with(node)}
        for name in with_names:  # where it isn't in scope, DuckDB takes it for something else
            if name in self._builtin or not _PLAIN_NAME.fullmatch(name):
                raise QueryRefused(f"{name} can't be a name in WITH; give it another one")
        for node in nodes:
            self._require_node(node, names, with_names)

    def _require_node(
        self, node: dict[str, Any], names: Collection[str], with_names: Collection[str]
    ) -> None:
        kind = node.get("type")
        is_expression = "class" in node or not isinstance(kind, str)
        # _TYPE_INFO: what a column's type says more of itself
        if not is_expression and kind not in _NODES and not str(kind).endswith("_TYPE_INFO"):
            raise QueryRefused(f"{kind} can't be part of a query here")
        if kind == "BASE_TABLE":
            self._require_table(node, names, with_names)
        elif kind == "TABLE_FUNCTION":
            function = node["function"]
            if function.get("class") != "FUNCTION" or _name(function) not in _TABLE_FUNCTIONS:
                raise QueryRefused(
                    f"the table function {_name(function)} can't be used here; there are "
                    f"{', '.join(sorted(_TABLE_FUNCTIONS))}"
                )
        elif "function_name" in node and _name(node) not in self._pure | _IMPURE | _TABLE_FUNCTIONS:
            raise QueryRefused(f"there is no function {_name(node)} that queries may use here")

    def _require_table(
        self, node: dict[str, Any], names: Collection[str], with_names: Collection[str]
    ) -> None:
        table, place = node["table_name"], (node["catalog_name"], node["schema_name"])
        known = with_names if place == ("", "") else names if place == ("", TABLES_SCHEMA) else ()
        if table.lower() not in known:
            raise QueryRefused(f"there is no table {'.'.join(filter(None, (*place, table)))}")


def _name(function: dict[str, Any]) -> str:
    """A function's name; one that is asked for in a certain schema is none of ours."""
    path = [function.get("catalog"), function.get("schema"), function.get("function_name")]
    return ".".join(str(part) for part in path if part).lower()


def _with(node: dict[str, Any]) -> list[dict[str, Any]]:
    clause = node.get("cte_map")
    return clause["map"] if isinstance(clause, dict) else []


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON document."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
