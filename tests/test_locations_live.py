"""Locations of a whole Vedette, as developers and analysts use them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from typing import Any

import mlflow
import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient
from mlflow.entities import UnityCatalog
from mlflow.exceptions import MlflowException
from mlflow.genai.scorers import ScorerSamplingConfig, scorer

import vedette as api
from running import RunningVedette
from test_fold import spans_record


@scorer
def polite(outputs: Any) -> bool:
    """Whatever was asked."""
    return outputs is not None


def make_trace(question: str) -> str:
    with mlflow.start_span("agent") as span:
        span.set_inputs({"question": question})
        span.set_outputs({"answer": question.upper()})
    mlflow.flush_trace_async_logging()
    return str(span.trace_id)


def rows(vedette: RunningVedette, place: UnityCatalog, table: str) -> list[dict[str, Any]]:
    """All rows of a table, read without our code; none if there is no such table."""
    path = vedette.data / "lake" / place.catalog_name / place.schema_name
    path /= f"{place.table_prefix}_{table}"
    if not (path / "_delta_log").exists():
        return []
    found: list[dict[str, Any]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return found


def test_an_experiment_with_a_location_of_its_own(vedette: RunningVedette, experiment: str) -> None:
    elsewhere = make_trace("by default")
    prefix = f"t{uuid.uuid4().hex[:8]}"
    place = UnityCatalog("shop", "prod", prefix)
    first = api.set_experiment(f"{prefix}-a", trace_location=place)
    assert first.trace_location == place
    assert api.set_experiment(f"{prefix}-a").trace_location == place
    assert api.set_experiment(f"{prefix}-a", trace_location=place).name == f"{prefix}-a"
    polite.register(name="polite").start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    one = make_trace("one")
    second = api.set_experiment(f"{prefix}-b", trace_location=place)  # they share it
    two = make_trace("two")
    mlflow.log_feedback(trace_id=two, name="user_feedback", value=True)

    ids = [first.experiment_id, second.experiment_id]
    found = mlflow.search_traces(locations=ids, return_type="list")
    assert {trace.info.trace_id for trace in found} == {one, two}
    assert [len(trace.data.spans) for trace in found] == [1, 1]
    found = mlflow.search_traces(locations=[*ids, experiment], return_type="list")
    assert {trace.info.trace_id for trace in found} == {one, two, elsewhere}

    vedette.wait_until(lambda: len(rows(vedette, place, "otel_spans")) == 2)
    spans = rows(vedette, place, "otel_spans")
    assert {row["experiment_id"]: f"tr-{row['trace_id']}" for row in spans} == {
        first.experiment_id: one,
        second.experiment_id: two,
    }

    def scored() -> bool:
        names = {row["name"] for row in rows(vedette, place, "otel_annotations")}
        decided = [row["decision"] for row in rows(vedette, place, "monitor_decisions")]
        return {"polite", "user_feedback"} <= names and {"epoch", "scored"} <= set(decided)

    vedette.wait_until(scored)
    by_default = rows(vedette, UnityCatalog("main", "default", "mlflow"), "otel_annotations")
    assert not {row["target_id"] for row in by_default} & {one[3:], two[3:]}
    assert elsewhere[3:] in {row["target_id"] for row in by_default}
    table = api.sql(f"SELECT trace_id, assessments FROM shop.prod.{prefix}_trace_unified")
    assert {row["trace_id"]: len(row["assessments"]) for row in table.to_pylist()} == {
        one[3:]: 1,
        two[3:]: 1,
    }

    located = f"trace:/shop.prod.{prefix}/{one[3:]}"
    assert mlflow.get_trace(located).info.trace_id == one
    nowhere = f"trace:/shop.prod.other/{one[3:]}"
    assert MlflowClient()._tracing_client.store.batch_get_traces([nowhere]) == []
    MlflowClient().delete_traces(first.experiment_id, trace_ids=[located])
    assert mlflow.search_traces(locations=ids[:1], return_type="list") == []


def test_what_is_refused_leaves_everything_as_it_was(
    vedette: RunningVedette, experiment: str
) -> None:
    make_trace("by default")
    place = UnityCatalog("shop", "prod", f"t{uuid.uuid4().hex[:8]}")
    with pytest.raises(MlflowException, match="has traces already") as refused:
        api.set_experiment(experiment_id=experiment, trace_location=place)
    assert refused.value.error_code == "RESOURCE_CONFLICT"
    fresh = uuid.uuid4().hex
    with pytest.raises(MlflowException, match="can't be used"):
        api.set_experiment(fresh, trace_location=UnityCatalog("a b", "prod"))
    assert MlflowClient().get_experiment_by_name(fresh) is None
    with pytest.raises(MlflowException, match=r"must be a mlflow\.entities\.UnityCatalog"):
        api.set_experiment(fresh, trace_location="shop.prod.agent")
    with pytest.raises(MlflowException, match="exactly one of"):
        api.set_experiment(trace_location=place)
    bound = api.set_experiment(fresh, trace_location=UnityCatalog("shop", "prod"))
    assert bound.trace_location == UnityCatalog("shop", "prod", bound.experiment_id)
    mlflow.set_experiment(experiment_id=experiment)
    with pytest.raises(MlflowException, match="take another experiment"):
        api.set_experiment(fresh, trace_location=place)
    assert mlflow.tracking.fluent._get_experiment_id() == experiment


def test_an_exporter_that_names_a_table(vedette: RunningVedette, experiment: str) -> None:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    place = UnityCatalog("shop", "prod", prefix)
    bound = api.set_experiment(prefix, trace_location=place)
    number = uuid.uuid4().int
    request = urllib.request.Request(
        f"{vedette.url}/api/2.0/otel/v1/traces",
        spans_record(number, "root").body,
        {
            "content-type": "application/x-protobuf",
            "X-Databricks-UC-Table-Name": f"shop.prod.{prefix}_otel_spans",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    (trace,) = mlflow.search_traces(locations=[bound.experiment_id], return_type="list")
    assert trace.info.trace_id == f"tr-{number:032x}"
    vedette.wait_until(lambda: len(rows(vedette, place, "otel_spans")) == 1)


def test_bad_requests_are_told(vedette: RunningVedette, experiment: str) -> None:
    for body in (b"{", b"[]", b"{}", b"[" * 10_000, b'{"catalog_name": 1, "schema_name": "x"}'):
        request = urllib.request.Request(
            f"{vedette.url}/api/trace-locations/{experiment}", body, method="PUT"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code == 400
        assert json.load(refused.value)["error_code"] == "INVALID_PARAMETER_VALUE"
