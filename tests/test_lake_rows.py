"""A journal segment as rows of the tables."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from lake_support import DAY, JOURNAL, NEXT_DAY, span, spans_segment, trace_id
from vedette.intake.records import Record
from vedette.intake.spans import Resource
from vedette.lake.rows import SegmentRows
from vedette.lake.schemas import (
    ANNOTATIONS_SCHEMA,
    SPANS_SCHEMA,
    lake_trace_id,
    mlflow_trace_id,
)

SPEC_SPANS = (
    "record_id time date service_name trace_id span_id trace_state parent_span_id flags name kind "
    "start_time_unix_nano end_time_unix_nano attributes dropped_attributes_count events "
    "dropped_events_count links dropped_links_count status resource resource_schema_url "
    "instrumentation_scope span_schema_url"
)
SPEC_ANNOTATIONS = (
    "annotation_id target_type target_id annotation_type name value comment metadata created_at "
    "created_by updated_at updated_by deleted_at deleted_by"
)
TRACE = trace_id(1)
BARE = TRACE.removeprefix("tr-")


def annotations(*records: Record) -> list[dict[str, Any]]:
    rows = SegmentRows(JOURNAL, 1)
    for offset, record in enumerate(records):
        rows.add(record, offset)
    return rows.annotations().to_pylist()


def assessment(**fields: Any) -> dict[str, Any]:
    return {
        "assessment_id": "a-1",
        "trace_id": TRACE,
        "name": "helpful",
        "assessment_type": "feedback",
        "value": "true",
        "error": None,
        "created_timestamp": DAY - 5,
        "last_updated_timestamp": DAY - 4,
        "source_type": "HUMAN",
        "source_id": "ann",
        "run_id": None,
        "span_id": None,
        "rationale": "because",
        "overrides": None,
        "valid": True,
        "assessment_metadata": '{"k":"v"}',
        "aggregate_value": 1.0,
        "is_numeric_value": False,
        **fields,
    }


def time_at(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_cursors_of_a_segment_are_the_last_of_each_scorer() -> None:
    def decisions(scorer: str, **fields: Any) -> Record:
        rows: dict[str, Any] = {"cursor": None, "epochs": [], "decisions": [], "counts": []}
        return Record("decisions", DAY, {"scorer": scorer, **rows, "put": [], **fields})

    rows = SegmentRows(JOURNAL, 1)
    for offset, record in enumerate(
        [
            decisions("1/on", arrived_until=DAY),
            decisions("1/stopped", arrived_until=DAY),
            decisions("1/on", arrived_until=DAY + 5),
            decisions("1/stopped", arrived_until=None),
            decisions("1/of older code"),
        ]
    ):
        rows.add(record, offset)
    assert rows.cursors() == {"scorer/1/on": DAY + 5, "scorer/1/stopped": 0}
    assert rows.decisions().num_rows == 0


def test_the_documented_columns_come_first_and_in_order() -> None:
    assert " ".join(SPANS_SCHEMA.names).startswith(SPEC_SPANS + " ")
    assert " ".join(ANNOTATIONS_SCHEMA.names).startswith(SPEC_ANNOTATIONS + " ")


@pytest.mark.parametrize("mlflow_id", [TRACE, "tr-short", "my trace", "tr-" + "A" * 32])
def test_trace_ids_come_back_from_the_lake_as_they_were(mlflow_id: str) -> None:
    assert mlflow_trace_id(lake_trace_id(mlflow_id)) == mlflow_id


def test_a_span_keeps_everything_it_has() -> None:
    event = {
        "time_unix_nano": 5,
        "name": "exception",
        "attributes": '{"a":1}',
        "dropped_attributes_count": 2,
    }
    link = {
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
        "trace_state": "x",
        "attributes": "{}",
        "dropped_attributes_count": 0,
        "flags": 1,
    }
    sent = span(
        1,
        "tool",
        status_code="ERROR",
        status_message="broken",
        events=[event],
        links=[link],
        cost={"input_cost": 0.25, "total_cost": 1},
        model_name="m",
        model_provider="p",
        span_type="TOOL",
        resource=Resource(
            attributes='{"service.name":"s"}',
            dropped_attributes_count=3,
            schema_url="u",
            service_name="s",
            scope_name="sn",
            scope_version="sv",
            scope_attributes='{"x":1}',
            scope_dropped_attributes_count=4,
            span_schema_url="su",
        ),
    )
    (row,) = spans_segment(9, sent, at=DAY + 1).to_pylist()
    assert row["record_id"] == f"{DAY + 1:011x}-{JOURNAL}-00000009-00000000-00000"
    assert row["trace_id"] == BARE
    assert row["time"] == time_at(DAY)
    assert row["date"] == row["arrival_date"] == date(2026, 1, 1)
    assert row["received_at"] == time_at(DAY + 1)
    assert row["events"] == [event]
    assert row["links"] == [link]
    assert row["status"] == {"message": "broken", "code": "STATUS_CODE_ERROR"}
    assert row["resource"] == {"attributes": '{"service.name":"s"}', "dropped_attributes_count": 3}
    assert row["instrumentation_scope"] == {
        "name": "sn",
        "version": "sv",
        "attributes": '{"x":1}',
        "dropped_attributes_count": 4,
    }
    assert (row["resource_schema_url"], row["span_schema_url"]) == ("u", "su")
    assert (row["service_name"], row["experiment_id"]) == ("s", "7")
    assert (row["input_cost"], row["output_cost"], row["total_cost"]) == (0.25, None, 1.0)
    assert (row["model_name"], row["model_provider"], row["span_type"]) == ("m", "p", "TOOL")


def test_a_running_span_has_no_end() -> None:
    (row,) = spans_segment(1, span(1, end_ns=None)).to_pylist()
    assert row["end_time_unix_nano"] is None


def test_numbers_beyond_deltas_become_the_largest() -> None:
    sent = span(
        1, flags=2**32 - 1, dropped_events_count=2**31, start_ns=2**64 - 1, end_ns=2**64 - 1
    )
    (row,) = spans_segment(1, sent).to_pylist()
    assert row["flags"] == row["dropped_events_count"] == 2**31 - 1
    assert row["start_time_unix_nano"] == row["end_time_unix_nano"] == 2**63 - 1


def test_odd_values_do_not_stop_the_segment() -> None:
    sent = span(1, span_type="\ud800", cost={"total_cost": 10**400, "input_cost": "1e3"})
    (row,) = spans_segment(1, sent).to_pylist()
    assert row["span_type"] == "?"
    assert (row["total_cost"], row["input_cost"]) == (None, 1000.0)


def test_a_replayed_segment_gives_the_same_rows() -> None:
    spans = [span(n, name) for n in range(5) for name in ("root", "tool")]
    assert spans_segment(3, *spans).equals(spans_segment(3, *spans))


def test_record_ids_sort_by_arrival() -> None:
    rows = SegmentRows(JOURNAL, 2)
    for offset, at in ((0, DAY), (100, DAY), (4096, DAY + 1)):
        rows.add(Record("spans", at, {"experiment_id": "7"}), offset, [span(1), span(2)])
    ids = rows.spans()["record_id"].to_pylist()
    assert ids == sorted(ids)
    assert len(set(ids)) == 6


def test_a_segment_over_midnight_has_two_days_of_arrival() -> None:
    rows = SegmentRows(JOURNAL, 1)
    for at in (NEXT_DAY - 1, NEXT_DAY):
        rows.add(Record("spans", at, {"experiment_id": "7"}), 0, [span(1)])
    assert rows.spans()["arrival_date"].to_pylist() == [date(2026, 1, 1), date(2026, 1, 2)]


def test_start_trace_gives_metadata_tags_and_assessments() -> None:
    header = {
        "trace_id": TRACE,
        "experiment_id": "7",
        "request_time": DAY,
        "execution_duration": 5,
        "state": "OK",
        "client_request_id": "c",
        "request_preview": "q",
        "response_preview": "a",
        "tags": {"env": "prod"},
        "metadata": {"mlflow.trace.session": "s"},
        "assessments": [assessment()],
    }
    metadata, tag, feedback = annotations(Record("start_trace", DAY, {"trace": header}))
    assert metadata["annotation_id"] == sha(f"{BARE}:metadata")
    assert (metadata["annotation_type"], metadata["target_id"]) == ("METADATA", BARE)
    value = json.loads(metadata["value"])
    assert value["trace_metadata"] == {"mlflow.trace.session": "s"}
    assert value["client_request_id"] == "c"
    assert not {"tags", "assessments", "trace_id"} & set(value)
    assert tag["annotation_id"] == sha(f"{BARE}:tag:env")
    assert (tag["name"], tag["value"]) == ("env", '"prod"')
    assert feedback["annotation_id"] == "a-1"


def test_an_assessment_keeps_what_it_is() -> None:
    sent = assessment(span_id="cd" * 8, overrides="a-0", valid=False, error='{"error_code":"E"}')
    (row,) = annotations(Record("assessments", DAY, {"put": [sent]}))
    assert row["target_type"] == "SPAN"
    assert row["target_id"] == f"{BARE}:{'cd' * 8}"
    assert (row["annotation_type"], row["name"], row["value"]) == ("FEEDBACK", "helpful", "true")
    assert (row["comment"], row["metadata"]) == ("because", '{"k":"v"}')
    assert row["created_by"] == row["updated_by"] == "ann"
    assert row["created_at"] == time_at(DAY - 5)
    assert row["updated_at"] == row["received_at"] == time_at(DAY)
    assert row["last_updated_at"] == time_at(DAY - 4)
    assert (row["source_type"], row["overrides"], row["valid"]) == ("HUMAN", "a-0", False)
    assert row["error"] == '{"error_code":"E"}'
    assert row["deleted_at"] is None


def test_deleting_appends_a_row_that_says_so() -> None:
    rows = annotations(
        Record("set_tag", DAY, {"trace_id": TRACE, "key": "env", "value": "prod"}),
        Record("delete_tag", DAY + 1, {"trace_id": TRACE, "key": "env"}),
        Record("assessments", DAY + 2, {"delete": [[TRACE, "a-1"]]}),
        Record("delete_traces", DAY + 3, {"trace_ids": [TRACE]}),
        Record("unlink_run", DAY + 4, {"trace_ids": [TRACE], "run_id": "r"}),
    )
    assert [row["deleted_at"] for row in rows] == [
        None,
        *(time_at(DAY + after) for after in (1, 2, 3, 4)),
    ]
    assert rows[0]["annotation_id"] == rows[1]["annotation_id"] == sha(f"{BARE}:tag:env")
    assert rows[2]["annotation_id"] == "a-1"
    assert rows[3]["annotation_id"] == sha(f"{BARE}:metadata")
    assert all(row["updated_at"] >= row["created_at"] for row in rows)


def test_the_later_of_two_writes_in_one_millisecond_is_the_newer() -> None:
    rows = annotations(
        *(
            Record("set_tag", DAY, {"trace_id": TRACE, "key": "env", "value": value})
            for value in ("a", "b", "c")
        )
    )
    assert rows[0]["updated_at"] < rows[1]["updated_at"] < rows[2]["updated_at"]
    assert rows[2]["value"] == '"c"'


def test_spans_sent_from_a_run_link_their_traces_to_it() -> None:
    rows = SegmentRows(JOURNAL, 1)
    record = Record("spans", DAY, {"experiment_id": "7", "run_id": "r"})
    rows.add(record, 0, [span(1), span(1, "tool"), span(2, "tool")])
    (link,) = rows.annotations().to_pylist()
    assert (link["annotation_type"], link["target_id"]) == ("RUN_LINK", BARE)
    assert link["value"] == '"r"'


def test_links_to_runs_and_prompts() -> None:
    run, prompt = annotations(
        Record("link_run", DAY, {"trace_ids": [TRACE], "run_id": "r"}),
        Record("link_prompts", DAY, {"trace_id": TRACE, "prompts": ["greeting/2"]}),
    )
    assert (run["annotation_type"], run["value"]) == ("RUN_LINK", '"r"')
    assert (prompt["annotation_type"], prompt["value"]) == ("PROMPT_LINK", '"greeting/2"')


def test_a_record_that_makes_no_sense_is_left_out_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = annotations(
        Record("no such kind", DAY),
        Record("set_tag", DAY, {"trace_id": TRACE}),
        Record("assessments", DAY, {"put": [assessment(name=3)]}),
        Record("assessments", DAY, {"put": [assessment(created_timestamp=10**30)]}),
        Record("set_tag", DAY, {"trace_id": TRACE, "key": "env", "value": "prod"}),
    )
    assert [row["annotation_type"] for row in rows] == ["FEEDBACK", "TAG"]
    assert len(caplog.records) == 3
