"""A running Vedette that is killed and loses its read model scores everything once all the same."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import mlflow
import psutil
from deltalake import DeltaTable
from mlflow.genai.scorers import ScorerSamplingConfig, scorer

from running import RunningVedette
from scoring_support import spans_record
from vedette.scoring.sample import draw

EXPERIMENT = "0"
BUFFERS = {"trace_completion_buffer": 1.0, "session_completion_buffer": 2.0}
SESSIONS, TURNS = 10, 100
RATES = {"slow": 1.0, "half": 0.5, "turns": 1.0}


@scorer
def slow(outputs: Any) -> bool:
    """A score that takes a while."""
    import time

    time.sleep(0.03)
    return True


@scorer
def half(outputs: Any) -> bool:
    """A trivial score."""
    return True


@scorer
def turns(session: list[Any]) -> int:
    """How many turns a conversation has."""
    return len(session)


def send(vedette: RunningVedette, numbers: range, session: str | None = None) -> None:
    spans = (spans_record(EXPERIMENT, n, session=session, begun=n) for n in numbers)
    headers = {
        "x-mlflow-experiment-id": EXPERIMENT,
        "Content-Type": "application/x-protobuf",
    }
    body = b"".join(record.body for record in spans)
    request = urllib.request.Request(f"{vedette.url}/v1/traces", body, headers)
    urllib.request.urlopen(request, timeout=30).close()


def start_scorers(vedette: RunningVedette) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    try:
        for each in (slow, half, turns):
            each.register(experiment_id=EXPERIMENT).start(
                experiment_id=EXPERIMENT,
                sampling_config=ScorerSamplingConfig(sample_rate=RATES[each.name]),
            )
    finally:
        mlflow.set_tracking_uri(before)
    vedette.wait_until(lambda: len(vedette.health()["parts"]["workers"]["scorers"]) == len(RATES))


def units(vedette: RunningVedette) -> dict[str, int]:
    """How many units each scorer has decided."""
    with urllib.request.urlopen(f"{vedette.url}/api/scorers", timeout=30) as response:
        return {row["scorer"]: row["units"] for row in json.load(response)["scorers"]}


def kill(vedette: RunningVedette) -> None:
    """SIGKILL for everything, the engine first: it has no time for a last word."""
    parts = vedette.health()["parts"]
    family = psutil.Process(vedette.process.pid).children(recursive=True)
    os.kill(vedette.process.pid, signal.SIGSTOP)
    os.kill(parts["engine"]["pid"], signal.SIGKILL)
    vedette.process.kill()
    vedette.process.wait()
    for process in family:
        if process.is_running():
            process.kill()
    psutil.wait_procs(family, timeout=10)


def ledger(data: Path, sql: str) -> list[Any]:
    """What a query of the ledger's ``rows``, or of the ``newest`` of each decision, gives."""
    decisions = DeltaTable(data / "lake" / "main" / "default" / "mlflow_monitor_decisions")
    with duckdb.connect() as connection:
        connection.register("rows", decisions.to_pyarrow_dataset())
        connection.execute(
            "CREATE TEMP VIEW newest AS SELECT * FROM rows WHERE decision <> 'epoch' QUALIFY"
            " row_number() OVER (PARTITION BY decision_id ORDER BY record_id DESC) = 1"
        )
        return connection.execute(sql).fetchall()


def test_scorers_go_on_where_they_were(
    fresh_vedette: Callable[..., RunningVedette],
) -> None:
    vedette = fresh_vedette(**BUFFERS)
    start_scorers(vedette)
    firsts = range(1, SESSIONS * TURNS + 1, TURNS)
    for first in firsts:
        send(vedette, range(first, first + TURNS), f"s-{first}")
    vedette.wait_until(lambda: units(vedette)["turns"] == SESSIONS)
    vedette.wait_until(lambda: units(vedette)["slow"])
    late = range(SESSIONS * TURNS + 1, SESSIONS * TURNS + 11)
    send(vedette, late, "s-1")
    assert units(vedette)["slow"] < SESSIONS * TURNS
    kill(vedette)
    for file in vedette.data.glob("index.db*"):
        file.unlink()

    again = fresh_vedette(vedette.data, **BUFFERS)
    assert "Scorers go on where they were" in again.log.read_text()
    last = range(late.stop, late.stop + 10)
    send(again, last)
    traces = last.stop - 1
    expected = {"slow": traces, "half": traces, "turns": SESSIONS + 1}
    again.wait_until(
        lambda: all(units(again)[name] >= least for name, least in expected.items()), 180
    )
    time.sleep(1.0)  # there would be more, if anything came twice
    again.wait_until(lambda: again.health()["journal"]["backlog_bytes"] == 0)
    assert again.stop() == 0

    scored = dict(
        ledger(
            again.data,
            "SELECT scorer, count(*) FROM newest WHERE decision = 'scored' GROUP BY scorer",
        )
    )
    chosen = sum(draw(f"tr-{n:032x}") < RATES["half"] for n in range(1, traces + 1))
    assert scored == {**expected, "half": chosen}
    sums = "SELECT scorer, sum(units) FROM newest GROUP BY scorer"
    assert dict(ledger(again.data, sums)) == expected
    twice = "SELECT scorer, unit_id FROM rows WHERE unit_id IS NOT NULL GROUP BY scorer, unit_id,"
    assert ledger(again.data, f"{twice} revision HAVING count(*) > 1") == []
    revisions = "SELECT revision, count(*) FROM newest WHERE scorer = 'turns' GROUP BY revision"
    assert dict(ledger(again.data, revisions)) == {0: SESSIONS, 1: 1}
