"""Traces, and a scoring plane on a directory of its own, for the tests of scoring."""

from __future__ import annotations

import json
from typing import Any

from vedette.scoring.active import ActiveScorer
from vedette.scoring.pool import Unit

SPAN = {
    "trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==",
    "span_id": "AAAAAAAAAAE=",
    "parent_span_id": None,
    "name": "root",
    "start_time_unix_nano": 1_700_000_000_000_000_000,
    "end_time_unix_nano": 1_700_000_000_500_000_000,
    "status": {"code": "STATUS_CODE_OK", "message": ""},
    "events": [],
}


def unit(number: int, outputs: Any = "fine") -> Unit:
    """A trace with the number as input."""
    trace_id = f"tr-{number:032x}"
    attributes = {
        "mlflow.traceRequestId": json.dumps(trace_id),
        "mlflow.spanInputs": json.dumps(number),
        "mlflow.spanOutputs": json.dumps(outputs),
    }
    trace = {
        "info": {
            "trace_id": trace_id,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": "1"},
            },
            "request_time": "2024-01-01T00:00:00Z",
            "state": "OK",
        },
        "data": {"spans": [{**SPAN, "attributes": attributes}]},
    }
    return Unit(trace_id, json.dumps(trace).encode())


def code(body: str, *, name: str = "probe", timeout: float | None = None) -> ActiveScorer:
    """A registered scorer function of ``inputs`` and ``outputs`` with this body."""
    serialized = {
        "name": name,
        "call_source": body,
        "call_signature": "(inputs, outputs)",
        "original_func_name": name,
        "timeout": timeout,
        "mlflow_version": "3.17.2",
        "serialization_version": 1,
        "is_session_level_scorer": False,
    }
    return ActiveScorer("1", name, 1, json.dumps(serialized), 1.0)
