"""``/monitor/trace/{trace_id}``: what each scorer did with a trace, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from vedette.monitor import words
from vedette.monitor.data import MonitorData, SessionTrace, TraceView
from vedette.monitor.layout import experiment_path, frame, trace_path
from vedette.monitor.live import BUILD_SECONDS, Live, told
from vedette.monitor.markup import StatusMark, notice, tag
from vedette.monitor.status import decision_status
from vedette.scoring.epochs import BASE_STRATUM
from vedette.scoring.explain import Explanation

_NOT_FOUND = 404


def add_page(data: MonitorData) -> None:
    """Add the page."""

    @ui.page("/trace/{trace_id:path}", response_timeout=BUILD_SECONDS)
    async def page(trace_id: str) -> None:
        try:
            experiments = await run_in_threadpool(data.experiments)
            view = await run_in_threadpool(data.trace, trace_id)
        except Exception as error:
            with frame("Trace", [], None):
                notice(f"The trace can't be shown now: {told(error)}", "bad", "error")
            return
        chosen = None if view is None else view.experiment.experiment_id
        with frame("Trace", experiments, chosen):
            if view is None:
                ui.context.client.status_code = _NOT_FOUND
                _say_unknown(trace_id)
                return
            _trace_facts(view)
            live = Live(lambda: run_in_threadpool(data.trace, trace_id))
            await live.start(_TraceContent().show)


def _say_unknown(trace_id: str) -> None:
    notice(f"There is no trace {trace_id}.", "bad", "error")
    tag("p", "It never arrived, or was deleted. What may help:")
    with tag("ul"):
        tag("li", "compare the id with the one your agent logs; the search above takes another")
        tag("li", "an SDK sends in the background: call mlflow.flush_trace_async_logging()")
        tag("li", "look whether its tracking URI names this server")


def _trace_facts(view: TraceView) -> None:
    trace, experiment = view.trace, view.experiment.experiment_id
    with tag("p", classes="subject"):
        tag("code", trace.trace_id)
    with tag("dl", classes="facts"):
        with _fact("Experiment"):
            ui.link(view.experiment.name, experiment_path(experiment))
        _fact("State", trace.state)
        _fact("Time", words.moment(trace.time_ms))
        _fact("Took", words.milliseconds(view.duration_ms))
        _fact("Request", trace.question)
        with _fact("MLflow UI"):
            here = f"/#/experiments/{experiment}"
            tag("a", "the trace", href=f"{here}/traces/{quote(trace.trace_id, safe='')}")
            if view.session_id is not None:
                session = quote(view.session_id, safe="")
                tag("a", "its session", href=f"{here}/chat-sessions/{session}")


def _fact(name: str, text: str = "") -> Any:
    with tag("div"):
        tag("dt", name)
        return tag("dd", text)


class _TraceContent:
    """What changes while the trace is looked at: its scorers and its session."""

    def __init__(self) -> None:
        self._shown: TraceView | None = None
        self._content = tag("div", classes="content")

    def show(self, view: TraceView | None) -> None:
        """Show it; what hasn't changed stays as it is."""
        if view == self._shown and view is not None:
            return
        self._shown = view
        self._content.clear()
        with self._content:
            if view is None:
                notice("The trace has been deleted.", "bad", "error")
                return
            tag("h2", "Scorers")
            if not view.explanations:
                tag("p", "No scorer has been started in this experiment.")
            for explanation in view.explanations:
                _explanation(explanation)
            _session(view)


def _explanation(explanation: Explanation) -> None:
    with tag("section", classes="explanation", aria_label=explanation.scorer):
        with tag("div", classes="headline"):
            tag("h3", explanation.scorer)
            StatusMark(decision_status(explanation.decision))
            tag("span", f"per {explanation.unit_type}", "quiet")
        tag("p", explanation.text)
        if facts := list(_details(explanation.details)):
            with tag("dl", classes="facts"):
                for name, text in facts:
                    _fact(name, text)


def _details(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of a decision, in the order in which it is shown."""
    if not details:
        return
    stratum = details["stratum"]
    told = {
        "Score": _scores(details["scores"]),
        "Probability": f"{details['inclusion_probability']:g}",
        "u": f"{details['draw']:.4f}",
        "Epoch": words.count(details["epoch"]),
        "Stratum": "none" if stratum == BASE_STRATUM else words.count(stratum + 1),
        "Version": words.count(details["version"]),
        "Revision": words.count(details["revision"]) if details["revision"] else "",
        "Attempts": words.count(details["attempts"]),
        "Next attempt": words.moment(details["next_attempt_ms"]),
        "Error": details["error_code"] or "",
        "Message": details["error"] or "",
        "Model": details["model"] or "",
        "Cost": words.dollars(details["cost_usd"]) if details["cost_usd"] else "",
        "Worker": str(details["worker"] or ""),
        "Took": words.milliseconds(details["milliseconds"]),
        "Complete at": words.moment(details["completed_ms"]),
        "Decided at": words.moment(details["decided_ms"]),
        "Origin": details["origin"] or "",
    }
    yield from ((name, text) for name, text in told.items() if text)


def _scores(scores: str | None) -> str:
    """Names and values; the name alone where the value is too long for the ledger."""
    return ", ".join(
        one["name"] if one["value"] is None else f"{one['name']} = {json.dumps(one['value'])}"
        for one in json.loads(scores or "[]")
    )


def _session(view: TraceView) -> None:
    if view.session_id is None:
        return
    tag("h2", f"Session {view.session_id}")
    if len(view.session) == 1:
        tag("p", "It has no other trace.")
        return
    with tag("ol", classes="session"):
        for trace in view.session:
            with tag("li"):
                _session_trace(trace, is_this=trace.trace_id == view.trace.trace_id)
    if view.session_size > len(view.session):
        tag("p", f"and {view.session_size - len(view.session):,} more")


def _session_trace(trace: SessionTrace, *, is_this: bool) -> None:
    tag("span", words.moment(trace.time_ms), "quiet")
    if is_this:
        tag("strong", "this trace")
    else:
        ui.link(trace.trace_id, trace_path(trace.trace_id))
    tag("span", f"{trace.state} {trace.question}".strip())
