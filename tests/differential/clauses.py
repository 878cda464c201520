"""Filter clauses and orders: every field of MLflow's language with every operator."""

from __future__ import annotations

from histories import T0

COMPARATORS = [
    "=",
    "!=",
    "LIKE",
    "ILIKE",
    "RLIKE",
    "IN",
    "NOT IN",
    ">",
    ">=",
    "<",
    "<=",
    "IS NULL",
    "IS NOT NULL",
]
_TEXTS = ["'prod'", "'PR_D%'", "'%o%'", "'^[pd]r?'", "''", "'100%'", "'('"]
_SESSIONS = ["'s-1'", "'S-_'", "'%s%'", "'^s-[12]$'"]
_TIMES = [str(T0 + 1000), str(T0 - 5), f"'{T0 + 1000}'", f"{T0}.5"]
_DURATIONS = ["10", "1500", "1499.5", "'10'"]
_NAMES = ["'llm'", "'L_M'", "'%e%'", "'^(agent|llm)$'", "'näme'"]
_SCORES = ["'true'", "'yes'", "'Y%'", "'5'", "'%o%'", "0.5", "1", "-3"]
_TOKENS = ['\'{"input_tokens": 5, "output_tokens": 6}\'', "'{\"total_tokens\": 9}'", "'x'"]
_CONTENT = ["'%agent%'", "'%AGENT%'", "'%q%PROD%'", "'%\"plain\"%'", "'agent'", "'.*llm.*'"]

# field -> values
FIELDS: dict[str, list[str]] = {
    "request_id": ["'tr-nope'", "'tr-%1'", "'%TR%'", "'0[1-4]$'"],
    "attributes.timestamp_ms": _TIMES,
    "timestamp": _TIMES,
    "trace.execution_time_ms": _DURATIONS,
    "attribute.execution_time": _DURATIONS,
    "trace.end_time": _TIMES,
    "attributes.end_time_ms": _TIMES,
    "status": ["'OK'", "'ok'", "'%R%'", "'^(OK|ERROR)$'", "'IN_PROGRESS'"],
    "trace.client_request_id": ["'req-1'", "'REQ-_'", "'%q%'", "'[12]$'"],
    "name": _TEXTS,
    "trace.name": _TEXTS,
    "run_id": ["'run-1'", "'RUN-%'", "'run-[12]'", "''"],
    "prompt": ["'greeting/1'", "'greeting/3'", "'greeting'", "'a/b/c'"],
    "trace.text": _CONTENT,
    "tags.env": _TEXTS,
    "tag.customer": _TEXTS,
    "tags.`a b/c-d.e`": _TEXTS,
    "tags.`mlflow.traceName`": _TEXTS,
    "tags.`mlflow.trace.spansLocation`": ["'TRACKING_STORE'", "'%store%'"],
    "tags.absent": ["'prod'"],
    "metadata.version": _TEXTS,
    "request_metadata.`mlflow.trace.user`": _TEXTS,
    "metadata.`mlflow.trace.session`": _SESSIONS,
    "metadata.`mlflow.sourceRun`": ["'run-1'", "'%1'", "'run-[12]'"],
    "metadata.`mlflow.trace.tokenUsage`": _TOKENS,
    "metadata.`mlflow.trace.cost`": ["'{\"total_cost\": 0.5}'", "'{}'", "'[]'"],
    "metadata.`mlflow.trace.infoFinalized`": ["'true'", "'TRUE'"],
    "span.name": _NAMES,
    "span.type": ["'AGENT'", "'tool'", "'%O%'", "'^T'"],
    "span.status": ["'OK'", "'error'", "'%E%'", "'UNSET'"],
    "span.content": _CONTENT,
    "span.attributes.plain": ["'%prod%'", "'%PROD%'", "'^prod$'", "'prod'", "'o'"],
    "span.attributes.`session.id`": ["'%s-1%'", "'^s-'"],
    "span.unknown": ["'x'"],
    "feedback.correct": _SCORES,
    "feedback.quality": _SCORES,
    "feedback.`Tone of voice`": _SCORES,
    "expectation.correct": _SCORES,
    "expectation.quality": _SCORES,
    "feedback.absent": ["'x'", "1"],
    "issue.id": ["'iss-1'", "'iss-3'", "'iss-%'"],
    "issue.name": ["'slow'"],
    "nonsense.x": ["'x'"],
    "trace.nonsense": ["'x'"],
}

ORDERS = [
    "timestamp",
    "timestamp_ms",
    "attributes.timestamp",
    "execution_time",
    "trace.execution_time_ms",
    "end_time",
    "end_time_ms",
    "status",
    "request_id",
    "experiment_id",
    "name",
    "run_id",
    "tags.env",
    "tag.`a b/c-d.e`",
    "metadata.version",
    "metadata.`mlflow.trace.session`",
    "metadata.`mlflow.trace.cost`",
    "span.name",
    "nonsense",
]


def clauses(field: str) -> list[str]:
    """Clauses on a field: every operator, sensible or not, with several values."""
    found = []
    for comparator in COMPARATORS:
        if comparator.startswith("IS"):
            found.append(f"{field} {comparator}")
        elif comparator.endswith("IN"):
            for values in (FIELDS[field][:1], FIELDS[field][:3]):
                found.append(f"{field} {comparator} ({', '.join(values)})")
            found.append(f"{field} {comparator} {FIELDS[field][0]}")
        else:
            found += [f"{field} {comparator} {value}" for value in FIELDS[field]]
    return [*found, f"{field} = ('a', 'b')", f"{field} = 5", f"{field} = 99999999999999999999"]
