"""What a query reads: one version of the tables, whatever happens to them meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lake_support import DAY, JOURNAL, compactor
from sql_support import MINUTE, RowsLake, hour_ago
from telemetry_support import log_request, metric_request
from vedette.intake.records import Record
from vedette.lake.row_tables import table_of
from vedette.lake.rows import SegmentRows
from vedette.lake.schemas import PARTITION
from vedette.lake.sql.engine import SqlEngine
from vedette.lake.sql.formats import from_arrow
from vedette.lake.sql.names import TABLES
from vedette.lake.storage import LakeUnavailable
from vedette.lake.table import Lake

COUNT = "SELECT COUNT(*) AS rows, COUNT(DISTINCT trace_id) AS traces FROM mlflow_otel_spans"


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[RowsLake]:
    made = RowsLake(tmp_path)
    yield made
    made.engine.close()


def test_a_lake_without_tables_has_empty_ones(lake: RowsLake) -> None:
    for table in TABLES:
        assert lake.rows(f"SELECT * FROM main.default.{table}") == []
    for view in ("mlflow_trace_unified", "mlflow_trace_metadata"):
        assert lake.rows(f"SELECT * FROM main.default.{view}") == []


def test_logs_and_metrics_are_queried_like_the_rest(lake: RowsLake) -> None:
    rows = SegmentRows(JOURNAL, 1)
    rows.add(Record("logs", DAY, {"experiment_id": "7"}, log_request()), 0)
    rows.add(Record("metrics", DAY, {"experiment_id": "7"}, metric_request()), 512)
    assert lake.lake.logs.append_segment(JOURNAL, 1, rows.logs())
    assert lake.lake.metrics.append_segment(JOURNAL, 1, rows.metrics())
    assert lake.rows(
        "SELECT body, attributes:order::INT AS number, instrumentation_scope.name AS scope"
        " FROM mlflow_otel_logs WHERE severity_number = 'SEVERITY_NUMBER_WARN' ORDER BY time"
    ) == [{"body": f'"late {n}"', "number": n, "scope": "agent"} for n in range(3)]
    assert lake.rows(
        "SELECT name, sum.value AS value, sum.attributes:model::STRING AS model"
        " FROM mlflow_otel_metrics WHERE metric_type = 'sum'"
    ) == [{"name": "calls", "value": 4.0, "model": "m"}]
    assert lake.rows(
        "SELECT histogram.bucket_counts[1] AS counted, size(histogram.explicit_bounds) AS bounds"
        " FROM main.default.mlflow_otel_metrics WHERE name = 'seconds'"
    ) == [{"counted": 2, "bounds": 2}]


def test_a_query_sees_what_was_committed_before_it(lake: RowsLake) -> None:
    for number in range(5):
        lake.span(number, hour_ago(1))
        lake.commit()
        assert lake.rows(COUNT) == [{"rows": number + 1, "traces": number + 1}]


def test_the_columns_are_the_table_s(lake: RowsLake) -> None:
    lake.span(1, hour_ago(1))
    lake.commit()
    table = lake.table("SELECT * FROM mlflow_otel_spans")
    assert table.column_names == lake.lake.spans.spec.schema.names
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("arrival_date").type == pa.date32()
    assert table["arrival_date"].to_pylist() == [table["received_at"][0].as_py().date()]


def test_files_that_compaction_has_replaced_are_not_read(lake: RowsLake, tmp_path: Path) -> None:
    for number in range(20):
        lake.span(number, hour_ago(1) + number)
        lake.commit()
    assert compactor(lake.lake.spans, tmp_path).merge_small() is not None
    files = list(Path(lake.lake.spans.storage.uri).rglob("*.parquet"))
    assert len([file for file in files if "_delta_log" not in str(file)]) > 20
    assert lake.rows(COUNT) == [{"rows": 20, "traces": 20}]


IDS = ("record_id", "span_id", "annotation_id", "decision_id")


def text_columns(schema: pa.Schema) -> list[str]:
    """The texts of a table, also in structs, that may be NULL."""
    found = [field.name for field in schema if pa.types.is_string(field.type)]
    for field in schema:
        if pa.types.is_struct(field.type):
            found += [
                f"{field.name}.{part.name}" for part in field.type if part.type == pa.string()
            ]
    return [name for name in found if name not in IDS]


def test_null_is_told_from_a_text_that_is_always_the_same(lake: RowsLake, tmp_path: Path) -> None:
    """Which DuckDB 2.0 does not, see `vedette.lake.storage.parquet_options`."""
    for table in lake.lake.tables:
        schema = table.spec.schema
        texts = text_columns(schema)
        for segment in range(20):
            rows: list[dict[str, Any]] = []
            for number in range(6):
                row: dict[str, Any] = dict.fromkeys(IDS, f"{segment}-{number}")
                row |= {"received_at": 0, PARTITION: 0, "attempts": 1, "events": [], "links": []}
                for name in texts:
                    place, _, part = name.rpartition(".")
                    (row.setdefault(place, {}) if place else row)[part] = (
                        "same" if number < 2 else None
                    )
                rows.append({name: row.get(name) for name in schema.names})
            table.append_segment(JOURNAL, segment + 1, table_of(rows, schema))
        counts = ", ".join(
            f"(SELECT COUNT(*) FROM {table.spec.name} WHERE {name} IS NULL) AS `{name}`"
            for name in texts
        )
        assert lake.rows(f"SELECT {counts}") == [dict.fromkeys(texts, 80)]
        assert compactor(table, tmp_path).merge_small() is not None
        assert lake.rows(f"SELECT {counts}") == [dict.fromkeys(texts, 80)]


def test_a_file_that_nothing_refers_to_is_not_read(lake: RowsLake) -> None:
    lake.span(1, hour_ago(1))
    lake.commit()
    (file,) = Path(lake.lake.spans.storage.uri).rglob("part-*.parquet")
    (file.parent / "part-of-a-commit-that-failed.parquet").write_bytes(file.read_bytes())
    assert lake.rows(COUNT) == [{"rows": 1, "traces": 1}]


def test_counts_stay_right_while_tables_are_written_and_compacted(
    lake: RowsLake, tmp_path: Path
) -> None:
    written = threading.Event()

    def write() -> None:
        for number in range(40):
            lake.span(number, hour_ago(1) + number)
            lake.feedback(number, hour_ago(1) + number, "polite", True)
            lake.commit()
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not written.is_set():
        (row,) = lake.rows(COUNT)
        assert row["rows"] == row["traces"] >= seen
        seen = row["rows"]
        # What a score speaks of is there
        assert (
            lake.rows(
                "SELECT target_id FROM mlflow_otel_annotations"
                " WHERE target_id NOT IN (SELECT trace_id FROM mlflow_otel_spans)"
            )
            == []
        )
        compactor(lake.lake.spans, tmp_path).merge_small()
    writer.join()
    assert lake.rows(COUNT) == [{"rows": 40, "traces": 40}]


def test_several_queries_at_the_same_time(lake: RowsLake) -> None:
    for number in range(3):
        lake.span(number, hour_ago(1))
    lake.commit()
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(lake.rows(COUNT))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[{"rows": 3, "traces": 3}]] * 6


def test_a_data_directory_with_an_unusual_name(tmp_path: Path) -> None:
    lake = RowsLake(tmp_path / "it's env=prod data")
    lake.span(1, hour_ago(1))
    lake.commit()
    assert lake.rows(COUNT) == [{"rows": 1, "traces": 1}]
    assert "env" not in lake.table("SELECT * FROM mlflow_otel_spans").column_names
    lake.engine.close()


def test_a_lake_that_can_t_be_read_is_said_to_be(lake: RowsLake, tmp_path: Path) -> None:
    lake.span(1, hour_ago(1))
    lake.commit()
    (file,) = Path(lake.lake.spans.storage.uri).rglob("part-*.parquet")
    file.unlink()
    with pytest.raises(LakeUnavailable):
        lake.rows("SELECT name FROM mlflow_otel_spans")
    nowhere = Lake(str(tmp_path / "gone"), tmp_path / "state", {})
    engine = SqlEngine(nowhere)
    answer = engine.run("SELECT COUNT(*) AS n FROM mlflow_otel_spans")
    assert from_arrow(answer.content).to_pylist() == [{"n": 0}]
    engine.close()


def test_a_result_has_as_many_rows_as_were_asked_for(lake: RowsLake) -> None:
    for number in range(10):
        lake.span(number, hour_ago(1) + number * MINUTE)
    lake.commit()
    query = "SELECT trace_id FROM mlflow_otel_spans ORDER BY time"
    for most, truncated in ((9, True), (10, False), (11, False)):
        answer = lake.engine.run(query, max_rows=most)
        assert from_arrow(answer.content).num_rows == min(most, 10)
        assert answer.truncated is truncated
