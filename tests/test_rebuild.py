"""The read model made anew from lake and journals is the one that was lost."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lake_support import compactor
from otlp_strategies import fill_attributes
from power_cut import PowerCut
from telemetry_support import log_request, metric_request
from vedette import rebuild
from vedette.health import Health
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Position, Record
from vedette.intake.segments import frame
from vedette.lake import arrivals
from vedette.lake.arrivals import count_rows
from vedette.lake.storage import Storage
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.processes import write_state
from vedette.readiness import rebuild_state
from vedette.rebuild import Rebuild, Stopped
from vedette.scoring.completion import Completion, completed_after, newest_position
from vedette.scoring.epochs import stored_epochs
from vedette.settings import Settings
from vedette.traces.columns import Columns
from vedette.traces.fold import decoded
from vedette.traces.index import VERSION, IndexUnavailable, TraceIndex, why_unusable

NOW = 1_767_300_000_000  # ms
BUFFER_MS = 5
TRACES = 4
TEXTS = ["prod", "dev", "", "100%", "ünï ☃", 'it\'s "quoted"']
RUNS = ["run-1", "run-2"]
JOURNALS = ("server", "engine")
ENGINES = ("assessments", "decisions")  # what the engine writes, too

# What may differ: numbers of rows are given in the order of folding, which leaves out a trace that
# is made and deleted in one batch; and how far completion and scorers were is not in the lake.
MAY_DIFFER = {"traces": {"id", "completed_ms"}, "scorer_epochs": {"after_position"}}
TABLES = [
    "traces",
    "trace_previews",
    "trace_tags",
    "trace_metadata",
    "spans",
    "assessments",
    "run_links",
    "prompt_links",
    "decisions",
    "decision_counts",
    "scorer_epochs",
    "scorer_costs",
]


def content(index: TraceIndex, differing: Set[str] = frozenset()) -> dict[str, list[Any]]:
    """All a read model holds but what may differ; assessments in the order in which they came."""
    connection = index.connection()
    names = dict(connection.execute("SELECT id, trace_id FROM traces"))
    found: dict[str, list[Any]] = {}
    for table in TABLES:
        order = " ORDER BY created_timestamp, rowid" if table == "assessments" else ""
        cursor = connection.execute(f"SELECT * FROM {table}{order}")
        columns = [column[0] for column in cursor.description]
        rows = []
        for row in cursor:
            values = dict(zip(columns, row, strict=True))
            for column in MAY_DIFFER.get(table, set()) | set(differing):
                values.pop(column, None)
            if "trace" in values:
                values["trace"] = names[values["trace"]]
            rows.append(values)
        found[table] = rows if order else sorted(rows, key=repr)
    return found


# Histories


def trace_id(trace: int) -> str:
    return f"tr-{trace + 1:032x}"


@st.composite
def spans(draw: st.DrawFn) -> dict[str, Any]:
    """A request with spans of some traces, perhaps sent before, perhaps of a run."""
    places = draw(
        st.lists(
            st.tuples(st.integers(0, TRACES - 1), st.integers(0, 3)),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    text = st.sampled_from(TEXTS)
    attributes = st.fixed_dictionaries(
        {},
        optional={
            "mlflow.spanType": st.sampled_from(["AGENT", "TOOL"]),
            "gen_ai.operation.name": st.sampled_from(["chat", "odd"]),
            "mlflow.spanInputs": st.dictionaries(st.sampled_from(["q", "é"]), text).map(json.dumps),
            "mlflow.spanOutputs": text.map(json.dumps) | st.just("x" * 1200),
            "gen_ai.usage.input_tokens": st.integers(0, 99),
            "gen_ai.usage.output_tokens": st.integers(0, 99),
            "mlflow.llm.cost": st.just('{"input_cost": 0.25, "total_cost": 0.5}'),
            "mlflow.llm.model": st.sampled_from(['"gpt"', "gpt-4o-mini"]),
            "session.id": st.sampled_from(["s-1", "s-2", "", 7]),
            "user.id": text,
            "mlflow.traceTag.env": text,
            "mlflow.traceTag.mlflow.traceName": text,
            "plain": text | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans(),
        },
    )
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    resource = draw(st.dictionaries(st.sampled_from(["env", "team"]), text | st.booleans()))
    fill_attributes(group.resource.attributes, resource)
    scope = group.scope_spans.add()
    for trace, number in places:
        span = scope.spans.add(
            trace_id=(trace + 1).to_bytes(16),
            span_id=(number + 1).to_bytes(8),
            parent_span_id=b"" if number == 0 else draw(st.integers(1, 9)).to_bytes(8),
            name=draw(st.sampled_from(["agent", "näme", ""])),
            start_time_unix_nano=(NOW + draw(st.integers(-5, 5))) * 1_000_000 + 7,
        )
        if (took := draw(st.sampled_from([None, 0, 1, 1500]))) is not None:
            span.end_time_unix_nano = span.start_time_unix_nano + took * 1_000_000
        span.status.code = draw(st.sampled_from([0, 1, 2]))
        fill_attributes(span.attributes, draw(attributes))
        span.events.add(name="event", time_unix_nano=1)
    fields = {"experiment_id": draw(st.sampled_from(["1", "2"]))}
    fields["run_id"] = draw(st.sampled_from([None, None, *RUNS]))
    return {"kind": "spans", "body": request.SerializeToString(), **fields}


def assessments_of(trace: int) -> st.SearchStrategy[dict[str, Any]]:
    value = st.sampled_from([True, 0.5, "good", None, {"a": [1]}])

    def row(drawn: dict[str, Any]) -> dict[str, Any]:
        from mlflow.store.tracking.utils.trace_analytics import assessment_aggregate

        aggregate, numeric = assessment_aggregate(drawn["value"])
        kind = drawn["assessment_type"]
        return {
            **drawn,
            "value": json.dumps(drawn["value"]),
            "trace_id": trace_id(trace),
            "error": '{"error_code": "X"}' if drawn["value"] is None else None,
            "last_updated_timestamp": drawn["created_timestamp"] + 1,
            "source_type": "CODE",
            "name": f"{kind}-name",
            "aggregate_value": aggregate,
            "is_numeric_value": numeric,
        }

    return st.fixed_dictionaries(
        {
            "assessment_id": st.sampled_from([f"a-{trace}-{n}" for n in range(3)]),
            "assessment_type": st.sampled_from(["feedback", "expectation", "issue"]),
            "value": value,
            "created_timestamp": st.integers(NOW, NOW + 2),
            "source_id": st.sampled_from([None, "ada"]),
            "run_id": st.sampled_from([None, *RUNS]),
            "span_id": st.sampled_from([None, f"{1:016x}"]),
            "rationale": st.sampled_from([None, *TEXTS]),
            "overrides": st.sampled_from([None, f"a-{trace}-0"]),
            "valid": st.booleans(),
            "assessment_metadata": st.sampled_from([None, '{"mlflow.trace.session": "s-1"}']),
        }
    ).map(row)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def decision_of(trace: int) -> st.SearchStrategy[dict[str, Any]]:
    """A decision on a trace; one of each number of attempts, as a scorer makes them."""
    times, counts = st.integers(NOW, NOW + 9), st.integers(0, 5)
    return st.fixed_dictionaries(
        {
            "unit_id": st.just(trace_id(trace)),
            "unit_type": st.just("trace"),
            "trace_id": st.just(trace_id(trace)),
            "revision": st.just(0),
            "version": st.integers(1, 2),
            "epoch": st.integers(1, 2),
            "stratum": st.integers(-1, 1),
            "inclusion_probability": st.sampled_from([0.2, 1.0]),
            "draw": st.just(0.125),
            "decision": st.sampled_from(["scored", "failed", "retrying"]),
            "scores": st.just("[]"),
            "error_code": optional(st.just("X")),
            "error": optional(st.sampled_from(TEXTS)),
            "attempts": st.integers(1, 9),
            "first_attempt_ms": optional(times),
            "next_attempt_ms": optional(times),
            "milliseconds": optional(st.just(1.5)),
            "worker": optional(st.just("pid 1")),
            "model": optional(st.just("openai:/x")),
            "calls": counts,
            "input_tokens": optional(counts),
            "output_tokens": optional(counts),
            "cost_usd": optional(st.just(0.25)),
            "completed_ms": times,
            "decided_ms": times,
            "origin": st.just("live"),
        }
    )


def counts() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "epoch": st.integers(1, 2),
            "stratum": st.just(-1),
            "hour_ms": st.sampled_from([NOW - NOW % 3_600_000]),
            "decision": st.sampled_from(["not_selected", "filtered"]),
            "units": st.integers(-2, 9).filter(bool),
        }
    )


def epochs() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "epoch": st.integers(1, 3),
            "opened_ms": st.just(NOW),
            "after_position": st.integers(0, 9),
            "version": st.integers(1, 2),
            "rate": st.sampled_from([0.2, 1.0]),
            "filter": optional(st.just("trace.status = 'OK'")),
            "strata": st.sampled_from([[], [["trace.status = 'ERROR'", 1.0]]]),
            "reason": st.just("started"),
        }
    )


@st.composite
def start(draw: st.DrawFn) -> dict[str, Any]:
    trace, text = draw(st.integers(0, TRACES - 1)), st.sampled_from(TEXTS)
    usage = '{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}'
    metadata = st.fixed_dictionaries(
        {},
        optional={
            "mlflow.trace.session": st.sampled_from(["s-1", "s-3"]),
            "mlflow.trace.user": text,
            "mlflow.trace.tokenUsage": st.just(usage),
            "version": text,
        },
    )
    keys = st.sampled_from(["env", "mlflow.traceName", "team"])
    header = {
        "trace_id": trace_id(trace),
        "experiment_id": draw(st.sampled_from(["1", "2"])),
        "request_time": NOW + draw(st.integers(-9, 9)),
        "execution_duration": draw(st.sampled_from([None, 0, 12])),
        "state": draw(st.sampled_from(["OK", "ERROR", "IN_PROGRESS"])),
        "client_request_id": draw(st.sampled_from([None, "c"])),
        "request_preview": draw(st.none() | text),
        "response_preview": draw(st.none() | text),
        "tags": draw(st.dictionaries(keys, text, max_size=2)),
        "metadata": draw(metadata),
        "assessments": draw(st.lists(assessments_of(trace), max_size=1)),
    }
    return {"kind": "start_trace", "trace": header}


@st.composite
def other(draw: st.DrawFn) -> dict[str, Any]:
    trace = draw(st.integers(0, TRACES - 1))
    one = {"trace_id": trace_id(trace)}
    tag = {**one, "key": draw(st.sampled_from(["env", "team", "mlflow.traceName"]))}
    some = [trace_id(n) for n in draw(st.sets(st.integers(0, TRACES - 1), min_size=1))]
    link = {"trace_ids": some, "run_id": draw(st.sampled_from(RUNS))}
    deleted = [[trace_id(trace), f"a-{trace}-{draw(st.integers(0, 2))}"]]
    return draw(
        st.sampled_from(
            [
                {"kind": "set_tag", **tag, "value": draw(st.sampled_from(TEXTS))},
                {"kind": "delete_tag", **tag},
                {"kind": "link_run", **link},
                {"kind": "unlink_run", **link},
                {"kind": "link_prompts", **one, "prompts": ["greeting/1", "farewell/2"]},
                {"kind": "delete_traces", "trace_ids": some[:1]},
                {
                    "kind": "assessments",
                    "put": draw(st.lists(assessments_of(trace), min_size=1, max_size=2)),
                },
                {
                    "kind": "decisions",
                    "scorer": "1/check",
                    "cursor": None,
                    "epochs": draw(st.lists(epochs(), max_size=1)),
                    "decisions": [draw(decision_of(trace))],
                    "counts": draw(st.lists(counts(), max_size=2, unique_by=str)),
                    "put": draw(st.lists(assessments_of(trace), max_size=2)),
                },
                {"kind": "assessments", "delete": deleted},
                {"kind": "logs", "experiment_id": "1", "body": log_request(2)},
                {"kind": "metrics", "experiment_id": "2", "body": metric_request()},
            ]
        )
    )


@dataclass
class Written:
    """A record of a history: which journal it is in, and whether a segment ends with it."""

    record: Record
    journal: str
    seal: bool


@st.composite
def histories(draw: st.DrawFn) -> list[Written]:
    found, at = [], NOW
    reached: int | None = None  # the scorer's cursor
    for fields in draw(st.lists(spans() | start() | other(), min_size=1, max_size=14)):
        kind, body = fields["kind"], fields.get("body", b"")
        rest = {key: value for key, value in fields.items() if key not in ("kind", "body")}
        journal = draw(st.sampled_from(JOURNALS)) if kind in ENGINES else "server"
        times = 1
        if kind == "decisions":
            since, reached = reached, (reached or 0) + 1
            rest["cursor"] = [since, reached]
            times = draw(st.sampled_from([1, 2]))  # as when the first isn't confirmed in time
        for _ in range(times):
            at += draw(st.integers(1, 3))
            found.append(Written(Record(kind, at, rest, body), journal, draw(st.booleans())))
    return found


def sealed(history: list[Written]) -> list[Written]:
    """Those in segments that have ended."""
    found: list[Written] = []
    for name in JOURNALS:
        of_journal = [written for written in history if written.journal == name]
        while of_journal and not of_journal[-1].seal:
            of_journal.pop()
        found += of_journal
    return found


class Plant:
    """A data directory whose journals hold a history, with the read model folded from it."""

    def __init__(self, data: Path, history: list[Written]) -> None:
        self.data = data
        self.path = data / "index.db"
        self.lake = Lake(str(data / "lake"), data / "lake.state")
        self.index = TraceIndex(self.path, self.lake.is_used)
        self.journals = {name: JournalReader(data / "journal" / name) for name in JOURNALS}
        segments = {name: [b""] for name in JOURNALS}
        for written in history:
            parts = segments[written.journal]
            parts[-1] += frame(written.record.encode())
            position = Position(len(parts), len(parts[-1]))
            journal_id = self.journals[written.journal].journal_id
            self.index.apply(journal_id, [(decoded(written.record), position)])
            if written.seal:
                parts.append(b"")
        for name, parts in segments.items():
            for number, data_of in enumerate(parts, 1):
                kind = "open" if number == len(parts) else "sealed"
                (self.journals[name].directory / f"{number:020d}.{kind}").write_bytes(data_of)

    def tail(self, name: str) -> Tail:
        return Tail(self.journals[name], self.index, self.lake)

    def commit(self, name: str, count: int) -> None:
        """Move this many segments of a journal to the lake."""
        left = iter(range(count))
        self.tail(name).commit_sealed(lambda: next(left, None) is None)

    def half_commit(self, name: str, *, tables: int, gone: bool) -> None:
        """An engine that is killed amid the next segment: some tables, or all but noted."""
        if sealed := self.journals[name].sealed_segments():
            tail = self.tail(name)
            with pytest.MonkeyPatch.context() as patch:
                for table in self.lake.tables[tables:]:
                    patch.setattr(table, "append_segment", lambda *_: False)
                tail._append(sealed[0], tail._take(sealed[0]))
            if gone and tables == len(self.lake.tables):
                self.journals[name].remove(sealed[0])

    def rebuild(self, buffer_ms: int = BUFFER_MS) -> TraceIndex:
        """Lose the read model and make it anew, as an engine does that starts."""
        for file in self.data.glob("index.db*"):
            file.unlink()
        Rebuild(
            self.path,
            Lake(str(self.data / "lake"), self.data / "lake.state"),
            list(self.journals.values()),
            self.data / "scratch",
            completion=lambda index: Completion(
                index, trace_buffer=buffer_ms / 1000, session_buffer=1e6, max_trace_age=1e6
            ),
            stopping=lambda: False,
        ).run("it is missing")
        return TraceIndex(self.path, self.lake.is_used)

    def drain(self, index: TraceIndex) -> None:
        """Have an engine with this read model fold and commit all there is."""
        lake = Lake(str(self.data / "lake"), self.data / "lake.state")
        for journal in self.journals.values():
            tail = Tail(journal, index, lake)
            while tail.advance():
                pass
            tail.commit_sealed(lambda: False)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=histories(),
    commits=st.tuples(st.integers(0, 6), st.integers(0, 2)),
    tables=st.integers(1, 5),
    gone=st.booleans(),
    merged=st.booleans(),
)
def test_the_rebuilt_read_model_is_the_one_that_was_lost(
    history: list[Written], commits: tuple[int, int], tables: int, gone: bool, merged: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        plant = Plant(Path(directory), history)
        before = content(plant.index)
        for name, count in zip(JOURNALS, commits, strict=True):
            plant.commit(name, count)
        plant.half_commit("server", tables=tables, gone=gone)
        if merged:
            compactor(plant.lake.spans, plant.data).merge_small()
        rebuilt = plant.rebuild()
        assert content(rebuilt) == before
        assert rebuilt.connection().execute("SELECT * FROM scorer_cursors").fetchall() == []
        plant.drain(rebuilt)  # what was half done is finished, and nothing is folded twice
        assert content(rebuilt) == before
        assert all(journal.sealed_segments() == [] for journal in plant.journals.values())
        assert content(plant.rebuild()) == before
        kinds = [written.record.kind for written in sealed(history)]
        assert count_rows(plant.lake.logs) == 2 * kinds.count("logs")
        assert count_rows(plant.lake.metrics) == 5 * kinds.count("metrics")


def simple(*kinds: str, at: int = NOW) -> list[Written]:
    """A trace of each of these kinds, a second apart."""
    found = []
    for number, kind in enumerate(kinds):
        request = ExportTraceServiceRequest()
        span = (
            request.resource_spans.add()
            .scope_spans.add()
            .spans.add(
                trace_id=(number + 1).to_bytes(16),
                span_id=(1).to_bytes(8),
                parent_span_id=(9).to_bytes(8) if kind == "orphan" else b"",
                name=kind,
                start_time_unix_nano=NOW * 1_000_000,
                end_time_unix_nano=NOW * 1_000_000 + 1,
            )
        )
        fill_attributes(span.attributes, {"mlflow.spanInputs": "x" * 500})
        record = Record(
            "spans", at + number * 1000, {"experiment_id": "1"}, request.SerializeToString()
        )
        found.append(Written(record, "server", True))
    return found


def test_quiet_traces_are_complete_and_scorers_begin_after_them(tmp_path: Path) -> None:
    plant = Plant(tmp_path, simple("root", "orphan", "root", "root"))
    plant.commit("server", 2)
    index = plant.rebuild(buffer_ms=500)
    completed = completed_after(index, 0, 10)
    assert [one.trace_id for one in completed] == [trace_id(0), trace_id(2)]
    # Where a scorer without a cursor begins; what came last may still have been waiting
    assert newest_position(index) == completed[-1].position
    rows = index.connection().execute("SELECT trace_id, completed_ms IS NOT NULL FROM traces")
    assert dict(rows.fetchall()) == {
        trace_id(0): 1,
        trace_id(1): 0,
        trace_id(2): 1,
        trace_id(3): 0,
    }
    waiting = index.connection().execute("SELECT trace FROM completing").fetchall()
    assert len(waiting) == 1


def decided(*records: dict[str, Any]) -> list[Written]:
    """What a scorer has journaled, a second and a segment each; defaults but for what is given."""
    defaults = {"scorer": "1/check", "epochs": [], "decisions": [], "counts": [], "put": []}
    return [
        Written(Record("decisions", NOW + 1000 * number, {**defaults, **fields}), "engine", True)
        for number, fields in enumerate(records)
    ]


@pytest.mark.parametrize("in_lake", [0, 1, 2, 3, 4])
def test_what_a_scorer_counted_counts_once_though_it_was_written_twice(
    tmp_path: Path, in_lake: int
) -> None:
    count = {
        "epoch": 1,
        "stratum": -1,
        "hour_ms": NOW - NOW % 3_600_000,
        "decision": "not_selected",
        "units": 5,
    }
    first, second = ({"cursor": cursor, "counts": [count]} for cursor in ([None, 8], [8, 9]))
    plant = Plant(tmp_path, decided(first, first, second, second))
    plant.commit("engine", in_lake)
    units = "SELECT units FROM decision_counts"
    assert plant.index.connection().execute(units).fetchall() == [(10,)]
    assert plant.rebuild().connection().execute(units).fetchall() == [(10,)]


@pytest.mark.parametrize("in_lake", [0, 1, 2])
def test_what_is_complete_next_is_of_the_newest_epoch(tmp_path: Path, in_lake: int) -> None:
    """Places were larger in the read model that was lost."""
    epoch = {"opened_ms": NOW, "version": 1, "filter": None, "strata": [], "reason": "rate"}
    first = {**epoch, "epoch": 1, "after_position": 0, "rate": 0.1}
    second = {**epoch, "epoch": 2, "after_position": 1_000_000, "rate": 1.0}
    written = decided(
        {"cursor": [None, 1_000_000], "epochs": [first]},
        {"cursor": [1_000_000, 1_000_001], "epochs": [second]},
    )
    plant = Plant(tmp_path, simple("root") + written)
    plant.commit("engine", in_lake)
    index = plant.rebuild()
    epochs = stored_epochs(index)["1/check"]
    assert epochs.at(newest_position(index))[0].number == 2


def test_a_commit_that_a_power_cut_left_incomplete_does_not_hinder_a_rebuild(
    tmp_path: Path,
) -> None:
    plant = Plant(tmp_path, simple("root", "root"))
    before = content(plant.index)
    plant.half_commit("server", tables=1, gone=False)
    (commit,) = Path(plant.lake.spans.storage.uri).glob(f"_delta_log/{1:020}.json")
    commit.write_bytes(commit.read_bytes()[:30])
    assert content(plant.rebuild()) == before


def test_what_a_rebuild_finds_in_the_lake_is_durable_before_it_is_relied_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine was killed between a commit and its sync."""
    power_cut = PowerCut(monkeypatch)
    plant = Plant(tmp_path, simple("root", "root"))
    log = Path(plant.lake.spans.storage.uri) / "_delta_log"
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "sync_log", lambda *_: None)
        plant.half_commit("server", tables=1, gone=False)
    assert power_cut.unsynced(log)
    plant.rebuild()
    assert power_cut.unsynced(log) == set()


def test_of_a_compacted_day_only_the_first_arrival_may_differ(tmp_path: Path) -> None:
    history = simple("root", "root") + simple("root", at=NOW + 60_000)  # the first one again
    plant = Plant(tmp_path, history)
    before = content(plant.index, {"first_received_ms"})
    plant.commit("server", 3)
    assert compactor(plant.lake.spans, tmp_path).sort_day("2100-01-01") is not None
    assert content(plant.rebuild(), {"first_received_ms"}) == before


def test_a_day_larger_than_memory_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = Plant(tmp_path, simple(*["root", "orphan"] * 15))
    before = content(plant.index)
    plant.commit("server", 30)
    compactor(plant.lake.spans, tmp_path).merge_small()
    monkeypatch.setattr(arrivals, "_PART_BYTES", 500)
    monkeypatch.setattr(arrivals, "_BATCH_ROWS", 4)
    made: list[int] = []
    bounds = arrivals._Day._bounds

    def counted(day: Any) -> list[str]:
        found = bounds(day)
        made.append(len(found))
        return found

    monkeypatch.setattr(arrivals._Day, "_bounds", counted)
    rebuilt = plant.rebuild()
    assert max(made) > 5
    assert content(rebuilt) == before
    order = rebuilt.connection().execute("SELECT trace_id FROM traces ORDER BY id").fetchall()
    assert order == [(trace_id(number),) for number in range(30)]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("harm", ["older", "newer", "damaged", "lost"])
def test_what_this_code_did_not_make_is_not_used(tmp_path: Path, harm: str) -> None:
    plant = Plant(tmp_path, simple("root", "root", "root"))
    before = content(plant.index)
    plant.commit("server", 2)
    if harm == "damaged":
        for log in tmp_path.glob("index.db-*"):
            log.unlink()
        plant.path.write_bytes(b"not a database" * 1000)
    elif harm == "lost":
        plant.path.unlink()
    else:
        version = VERSION + (1 if harm == "newer" else -1)
        with sqlite3.connect(plant.path) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
    why = why_unusable(plant.path, plant.lake.is_used)
    assert why is not None
    index = TraceIndex(plant.path, plant.lake.is_used)
    with pytest.raises(IndexUnavailable, match="has to be rebuilt"):
        index.connection()
    assert plant.path.exists() is (harm != "lost")
    plant.rebuild()
    assert content(index) == before  # the same object takes up the new file
    assert why_unusable(plant.path, plant.lake.is_used) is None


def test_a_new_data_directory_needs_no_rebuild(tmp_path: Path) -> None:
    path, used = (
        tmp_path / "index.db",
        Lake(str(tmp_path / "lake"), tmp_path / "lake.state").is_used,
    )
    assert why_unusable(path, used) is None
    index = TraceIndex(path, used)
    assert index.position("journal") == Position(0, 0)
    assert index.connection().execute("PRAGMA user_version").fetchone() == (VERSION,)
    path.unlink()  # whoever follows a read model does not go on with an empty one
    with pytest.raises(IndexUnavailable):
        index.connection()
    assert TraceIndex(path, used).position("journal") == Position(0, 0)


def test_a_lake_that_others_have_filled_is_read_first(tmp_path: Path) -> None:
    """As when a new data directory is given an old lake, or `lake.state` was not restored."""
    plant = Plant(tmp_path, simple("root", "root", "root"))
    plant.commit("server", 2)
    shutil.rmtree(tmp_path / "lake.state")
    plant.path.unlink()
    lake = Lake(str(tmp_path / "lake"), tmp_path / "lake.state")
    assert why_unusable(plant.path, lake.is_used) == "it is missing"
    with pytest.raises(IndexUnavailable):
        TraceIndex(plant.path, lake.is_used).connection()


def test_threads_that_have_the_old_file_open_take_the_new_one(tmp_path: Path) -> None:
    plant = Plant(tmp_path, simple("root", "root"))
    plant.commit("server", 1)
    index = TraceIndex(plant.path, plant.lake.is_used)
    old = index.connection()
    with index.transaction() as connection:
        connection.execute("UPDATE traces SET trace_name = 'old'")
    new = plant.rebuild()
    assert index.connection() is not old
    old.close()
    del old
    with index.transaction() as connection:
        connection.execute("INSERT INTO run_links VALUES ('tr-x', 'run-x')")
    # Closing the old file leaves the new one's log alone
    names = new.connection().execute("SELECT trace_name FROM traces").fetchall()
    assert names == [("root",), ("root",)]
    assert new.connection().execute("SELECT run_id FROM run_links").fetchall() == [("run-x",)]


def test_the_mirror_for_metrics_is_filled_anew(tmp_path: Path) -> None:
    plant = Plant(tmp_path, simple("root", "orphan", "root"))
    plant.commit("server", 3)
    columns = Columns(tmp_path / "metrics.duckdb")
    count = "SELECT count(*), min(trace_name) FROM traces WHERE status = 'OK'"
    columns.sync(plant.index.connection())
    rebuilt = plant.rebuild()
    assert columns.sync(rebuilt.connection()) == 3
    assert columns.query(rebuilt.connection(), count) == [(2, "root")]
    columns.close()


def test_a_rebuild_that_is_stopped_begins_again(tmp_path: Path, monkeypatch: Any) -> None:
    plant = Plant(tmp_path, simple("root", "root", "root"))
    before = content(plant.index)
    plant.commit("server", 2)
    monkeypatch.setattr(rebuild, "_BATCH_ROWS", 1)
    shutil.copy(plant.path, tmp_path / "index.db.rebuild")  # of one that was killed
    plant.path.unlink()
    stopped = Rebuild(
        plant.path,
        plant.lake,
        list(plant.journals.values()),
        tmp_path / "scratch",
        completion=lambda index: Completion(
            index, trace_buffer=0, session_buffer=1e6, max_trace_age=1e6
        ),
        stopping=lambda: True,
    )
    with pytest.raises(Stopped):
        stopped.run("it is missing")
    assert not plant.path.exists()
    assert stopped.progress is None
    assert content(plant.rebuild()) == before
    assert sorted(file.name for file in tmp_path.glob("index.db*")) == [
        "index.db",
        "index.db-shm",
        "index.db-wal",
    ]


def test_a_journal_that_is_written_meanwhile_is_folded_on_from_there(tmp_path: Path) -> None:
    plant = Plant(tmp_path, simple("root", "root"))
    plant.commit("server", 1)
    rebuilt = plant.rebuild()
    later = Record("set_tag", NOW + 9999, {"trace_id": trace_id(1), "key": "env", "value": "x"})
    path = plant.journals["server"].directory / f"{3:020d}.open"
    path.write_bytes(frame(later.encode()) + b"half a frame")
    rebuilt.catch_up(list(plant.journals.values()))
    tags = rebuilt.connection().execute("SELECT value FROM trace_tags WHERE key = 'env'")
    assert tags.fetchall() == [("x",)]
    before = content(rebuilt)
    assert content(plant.rebuild()) == before


def test_health_tells_how_far_it_is(tmp_path: Path) -> None:
    vedette = Settings(data=tmp_path)
    assert rebuild_state(vedette) is None
    plant = Plant(tmp_path, simple("root"))
    plant.commit("server", 1)
    for file in tmp_path.glob("index.db*"):
        file.unlink()
    progress = {"why": "it is missing", "rows": 250, "of_rows": 1000, "seconds": 3.4}
    health = Health(vedette, JournalWriter(tmp_path / "another journal"))
    write_state(vedette.run_dir / "engine.json", {"index": {"rebuilding": progress}})
    report = health.report()
    assert report["status"] == "rebuilding"
    assert report["index"]["rebuilding"] == progress
    assert (
        "the read model is being rebuilt (it is missing): 25 % of 1,000 rows after 3 s; traces are "
        "accepted, whatever reads is answered 503 until it is done"
    ) in report["warnings"]
    plant.rebuild()
    write_state(vedette.run_dir / "engine.json", {"index": {"error": None}})
    assert health.report()["status"] == "ok"
