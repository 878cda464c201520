"""Queries that try to do more than read the lake, against each layer of the sandbox and all of it.

See `vedette.lake.sql.sandbox` for the layers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest

from sql_support import RowsLake, hour_ago
from vedette.lake.sql.errors import QueryRefused
from vedette.lake.sql.formats import from_arrow
from vedette.lake.sql.names import NAMES
from vedette.lake.sql.sandbox import Guard

SECRET = "the-secret-7c1f"

# {secret}: a file with a secret; {data}: a data file of the lake; {lake}: the lake's directory;
# {out}: a path outside of it. All in DuckDB's dialect, which can say most.
READS = """
SELECT * FROM read_text('{secret}')
SELECT * FROM read_blob('{secret}')
SELECT * FROM read_csv('{secret}', columns = {{'a': 'VARCHAR'}})
SELECT * FROM read_csv_auto('/etc/passwd')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM read_json('{secret}')
SELECT * FROM read_json_auto('{secret}')
SELECT * FROM read_ndjson_objects('{secret}')
SELECT * FROM read_parquet('{out}.parquet')
SELECT * FROM parquet_scan('{out}.parquet')
SELECT * FROM parquet_metadata('{data}')
SELECT * FROM parquet_schema('{data}')
SELECT * FROM parquet_kv_metadata('{data}')
SELECT * FROM read_parquet('{data}')
SELECT * FROM read_duckdb('{out}.db', table_name = 't')
SELECT * FROM glob('/etc/*')
SELECT * FROM glob('{lake}/**')
SELECT * FROM '/etc/passwd'
SELECT * FROM '{secret}'
SELECT * FROM "{secret}"
SELECT * FROM '{data}'
SELECT content FROM read_text('/proc/self/environ')
SELECT (SELECT content FROM read_text('{secret}'))
SELECT * FROM range(1) r, LATERAL (SELECT * FROM read_text('{secret}'))
WITH a AS (SELECT * FROM read_text('{secret}')) SELECT * FROM a
SELECT * FROM (WITH "{secret}" AS (SELECT 1) SELECT * FROM "{secret}") a, "{secret}" b
SELECT * FROM (WITH "{data}" AS (SELECT 1) SELECT 1) a, '{data}' b
SELECT 1 UNION ALL SELECT length(content) FROM read_text('{secret}')
SELECT * FROM range(1) WHERE EXISTS (SELECT 1 FROM read_text('{secret}'))
SELECT * FROM range(1) ORDER BY (SELECT count(*) FROM glob('/*'))
SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')
SELECT * FROM query_table('/etc/passwd')
SELECT * FROM query_table(['duckdb_settings'])
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT * FROM read_text(getvariable('x'))
FROM read_text('{secret}')
SELECT getenv('SECRET')
SELECT getvariable('paths')
SELECT current_setting('secret_directory')
SELECT main.current_setting('home_directory')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_variables()
SELECT * FROM duckdb_secrets()
SELECT * FROM duckdb_logs
SELECT * FROM duckdb_views()
SELECT sql FROM duckdb_views
WITH duckdb_views AS (SELECT 1 AS a) SELECT * FROM duckdb_views
SELECT * FROM duckdb_external_file_cache()
SELECT * FROM information_schema.tables
SELECT * FROM pg_catalog.pg_class
SELECT * FROM sqlite_master
SELECT * FROM system.main.duckdb_tables
SELECT * FROM which_secret('s3://bucket', 's3')
SELECT * FROM pragma_database_size()
SELECT * FROM pragma_user_agent()
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM pandas_scan(1)
SELECT * FROM python_map_function(1)
SELECT * FROM os
SELECT * FROM (DESCRIBE SELECT 1)
SELECT * FROM (SHOW DATABASES)
SELECT * FROM (SUMMARIZE SELECT 1)
SELECT * FROM read_csv('https://example.com/x.csv')
SELECT * FROM 's3://bucket/x.parquet'
SELECT * FROM lake.no_mlflow_otel_spans
SELECT * FROM memory.lake.mlflow_otel_spans
SELECT pg_sleep(1)
SELECT sleep_ms(1000)
SELECT write_log('x')
SELECT nextval('x')
SELECT * FROM text.`/etc/passwd`
SELECT * FROM parquet.`{data}`
SELECT * FROM delta.`{lake}/mlflow_otel_spans`
SELECT * FROM read_files('/etc/passwd', format => 'text')
SELECT java_method('java.lang.Runtime', 'getRuntime')
SELECT version()
SELECT json_serialize_plan('SELECT * FROM read_parquet(''{data}'')')
SELECT finalize('x'::BLOB)
SELECT __internal_decompress_string(1::UBIGINT)
""".strip().splitlines()
WRITES = """
COPY (SELECT 1) TO '{out}.csv'
COPY (SELECT 1) TO '{data}'
COPY (SELECT 1) TO '{lake}/x.parquet'
COPY (SELECT 1) TO '/dev/stdout'
WITH x AS (COPY (SELECT 1) TO '{lake}/x.parquet') SELECT 1
WITH x AS (COPY (SELECT 1) TO '{out}.csv') SELECT * FROM x
WITH x AS (INSERT INTO lake.no_mlflow_otel_spans DEFAULT VALUES RETURNING *) SELECT * FROM x
WITH x AS (DELETE FROM lake.no_mlflow_otel_spans RETURNING *) SELECT * FROM x
WITH x AS (UPDATE lake.no_mlflow_otel_spans SET name = 'a' RETURNING *) SELECT * FROM x
ATTACH '{out}.db' AS other
ATTACH 'postgres://localhost' AS other
DETACH memory
EXPORT DATABASE '{out}'
IMPORT DATABASE '{out}'
INSTALL httpfs
LOAD httpfs
LOAD '{out}.duckdb_extension'
FORCE INSTALL json
SET threads = 64
SET memory_limit = '100GB'
SET GLOBAL enable_external_access = true
SET VARIABLE x = 1
RESET lock_configuration
PRAGMA threads = 64
PRAGMA database_list
PRAGMA enable_profiling
CALL pragma_version()
CREATE TABLE t (a INT)
CREATE TABLE t AS SELECT 1
CREATE VIEW v AS SELECT * FROM read_text('{secret}')
CREATE MACRO m(a) AS TABLE SELECT * FROM read_text(a)
CREATE OR REPLACE VIEW lake.mlflow_otel_spans AS SELECT 1
CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')
CREATE TEMP FUNCTION f(a) AS current_setting(a)
CREATE SCHEMA x
DROP VIEW lake.mlflow_otel_spans
INSERT INTO lake.no_mlflow_otel_spans DEFAULT VALUES
UPDATE lake.no_mlflow_otel_spans SET name = 'a'
DELETE FROM lake.no_mlflow_otel_spans
TRUNCATE lake.no_mlflow_otel_spans
ALTER TABLE lake.no_mlflow_otel_spans RENAME TO x
VACUUM
CHECKPOINT
BEGIN
COMMIT
EXPLAIN ANALYZE SELECT 1
EXPLAIN SELECT 1
PREPARE p AS SELECT 1
EXECUTE p
USE memory
SELECT 1; COPY (SELECT 1) TO '{out}.csv'
SELECT 1; SELECT 2
SELECT 1 INTO OUTFILE '{out}'
SELECT * INTO t FROM range(1)
""".strip().splitlines()


class Ground:
    """A lake, and a directory beside it with what must not be read or made."""

    def __init__(self, directory: Path) -> None:
        self.lake = RowsLake(directory / "data")
        self.lake.span(1, hour_ago(1))
        self.lake.commit()
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(SECRET)
        database = duckdb.connect()
        database.execute(f"COPY (SELECT '{SECRET}' AS a) TO '{self.outside}/x.parquet'")
        database.execute(f"ATTACH '{self.outside}/x.db' AS o")
        database.execute(f"CREATE TABLE o.t AS SELECT '{SECRET}' AS a")
        database.close()
        self.tables = Path(self.lake.lake.spans.storage.uri).parent
        self.directory = directory
        self._before = self._contents()

    def text(self, attack: str) -> str:
        data = next(self.tables.rglob("part-*.parquet"))
        return attack.format(
            secret=self.outside / "secret.txt",
            out=self.outside / "x",
            data=data,
            lake=self.tables,
        )

    def require_untouched(self) -> None:
        """Nothing that was there has changed, and nothing has come."""
        assert self._contents() == self._before

    def _contents(self) -> dict[str, bytes]:
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    os.environ["SECRET"] = SECRET
    made = Ground(tmp_path_factory.mktemp("ground"))
    yield made
    made.lake.engine.close()
    del os.environ["SECRET"]


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(duckdb.connect())


@pytest.mark.parametrize("dialect", ["duckdb", "databricks"])
@pytest.mark.parametrize("attack", [*READS, *WRITES])
def test_an_attack_is_refused(attack: str, dialect: str, ground: Ground) -> None:
    with pytest.raises(QueryRefused) as refusal:
        ground.lake.engine.run(ground.text(attack), dialect=dialect, seconds=10)
    assert SECRET not in str(refusal.value)
    ground.require_untouched()
    assert ground.lake.rows("SELECT COUNT(*) AS n FROM mlflow_otel_spans") == [{"n": 1}]


@pytest.mark.parametrize("attack", [*READS, *WRITES])
def test_the_parse_tree_alone_gives_it_away(attack: str, ground: Ground, guard: Guard) -> None:
    with pytest.raises(QueryRefused):
        guard.require_harmless(ground.text(attack), NAMES)


def test_the_parse_tree_of_harmless_queries_passes(guard: Guard) -> None:
    for query in (
        "SELECT 1",
        "WITH a AS (SELECT * FROM lake.mlflow_otel_spans) SELECT max(time), name FROM a GROUP BY 2",
        "SELECT * FROM lake.mlflow_otel_spans s, unnest(s.events) e(e) WHERE e.name ILIKE 'a%'",
        "WITH RECURSIVE r AS (SELECT 1 i UNION ALL SELECT i + 1 FROM r WHERE i < 9) FROM r",
        "SELECT attributes ->> '$.a', CAST(attributes AS JSON)::MAP(VARCHAR, VARCHAR), now()"
        " FROM lake.mlflow_otel_spans ORDER BY 1 DESC LIMIT 3",
        "SELECT list_filter([1, 2], lambda x: x > 1), {'a': 1}.a, [x FOR x IN [1, 2] IF x > 1]",
        "SELECT sum(i) OVER (ORDER BY i), quantile_cont(i, 0.5) FILTER (i > 1) FROM range(9) t(i)",
    ):
        guard.require_harmless(query, NAMES)


# Run in a process that is restricted as the one of queries is, without a look at the parse tree
WITHOUT_GUARD = """
import json, sys
from pathlib import Path
from vedette.lake.sql.sandbox import open_database, restrict_process

place, attacks = Path(sys.argv[1]), json.load(sys.stdin)
missing = restrict_process([place]) if sys.argv[2] == "restricted" else "nothing"
database = open_database([place])
outcomes = []
for attack in attacks:
    try:
        outcomes.append(repr(database.execute(attack).fetchall()))
    except Exception as error:
        outcomes.append(None)
print(json.dumps([missing, outcomes]))
"""


def without_guard(ground: Ground, attacks: list[str], how: str) -> tuple[str | None, list[Any]]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GUARD, str(ground.tables), how],
        input=json.dumps([ground.text(attack) for attack in attacks]),
        env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        cwd=ground.outside,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing, outcomes = json.loads(done.stdout)
    return missing, outcomes


def test_duckdb_s_settings_alone_let_nothing_outside_be_read_or_written(ground: Ground) -> None:
    outside = [a for a in (*READS, *WRITES) if "{lake}" not in a and "{data}" not in a]
    _, outcomes = without_guard(ground, outside, "unrestricted")
    assert SECRET not in str(outcomes)
    assert "root:" not in str(outcomes)
    ground.require_untouched()


def test_the_process_can_write_nothing_even_where_duckdb_may(ground: Ground) -> None:
    missing, outcomes = without_guard(ground, [*READS, *WRITES], "restricted")
    assert SECRET not in str(outcomes)
    assert "root:" not in str(outcomes)
    if missing is None:  # this kernel has Landlock
        ground.require_untouched()


def running() -> list[psutil.Process]:
    """The processes of queries."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # also of one that has ended, and was not waited for
            if "vedette.lake.sql.worker" in process.cmdline():
                found.append(process)
    return found


def test_the_process_has_none_of_our_environment(ground: Ground) -> None:
    ground.lake.rows("SELECT 1")
    assert running()
    for process in running():
        assert SECRET not in str(process.environ())


BOMBS = """
SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 1
WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r
WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i FROM r, range(1000)) SELECT count(*) FROM r
SELECT len(range(100000000000))
SELECT length(repeat('x', 4000000000))
SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)
SELECT list_sort(range(2000000000))
SELECT a.range FROM range(1000000000) a ORDER BY hash(a.range) LIMIT 1
SELECT levenshtein(repeat('x', 1000000), repeat('y', 1000000))
SELECT map_from_entries(list({'key': range, 'value': repeat('x', 1000)})) FROM range(100000000)
SELECT histogram(repeat('x', 1000) || range) FROM range(100000000)
SELECT repeat('x', 1000000) FROM range(1000)
""".strip().splitlines()


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_and_nothing_else_suffers(bomb: str, ground: Ground) -> None:
    used = psutil.Process().memory_info().rss
    began = time.monotonic()
    with pytest.raises(QueryRefused, match=r"took more than|larger than|may use|out of range"):
        ground.lake.engine.run(bomb, dialect="duckdb", seconds=2, max_rows=1_000_000)
    assert time.monotonic() - began < 8
    assert psutil.Process().memory_info().rss - used < 600 << 20
    assert ground.lake.rows("SELECT COUNT(*) AS n FROM mlflow_otel_spans") == [{"n": 1}]


def test_a_text_that_takes_forever_to_translate_is_stopped(ground: Ground) -> None:
    text = "SELECT " + "STRUCT(" * 40 + "1 AS a" + ")" * 40
    with pytest.raises(QueryRefused, match="took more than 2 s"):
        ground.lake.engine.run(text, seconds=2)
    assert ground.lake.rows("SELECT COUNT(*) AS n FROM mlflow_otel_spans") == [{"n": 1}]


def test_a_huge_result_is_cut_off_at_once(ground: Ground) -> None:
    began = time.monotonic()
    answer = ground.lake.engine.run(
        "SELECT a.range FROM range(1000000) a, range(1000000) b", dialect="duckdb", max_rows=7
    )
    assert from_arrow(answer.content).num_rows == 7
    assert answer.truncated
    assert time.monotonic() - began < 5


def test_a_long_query_holds_up_no_other(ground: Ground) -> None:
    def run_long() -> None:
        with suppress(QueryRefused):
            ground.lake.engine.run(BOMBS[0], dialect="duckdb", seconds=4)

    bomb = threading.Thread(target=run_long)
    bomb.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert ground.lake.rows("SELECT COUNT(*) AS n FROM mlflow_otel_spans") == [{"n": 1}]
    assert time.monotonic() - began < 5
    bomb.join()


@pytest.mark.parametrize(
    ("query", "limits"),
    [
        ("SELECT 1", {"max_rows": 0}),
        ("SELECT 1", {"max_rows": 2_000_000}),
        ("SELECT 1", {"max_rows": True}),
        ("SELECT 1", {"seconds": 1e9}),
        ("SELECT 1", {"seconds": float("nan")}),
        ("SELECT 1", {"dialect": "mysql"}),
        ("", {}),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, {}),
        ("SELECT " + "1 + " * 20000 + "1", {}),
        ("\ud800", {}),
    ],
    ids=range(10),
)
def test_nonsense_is_refused(query: str, limits: dict[str, Any], ground: Ground) -> None:
    with pytest.raises(QueryRefused):
        ground.lake.engine.run(query, **limits)


def test_a_killed_process_is_replaced(ground: Ground) -> None:
    ground.lake.rows("SELECT 1")
    for process in running():
        process.kill()
    time.sleep(0.2)
    assert ground.lake.rows("SELECT COUNT(*) AS n FROM mlflow_otel_spans") == [{"n": 1}]
