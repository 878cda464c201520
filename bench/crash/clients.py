"""Clients that send traces and annotations without pause and insist until they are acknowledged.

A request without an answer may or may not have been carried out, so it is sent again, as exporters
and the SDK do, unless that could do it twice.
"""

from __future__ import annotations

import http.client
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.crash.ledger import KnownAssessment, KnownTrace, Ledger
from bench.crash.spans import spans_request
from bench.json_client import HttpError, JsonClient

SPANS_PER_TRACE = 3
_COME_LATER = {429, 502, 503, 504}
_LONGEST_BACKOFF_SECONDS = 1.0
_INSIST_SECONDS = 90.0  # after the load has stopped: longer than any restart may take


class Clients:
    """All clients of one run; each is a thread with a connection of its own."""

    def __init__(self, url: str, experiment_id: str, *, traces_per_second: float) -> None:
        self.ledger = Ledger()
        self._url = url
        self._experiment_id = experiment_id
        self._stopped = threading.Event()
        self._numbers = iter(range(10**9))
        self._to_annotate: queue.Queue[KnownTrace] = queue.Queue(maxsize=200)
        share = traces_per_second / 100
        loads: Sequence[tuple[Callable[[Client], None], float]] = (
            (self._send_batch, 3.0 * share),  # of 20 traces
            (self._send_single, 15.0 * share),
            (self._send_single, 15.0 * share),
            (self._send_in_parts, 5.0 * share),
            (self._send_like_the_sdk, 5.0 * share),
            (self._annotate, 8.0 * share),
            (self._annotate, 8.0 * share),
        )
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, rate), name=work.__name__)
            for work, rate in loads
        ]

    def start(self) -> None:
        """Begin the load."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is under way, insisting for a while, and end."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[Client], None], per_second: float) -> None:
        client = Client(self._url, self._experiment_id, self.ledger, self._stopped)
        due = time.monotonic()
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            # After an outage the load goes on as before; it does not make up for what it missed.
            due = max(due, time.monotonic() - 1.0) + 1.0 / per_second
            try:
                work(client)
            except GaveUp:
                self.ledger.wrong.append(f"{work.__name__}: no answer long after the load")
                return
            except Exception as error:
                self.ledger.wrong.append(f"{work.__name__}: {error!r}")

    def _new_trace(self, *, has_root: bool = True) -> KnownTrace:
        trace_id = f"tr-{random.getrandbits(128):032x}"
        span_ids = tuple(f"{random.getrandbits(64):016x}" for _ in range(SPANS_PER_TRACE))
        trace = KnownTrace(
            trace_id, next(self._numbers), span_ids if has_root else span_ids[1:], has_root
        )
        self.ledger.traces.append(trace)
        return trace

    def _hand_over(self, trace: KnownTrace) -> None:
        if not self._to_annotate.full():
            self._to_annotate.put(trace)

    def _send_single(self, client: Client) -> None:
        trace = self._new_trace(has_root=random.random() > 0.02)
        client.send_spans("single", [(trace, trace.span_ids)])
        self._hand_over(trace)

    def _send_batch(self, client: Client) -> None:
        traces = [self._new_trace() for _ in range(20)]
        client.send_spans("batch", [(trace, trace.span_ids) for trace in traces])
        self._hand_over(random.choice(traces))

    def _send_in_parts(self, client: Client) -> None:
        trace = self._new_trace()
        root, *children = trace.span_ids
        parts: list[Sequence[str]] = [children, [root]]
        for part in parts if random.random() < 0.7 else reversed(parts):
            client.send_spans("part", [(trace, part)])

    def _send_like_the_sdk(self, client: Client) -> None:
        trace = self._new_trace()
        trace.tags["origin"] = "sdk"
        steps: list[Callable[[], None]] = [
            lambda: client.start_trace(trace),
            lambda: client.send_spans("sdk spans", [(trace, trace.span_ids)]),
        ]
        random.shuffle(steps)
        for step in steps:
            step()
        self._hand_over(trace)

    def _annotate(self, client: Client) -> None:
        try:
            trace = self._to_annotate.get(timeout=0.5)
        except queue.Empty:
            return
        for number in range(random.randint(1, 3)):
            client.set_tag(trace, random.choice(("color", "team")), f"value {number}")
        if random.random() < 0.4:
            client.delete_tag(trace, random.choice(sorted(trace.tags)))
        for _ in range(random.randint(1, 2)):
            assessment = client.assess(trace)
            if assessment.assessment_id is None:
                continue
            if random.random() < 0.5:
                client.change_assessment(trace, assessment)
            if random.random() < 0.4:
                client.delete_assessment(trace, assessment)
        if random.random() < 0.05:
            client.delete_trace(trace)


class GaveUp(Exception):
    """The load is over and the server still does not answer."""


class Client:
    """The requests, each insisting until it is acknowledged, and the ledger's entries for them."""

    def __init__(
        self, url: str, experiment_id: str, ledger: Ledger, stopped: threading.Event
    ) -> None:
        self._http = JsonClient(url, timeout=60.0)
        self._experiment_id = experiment_id
        self._ledger = ledger
        self._stopped = stopped

    def send_spans(self, kind: str, parts: Iterable[tuple[KnownTrace, Sequence[str]]]) -> None:
        """Spans of one or more traces in one OTLP request."""
        parts = list(parts)
        body = spans_request(parts)
        headers = {
            "content-type": "application/x-protobuf",
            "x-mlflow-experiment-id": self._experiment_id,
        }

        def attempt() -> None:
            for trace, span_ids in parts:
                trace.sends.update(span_ids)
            self._http.send("POST", "/v1/traces", body, headers)

        self._insist(kind, attempt)
        for trace, span_ids in parts:
            trace.acknowledged.update(span_ids)

    def start_trace(self, trace: KnownTrace) -> None:
        """What the SDK says of a trace when its root has ended."""
        info = {
            "trace_id": trace.trace_id,
            "trace_location": {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": self._experiment_id},
            },
            "request_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "execution_duration": "1.500s",
            "state": "OK",
            "trace_metadata": {"mlflow.trace.session": f"session-{trace.number // 5}"},
            "tags": {"origin": "sdk"},
        }

        def attempt() -> None:
            trace.header_sends += 1
            self._http.call("POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})

        self._insist("start_trace", attempt)
        trace.header_acknowledged = True

    def set_tag(self, trace: KnownTrace, key: str, value: str) -> None:
        """The last value set counts."""
        path, body = f"/api/3.0/mlflow/traces/{trace.trace_id}/tags", {"key": key, "value": value}
        self._insist("set tag", lambda: self._http.call("PATCH", path, body))
        trace.tags[key] = value

    def delete_tag(self, trace: KnownTrace, key: str) -> None:
        """It must exist."""
        path = f"/api/2.0/mlflow/traces/{trace.trace_id}/tags"
        self._insist("delete tag", lambda: self._http.call("DELETE", path, {"key": key}), gone=True)
        trace.tags[key] = None

    def assess(self, trace: KnownTrace) -> KnownAssessment:
        """A new feedback or expectation; sent once, since each request makes another one."""
        name = f"human-{random.getrandbits(48):012x}"
        number = random.randrange(100)
        kind = random.choice(("feedback", "expectation"))
        assessment = KnownAssessment(name, None, number)
        trace.assessments.append(assessment)
        body = {
            "assessment_name": name,
            "trace_id": trace.trace_id,
            "source": {"source_type": "HUMAN", "source_id": "reviewer"},
            kind: {"value": number},
        }
        path = f"/api/3.0/mlflow/traces/{trace.trace_id}/assessments"
        answer = self._insist(
            "assess", lambda: self._http.call("POST", path, {"assessment": body}), again=False
        )
        if answer is not None:
            assessment.assessment_id = answer["assessment"]["assessment_id"]
        return assessment

    def change_assessment(self, trace: KnownTrace, assessment: KnownAssessment) -> None:
        """Another rationale; the value stays."""
        path = f"/api/3.0/mlflow/traces/{trace.trace_id}/assessments/{assessment.assessment_id}"
        body = {
            "assessment": {
                "assessment_id": assessment.assessment_id,
                "trace_id": trace.trace_id,
                "rationale": "looked at it again",
            },
            "update_mask": "rationale",
        }
        self._insist("update assessment", lambda: self._http.call("PATCH", path, body))

    def delete_assessment(self, trace: KnownTrace, assessment: KnownAssessment) -> None:
        """It must exist."""
        path = f"/api/3.0/mlflow/traces/{trace.trace_id}/assessments/{assessment.assessment_id}"
        self._insist("delete assessment", lambda: self._http.call("DELETE", path, {}), gone=True)
        assessment.deleted = True

    def delete_trace(self, trace: KnownTrace) -> None:
        """The whole trace."""
        body = {"experiment_id": self._experiment_id, "request_ids": [trace.trace_id]}
        path = "/api/3.0/mlflow/traces/delete-traces"
        self._insist("delete trace", lambda: self._http.call("POST", path, body))
        trace.deleted = True

    def _insist(
        self, kind: str, attempt: Callable[[], Any], *, again: bool = True, gone: bool = False
    ) -> Any:
        """Attempt until acknowledged.

        Args:
            kind: for the ledger.
            attempt: sends the request and returns the answer.
            again: whether an attempt without an answer may be repeated; None is returned if not.
            gone: whether 404 means that an earlier attempt, without an answer, was carried out.

        Raises:
            GaveUp: no acknowledgement long after the load was stopped.
        """
        backoff, unanswered, give_up_at = 0.05, False, 0.0
        while True:
            try:
                answer = attempt()
            except HttpError as error:
                if error.status in _COME_LATER:
                    self._ledger.refused[kind] += 1
                elif error.status == 404 and gone and unanswered:
                    answer = {}
                    break
                else:
                    raise
            except (OSError, http.client.HTTPException):
                self._ledger.unanswered[kind] += 1
                unanswered = True
                if not again:
                    return None
            else:
                break
            if self._stopped.is_set():
                give_up_at = give_up_at or time.monotonic() + _INSIST_SECONDS
                if time.monotonic() > give_up_at:
                    raise GaveUp
            time.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
        self._ledger.acknowledged[kind] += 1
        return answer
