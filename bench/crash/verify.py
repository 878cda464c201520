"""Compares what can be read, over HTTP and in the Delta tables, with what the ledger promises."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from bench.crash.ledger import KnownTrace, Ledger
from bench.json_client import JsonClient

SCORERS: dict[str, Callable[[int], object]] = {
    # What the scorers of bench.crash.scorers must say of the trace with this number.
    "crash_even": lambda number: number % 2 == 0,
    "crash_remainder": lambda number: 2 * number % 7,
}
_PAGE = 500
_SPANS_PAGE = 50
_MOST_EXAMPLES = 5


class Findings:
    """Violations, counted by what is wrong, with a few examples of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, what: str, example: str) -> None:
        """One violation."""
        self.counts[what] += 1
        examples = self.examples.setdefault(what, [])
        if len(examples) < _MOST_EXAMPLES:
            examples.append(example)

    def __iter__(self) -> Iterator[str]:
        for what, count in self.counts.items():
            yield f"{what}: {count}, e.g. {'; '.join(self.examples[what])}"


def verify_over_http(
    client: JsonClient, experiment_id: str, ledger: Ledger, findings: Findings
) -> Counter[str]:
    """Every trace, span, tag, assessment and score, once.

    Returns:
        How many of each were found.
    """
    found: Counter[str] = Counter()
    infos: dict[str, Mapping[str, Any]] = {}
    for info in _all_infos(client, experiment_id):
        if info["trace_id"] in infos:
            findings.add("listed twice", info["trace_id"])
        infos[info["trace_id"]] = info
    _compare_sets("trace", {t.trace_id: t for t in ledger.traces}, infos.keys(), findings)
    for trace in ledger.traces:
        read = infos.get(trace.trace_id)
        if read is not None and trace.must_exist:
            found["traces"] += 1
            _compare_tags(trace, read.get("tags", {}), found, findings)
            _compare_assessments(trace, read.get("assessments", []), found, findings)
    present = [t for t in ledger.traces if t.must_exist and t.trace_id in infos]
    for first in range(0, len(present), _SPANS_PAGE):
        page = present[first : first + _SPANS_PAGE]
        query = "&".join(f"trace_ids={trace.trace_id}" for trace in page)
        answer = client.call("GET", f"/api/3.0/mlflow/traces/batchGet?{query}")
        spans = {
            trace["trace_info"]["trace_id"]: [_span_id(span) for span in trace.get("spans", [])]
            for trace in answer.get("traces", [])
        }
        for trace in page:
            _compare_spans(trace, spans.get(trace.trace_id, []), found, findings)
    return found


def verify_in_the_lake(lake: Path, ledger: Ledger, findings: Findings) -> Counter[str]:
    """The Delta tables, read as anybody would: all that was acknowledged and nothing twice.

    Returns:
        How many rows of each kind were found, and how many of them repeat others.
    """
    found: Counter[str] = Counter()
    schema = lake / "main" / "default"
    _verify_lake_spans(schema / "mlflow_otel_spans", ledger, findings, found)
    _verify_lake_annotations(schema / "mlflow_otel_annotations", ledger, findings, found)
    return found


def _all_infos(client: JsonClient, experiment_id: str) -> Iterator[Mapping[str, Any]]:
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
    token = ""
    while True:
        body: dict[str, Any] = {"locations": [location], "max_results": _PAGE}
        if token:
            body["page_token"] = token
        page = client.call("POST", "/api/3.0/mlflow/traces/search", body)
        yield from page.get("traces", [])
        token = page.get("next_page_token", "")
        if not token:
            return


def _span_id(span: Mapping[str, Any]) -> str:
    return base64.b64decode(span["span_id"]).hex()


def _compare_sets(
    what: str, known: Mapping[str, KnownTrace], read: Iterable[str], findings: Findings
) -> None:
    seen = set(read)
    for trace_id, trace in known.items():
        if trace.must_exist and trace_id not in seen:
            findings.add(f"acknowledged {what} is missing", trace_id)
        if trace.deleted and trace_id in seen:
            findings.add(f"deleted {what} is there", trace_id)
    for trace_id in seen - known.keys():
        findings.add(f"{what} that nobody sent", trace_id)


def _compare_tags(
    trace: KnownTrace, read: Mapping[str, str], found: Counter[str], findings: Findings
) -> None:
    for key, value in trace.tags.items():
        found["tags"] += value is not None
        if read.get(key) != value:
            findings.add(
                "wrong tag", f"{trace.trace_id} {key}: {read.get(key)!r} instead of {value!r}"
            )


def _compare_assessments(
    trace: KnownTrace,
    read: Iterable[Mapping[str, Any]],
    found: Counter[str],
    findings: Findings,
) -> None:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for assessment in read:
        by_name.setdefault(assessment["assessment_name"], []).append(assessment)
    for known in trace.assessments:
        there = by_name.pop(known.name, [])
        where = f"{trace.trace_id} {known.name}"
        if known.deleted:
            if there:
                findings.add("deleted assessment is there", where)
        elif len(there) > 1:
            findings.add("assessment twice", where)
        elif there:
            found["assessments"] += 1
            if _value(there[0]) != known.value:
                findings.add("wrong assessment", f"{where}: {there[0]}")
        elif known.assessment_id is not None:
            findings.add("acknowledged assessment is missing", where)
    _compare_scores(trace, {name: by_name.pop(name, []) for name in SCORERS}, found, findings)
    for name in by_name:
        findings.add("assessment that nobody made", f"{trace.trace_id} {name}")


def _compare_scores(
    trace: KnownTrace,
    read: Mapping[str, list[Mapping[str, Any]]],
    found: Counter[str],
    findings: Findings,
) -> None:
    for scorer, expected in SCORERS.items():
        there = read[scorer]
        where = f"{trace.trace_id} {scorer}"
        if len(there) > 1:
            findings.add("scored twice", where)
        elif there:
            found["scores"] += 1
            if not trace.must_be_scored:
                findings.add("score of an incomplete trace", where)
            elif _value(there[0]) != expected(trace.number):
                findings.add("wrong score", f"{where}: {there[0]}")
        elif trace.must_be_scored:
            findings.add("complete trace without a score", where)


def _value(assessment: Mapping[str, Any]) -> object:
    said = assessment.get("feedback") or assessment.get("expectation") or {}
    return said.get("value")


def _compare_spans(
    trace: KnownTrace, read: list[str], found: Counter[str], findings: Findings
) -> None:
    found["spans"] += len(read)
    if len(read) != len(set(read)):
        findings.add("span twice", trace.trace_id)
    if missing := trace.acknowledged - set(read):
        findings.add("acknowledged spans are missing", f"{trace.trace_id}: {len(missing)}")
    if strange := set(read) - set(trace.span_ids):
        findings.add("spans that nobody sent", f"{trace.trace_id}: {strange}")


def _rows(table: Path, query: str) -> list[tuple[Any, ...]]:
    files = DeltaTable(table).file_uris()
    with duckdb.connect() as connection:
        return connection.execute(query, [files]).fetchall()


def _verify_lake_spans(
    table: Path, ledger: Ledger, findings: Findings, found: Counter[str]
) -> None:
    rows = _rows(
        table, "SELECT trace_id, span_id, count(*) FROM read_parquet(?) GROUP BY trace_id, span_id"
    )
    copies = {(f"tr-{trace_id}", span_id): count for trace_id, span_id, count in rows}
    found["span rows"] = sum(copies.values())
    found["span rows of repeated requests"] = sum(copies.values()) - len(copies)
    for trace in ledger.traces:
        for span_id in trace.span_ids:
            count = copies.pop((trace.trace_id, span_id), 0)
            where = f"{trace.trace_id} {span_id}"
            if span_id in trace.acknowledged and not count:
                findings.add("acknowledged span is not in the lake", where)
            if count > trace.sends[span_id]:
                findings.add(
                    "span more often in the lake than sent",
                    f"{where}: {count} of {trace.sends[span_id]}",
                )
    for trace_id, span_id in copies:
        findings.add("span in the lake that nobody sent", f"{trace_id} {span_id}")


def _verify_lake_annotations(
    table: Path, ledger: Ledger, findings: Findings, found: Counter[str]
) -> None:
    rows = _rows(
        table,
        """
        SELECT
          annotation_id,
          any_value(target_id),
          any_value(annotation_type),
          any_value(name),
          arg_max(value, (updated_at, record_id)),
          arg_max(deleted_at, (updated_at, record_id)) IS NOT NULL,
          count(*),
          count(DISTINCT record_id)
        FROM read_parquet(?)
        GROUP BY annotation_id
        """,
    )
    found["annotation rows"] = sum(row[6] for row in rows)
    live: dict[str, str | None] = {}
    deleted: set[str] = set()
    scores: dict[tuple[str, str], list[str | None]] = {}
    for annotation_id, target, kind, name, value, is_deleted, count, distinct in rows:
        if count != distinct:
            findings.add("record twice in the lake", f"{annotation_id}: {count} rows")
        if is_deleted:
            deleted.add(annotation_id)
            continue
        live[annotation_id] = value
        if kind == "FEEDBACK" and name in SCORERS:
            found["score rows"] += count
            found["score rows that repeat one"] += count - 1
            trace_id = "tr-" + target.partition(":")[0]  # a score stands on the root span
            scores.setdefault((trace_id, name), []).append(value)
    for trace in ledger.traces:
        _verify_lake_trace(trace, live, deleted, scores, findings)


def _verify_lake_trace(
    trace: KnownTrace,
    live: Mapping[str, str | None],
    deleted: set[str],
    scores: Mapping[tuple[str, str], list[str | None]],
    findings: Findings,
) -> None:
    bare = trace.trace_id.removeprefix("tr-")

    def identity(what: str) -> str:
        return hashlib.sha256(f"{bare}:{what}".encode()).hexdigest()

    if trace.deleted:
        if identity("metadata") not in deleted:
            findings.add("deleted trace is live in the lake", trace.trace_id)
        return
    if trace.header_acknowledged and identity("metadata") not in live:
        findings.add("acknowledged start_trace is not in the lake", trace.trace_id)
    for key, value in trace.tags.items():
        stored = live.get(identity(f"tag:{key}"))
        if stored != (None if value is None else json.dumps(value)):
            findings.add("wrong tag in the lake", f"{trace.trace_id} {key}: {stored}")
    for known in trace.assessments:
        if known.assessment_id is not None and known.deleted == (known.assessment_id in live):
            findings.add("wrong assessment in the lake", f"{trace.trace_id} {known.name}")
    for scorer, expected in SCORERS.items():
        values = scores.get((trace.trace_id, scorer), [])
        wanted = [expected(trace.number)] if trace.must_be_scored else []
        if [json.loads(value or "null") for value in values] != wanted:
            findings.add("wrong scores in the lake", f"{trace.trace_id} {scorer}: {values}")
