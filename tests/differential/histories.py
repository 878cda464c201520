"""Histories of traces: what clients, scorers and people do to them, drawn by hypothesis.

Few names and times, so that spans meet again, sessions are shared and times collide.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from mlflow.entities import (
    Assessment,
    AssessmentError,
    AssessmentSource,
    Expectation,
    Feedback,
    TraceInfo,
    TraceLocation,
    TraceState,
)
from mlflow.entities.assessment import IssueReference
from mlflow.entities.model_registry import PromptVersion
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pair import Pair

from otlp_strategies import fill_attributes

T0 = 1_760_000_000_000  # ms
TRACES = 4
SPAN_NAMES = ["agent", "retrieve", "llm", "Tool 100%", "näme"]
SPAN_TYPES = ["AGENT", "RETRIEVER", "CHAT_MODEL", "TOOL", "UNKNOWN"]
SESSIONS = ["s-1", "s-2", "Session 3", ""]
TAG_KEYS = ["env", "customer", "a b/c-d.e", "mlflow.traceName"]
TEXTS = ["prod", "Prod", "dev", "100%", "a_b", "", "ünï ☃", 'it\'s "quoted"', "v1.2"]
METADATA_KEYS = ["version", "mlflow.trace.user", "mlflow.sourceRun"]
RUNS = ["run-1", "run-2"]
PROMPTS = [("greeting", 1), ("greeting", 2), ("farewell", 1)]
SCORES = ["correct", "quality", "Tone of voice"]
ISSUES = ["iss-1", "iss-2"]


@dataclass
class World:
    """Where a history takes place: experiments, and ids that no other history uses."""

    pair: Pair
    experiments: list[str]
    number: int
    assessments: dict[str, str] = field(default_factory=dict)  # id -> trace id

    def otel_id(self, trace: int) -> bytes:
        """The OTel id of the history's trace number ``trace``."""
        return (self.number * 1000 + trace + 1).to_bytes(16)

    def trace_id(self, trace: int) -> str:
        """The id of the history's trace number ``trace``."""
        return f"tr-{self.otel_id(trace).hex()}"


@dataclass(frozen=True)
class Action:
    """A step of a history. What it needs was drawn before; `told` says it in a failure."""

    told: str
    act: Callable[[World], None]

    def __repr__(self) -> str:
        return self.told


@st.composite
def send_spans(draw: st.DrawFn) -> Action:
    """A request with spans of one or more traces, some of which may have been sent before."""
    places = draw(
        st.lists(
            st.tuples(st.integers(0, TRACES - 1), st.integers(0, 3)),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    spans = [(trace, number, draw(_span_fields(number))) for trace, number in places]
    resource = draw(
        st.dictionaries(
            st.sampled_from(["service.name", "env", "telemetry.sdk.name", "mlflow.x"]),
            st.sampled_from(TEXTS) | st.integers(0, 3) | st.booleans(),
            max_size=2,
        )
    )
    experiment = draw(st.integers(0, 1))

    def act(world: World) -> None:
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        fill_attributes(group.resource.attributes, resource)
        scope = group.scope_spans.add()
        for trace, number, fields in spans:
            scope.spans.append(_span(world.otel_id(trace), number, **fields))
        world.pair.send(world.experiments[experiment], request)

    return Action(f"send_spans({experiment}, {resource}, {spans})", act)


def _span_fields(number: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "parent": st.just(None)
            if number == 0
            else st.sampled_from([0, 0, 0, number - 1, 9, None]),
            "name": st.sampled_from(SPAN_NAMES),
            "status": st.sampled_from([0, 1, 1, 2]),
            "start": st.sampled_from([0, 1, 1000, 1001, 3_600_000]),
            "took": st.sampled_from([None, None, 0, 1, 1500, 1500, 2500]),
            "attributes": _attributes(),
        }
    )


def _attributes() -> st.SearchStrategy[dict[str, Any]]:
    text = st.sampled_from(TEXTS)
    usage = st.fixed_dictionaries(
        {"input_tokens": st.integers(0, 50), "output_tokens": st.integers(0, 50)},
        optional={"total_tokens": st.integers(0, 99), "cache_read_input_tokens": st.just(7)},
    ).map(json.dumps)
    cost = st.fixed_dictionaries(
        {"input_cost": st.sampled_from([0.25, 0.5]), "output_cost": st.sampled_from([0.0, 1.0])},
        optional={"total_cost": st.sampled_from([0.75, 1.5])},
    ).map(json.dumps)
    return st.fixed_dictionaries(
        {},
        optional={
            "mlflow.spanType": st.sampled_from(SPAN_TYPES),
            "gen_ai.operation.name": st.sampled_from(["chat", "execute_tool", "odd"]),
            "mlflow.spanInputs": st.dictionaries(st.sampled_from(["q", "é"]), text).map(json.dumps),
            "mlflow.spanOutputs": text.map(json.dumps),
            "mlflow.chat.tokenUsage": usage,
            "mlflow.llm.cost": cost,
            "mlflow.llm.model": st.sampled_from(['"gpt"', '"claude"']),
            "mlflow.llm.provider": st.just('"acme"'),
            "session.id": st.sampled_from(SESSIONS),
            "gen_ai.conversation.id": st.sampled_from(SESSIONS),
            "user.id": text,
            "mlflow.traceTag.env": text,
            "mlflow.traceTag.mlflow.traceName": text,
            "plain": text | st.integers(0, 5) | st.floats(0, 1) | st.booleans(),
        },
    )


def _span(
    trace: bytes,
    number: int,
    *,
    parent: int | None,
    name: str,
    status: int,
    start: int,
    took: int | None,
    attributes: dict[str, Any],
) -> Span:
    start_ns = (T0 + start) * 1_000_000 + number
    span = Span(
        trace_id=trace,
        span_id=(number + 1).to_bytes(8),
        parent_span_id=b"" if parent is None else (parent + 1).to_bytes(8),
        name=name,
        start_time_unix_nano=start_ns,
        end_time_unix_nano=0 if took is None else start_ns + took * 1_000_000,
    )
    span.status.code = status
    span.status.message = "went wrong" if status == 2 else ""
    fill_attributes(span.attributes, attributes)
    return span


@st.composite
def start_trace(draw: st.DrawFn) -> Action:
    """MLflow's client says what a trace is, before or after its spans."""
    trace = draw(st.integers(0, TRACES - 1))
    experiment = draw(st.integers(0, 1))
    metadata = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "version": st.sampled_from(TEXTS),
                "mlflow.trace.user": st.sampled_from(TEXTS),
                "mlflow.sourceRun": st.sampled_from(RUNS),
                "mlflow.trace.session": st.sampled_from(SESSIONS),
                "mlflow.trace.tokenUsage": st.sampled_from(
                    ['{"input_tokens": 5, "output_tokens": 6}', '{"total_tokens": 9}', "{}", "x"]
                ),
                "mlflow.trace.cost": st.sampled_from(['{"total_cost": 0.5}', "[]"]),
                "mlflow.trace.sizeStats": st.integers(0, 3).map(
                    lambda count: json.dumps({"num_spans": count})
                ),
            },
        )
    )
    fields: dict[str, Any] = {
        "request_time": T0 + draw(st.sampled_from([0, 500, 1000, 7_200_000])),
        "execution_duration": draw(st.sampled_from([None, 0, 10, 1500])),
        "state": draw(st.sampled_from(list(TraceState))),
        "client_request_id": draw(st.sampled_from([None, "req-1", "REQ-2"])),
        "request_preview": draw(st.sampled_from([None, "asked"])),
        "response_preview": draw(st.sampled_from([None, "answered", ""])),
        "trace_metadata": metadata,
        "tags": draw(
            st.dictionaries(st.sampled_from(TAG_KEYS), st.sampled_from(TEXTS), max_size=3)
        ),
    }
    given = draw(st.lists(assessments(), max_size=2))

    def act(world: World) -> None:
        trace_id = world.trace_id(trace)
        for assessment in given:
            _name(world, assessment, trace_id)
        info = TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(world.experiments[experiment]),
            assessments=given,
            **fields,
        )
        world.pair.call("start_trace", info)

    return Action(f"start_trace({trace}, {experiment}, {fields}, {given})", act)


_ids = iter(range(1, 10**9))


def _name(world: World, assessment: Assessment, trace_id: str) -> None:
    """Ids that MLflow would make up at random."""
    assessment.trace_id = trace_id
    assessment.assessment_id = f"a-{next(_ids)}"
    world.assessments[assessment.assessment_id] = trace_id


def assessments() -> st.SearchStrategy[Assessment]:
    """Feedback, expectations and issue references of traces, sessions and spans."""
    common = {
        "source": st.sampled_from(
            [AssessmentSource("CODE", "check"), AssessmentSource("HUMAN", "ann@example.com")]
        ),
        "span_id": st.sampled_from([None, f"{1:016x}"]),
        "metadata": st.sampled_from(
            [None, None, {"mlflow.trace.session": "s-1"}, {"mlflow.trace.session": "s-2", "k": "v"}]
        ),
        "create_time_ms": st.sampled_from([T0 + 1, T0 + 2]),
        "last_update_time_ms": st.just(T0 + 3),
    }
    value = st.sampled_from(
        [True, False, 0, 1, 0.5, 2.25, -3, "yes", "No", "good", "5", None, [1, "a"], {"k": 0.5}]
    )
    feedback = st.builds(
        Feedback,
        name=st.sampled_from(SCORES),
        value=value,
        rationale=st.sampled_from([None, "because"]),
        error=st.sampled_from([None, None, AssessmentError("E_CODE", "it failed")]),
        **common,
    )
    expectation = st.builds(
        Expectation,
        name=st.sampled_from(SCORES),
        value=value.filter(lambda one: one is not None),
        **common,
    )
    issue = st.builds(
        IssueReference,
        issue_id=st.sampled_from(ISSUES),
        issue_name=st.just("slow"),
        run_id=st.sampled_from([None, "run-1"]),
        **common,
    )
    return st.one_of(feedback, feedback, expectation, issue)


@st.composite
def assess(draw: st.DrawFn) -> Action:
    """Assess a trace; perhaps in place of an earlier assessment."""
    assessment = draw(assessments())
    trace = draw(st.integers(0, TRACES - 1))
    override = draw(st.integers(0, 5))

    def act(world: World) -> None:
        _name(world, assessment, world.trace_id(trace))
        earlier = list(world.assessments)[:-1]
        if override < 2 and earlier:
            assessment.overrides = earlier[override % len(earlier)]
        world.pair.call("create_assessment", assessment)

    return Action(f"assess({trace}, {override}, {assessment})", act)


@st.composite
def revise(draw: st.DrawFn) -> Action:
    """Update or delete an assessment."""
    which = draw(st.integers(0, 5))
    delete = draw(st.booleans())
    changes = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(SCORES),
                "rationale": st.just("on second thought"),
                "metadata": st.just({"reviewed": "twice"}),
                "feedback": st.sampled_from([1, 0.75, "no", None]).map(
                    lambda value: Feedback(name="x", value=value).feedback
                ),
                "expectation": st.just(Expectation(name="x", value="Z").expectation),
            },
        )
    )

    def act(world: World) -> None:
        known = [*world.assessments.items(), ("a-unknown", world.trace_id(0))]
        assessment_id, trace_id = known[which % len(known)]
        if delete:
            world.pair.call("delete_assessment", trace_id, assessment_id)
        elif not assessment_id.startswith("a-issue"):
            world.pair.call("update_assessment", trace_id, assessment_id, **changes)
        world.pair.call("get_assessment", trace_id, assessment_id)

    return Action(f"revise({which}, {delete}, {changes})", act)


@st.composite
def change_tags(draw: st.DrawFn) -> Action:
    """Set or delete a tag."""
    trace, key = draw(st.integers(0, TRACES - 1)), draw(st.sampled_from(TAG_KEYS))
    value = draw(st.sampled_from([None, *TEXTS, "x" * 9000]))

    def act(world: World) -> None:
        if value is None:
            world.pair.call("delete_trace_tag", world.trace_id(trace), key)
        else:
            world.pair.call("set_trace_tag", world.trace_id(trace), key, value)

    return Action(f"change_tags({trace}, {key!r}, {value!r})", act)


@st.composite
def link(draw: st.DrawFn) -> Action:
    """Link traces to runs or prompts, or undo that."""
    traces = draw(st.lists(st.integers(0, TRACES - 1), unique=True, max_size=3))
    what = draw(st.sampled_from(["link", "link", "unlink", "prompts"]))
    run = draw(st.sampled_from(RUNS))
    prompts = draw(st.lists(st.sampled_from(PROMPTS), unique=True, max_size=2))

    def act(world: World) -> None:
        trace_ids = [world.trace_id(trace) for trace in traces]
        if what == "prompts":
            versions = [PromptVersion(name, version, "hello") for name, version in prompts]
            world.pair.call("link_prompts_to_trace", world.trace_id(0), versions)
        elif what == "link":
            world.pair.call("link_traces_to_run", trace_ids, run)
        else:
            world.pair.call("unlink_traces_from_run", trace_ids, run)

    return Action(f"link({what}, {traces}, {run}, {prompts})", act)


@st.composite
def delete(draw: st.DrawFn) -> Action:
    """Delete traces."""
    trace = draw(st.integers(0, TRACES - 1))
    experiment = draw(st.integers(0, 1))

    def act(world: World) -> None:
        world.pair.call(
            "delete_traces",
            world.experiments[experiment],
            trace_ids=[world.trace_id(trace)],
        )

    return Action(f"delete({trace}, {experiment})", act)


def histories(*, min_size: int = 1, max_size: int = 12) -> st.SearchStrategy[list[Action]]:
    """Lists of actions; spans are the most frequent."""
    action = st.one_of(
        send_spans(),
        send_spans(),
        send_spans(),
        start_trace(),
        start_trace(),
        assess(),
        revise(),
        change_tags(),
        link(),
        delete(),
    )
    return st.lists(action, min_size=min_size, max_size=max_size)
