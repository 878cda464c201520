"""The process that runs judges: ``python -m vedette.scoring.judge_host``, started by the engine.

A judge waits for an LLM nearly all of its time, so they run in threads, of any number of scorers at
once. It is MLflow's code alone that runs here, with the providers' credentials: what has source
code of its own is refused.

The engine and the host talk in `vedette.scoring.frames` over a socket, in any order:

=================  =============================================================  ==============
direction          header                                                         blobs
=================  =============================================================  ==============
engine -> host     id, serialized, name, version, seconds, model                  the unit
host -> engine     ready: true; once, first. Then, every few seconds, beat: true  none
host -> engine     id, rows, milliseconds, calls: [{model, tokens, cost_usd}],    none
                   retry or hold, if it comes to that
=================  =============================================================  ==============
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
from mlflow.genai.judges.adapters.litellm_adapter import disable_litellm_rate_limit_retries
from mlflow.genai.scorers import builtin_scorers

from vedette.intake.records import AssessmentRow
from vedette.scoring.call import Answer, ScorerCall
from vedette.scoring.confinement import die_with_parent
from vedette.scoring.failures import Failure, Permanent, classify, will_pass
from vedette.scoring.frames import FrameError, receive_frame, send_frame
from vedette.scoring.judges import has_code, refusal
from vedette.scoring.outcomes import Hold, Retry
from vedette.scoring.provider_calls import ProviderCall, install, watching

_UNIT_LIMIT = 2**31  # the engine is trusted; this only catches a broken stream
_NICENESS = 5  # as for other workers
_BEAT_SECONDS = 5.0
_SCORERS_KEPT = 128


def main() -> None:
    """Judge what comes through the socket given as the first argument, until its other end closes.

    The second argument is the URI of MLflow's server, or empty.
    """
    connection = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(os.getppid())
    os.nice(_NICENESS)
    warnings.simplefilter("ignore")  # nobody would read them
    logging.disable(logging.WARNING)
    mlflow.tracing.disable()  # a judge at work is not a trace of the agent it judges
    install(sys.argv[2])
    Host(connection).serve()


class Host:
    """Answers units as they come, each in a thread of its own: how many is for the engine to say,
    which sends no more than it wants to be under way."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._judges = _Judges()

    def serve(self) -> None:
        """Run until the engine hangs up. Threads that wait for a provider are left behind."""
        self._send({"ready": True})
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            try:
                header, blobs = receive_frame(self._connection, limit=_UNIT_LIMIT)
            except FrameError:
                os._exit(0)
            threading.Thread(target=self._answer, args=(header, blobs[0]), daemon=True).start()

    def _beat(self) -> None:
        while True:
            self._send({"beat": True})
            time.sleep(_BEAT_SECONDS)

    def _answer(self, header: dict[str, Any], payload: bytes) -> None:
        start = time.perf_counter()
        answer: dict[str, Any] = {"id": header["id"]}
        with watching(header["seconds"]) as watch, disable_litellm_rate_limit_retries():
            try:
                with self._judges.lent(header) as judge:
                    given = judge.answer(payload)
                answer |= _judged(given, watch.calls, header["model"])
            except BaseException as error:  # it can't be made of its definition
                answer |= _not_loaded(error, header)
        answer["calls"] = [
            {"model": call.model, "tokens": call.tokens, "cost_usd": call.cost_usd}
            for call in watch.calls
        ]
        answer["milliseconds"] = (time.perf_counter() - start) * 1000
        self._send(answer)

    def _send(self, header: dict[str, Any]) -> None:
        with self._sending:
            try:
                send_frame(self._connection, header)
            except OSError:  # the engine has gone
                os._exit(0)


class Refused(Exception):
    """The scorer is not of those that run here; the message says what to do."""


class _Judges:
    """Deserialised judges. One at work is not lent again: some keep notes while they judge."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[str, int, str], list[ScorerCall]] = OrderedDict()

    @contextmanager
    def lent(self, header: dict[str, Any]) -> Iterator[ScorerCall]:
        """A judge for one unit.

        Raises:
            Refused, Exception: it can't be made.
        """
        key = (header["name"], header["version"], header["serialized"])
        with self._lock:
            idle = self._idle.get(key)
            judge = idle.pop() if idle else None
        judge = judge or _loaded(header["serialized"], header["name"], header["version"])
        yield judge
        with self._lock:
            self._idle.setdefault(key, []).append(judge)
            self._idle.move_to_end(key)
            if len(self._idle) > _SCORERS_KEPT:
                self._idle.popitem(last=False)


def _loaded(serialized: str, name: str, version: int) -> ScorerCall:
    definition = json.loads(serialized)
    if reason := refusal(definition):
        raise Refused(reason)
    if has_code(definition):
        raise Refused(f"Scorer {name!r} is source code, not a judge.")
    _require_builtin_classes(definition)
    return ScorerCall(serialized, name, version)


def _require_builtin_classes(definition: Any) -> None:
    """MLflow calls whatever its module of built-in scorers has under the name in a definition."""
    if isinstance(definition, dict):
        name = definition.get("builtin_scorer_class")
        if name is not None:
            found = getattr(builtin_scorers, str(name), None)
            if not (inspect.isclass(found) and issubclass(found, builtin_scorers.BuiltInScorer)):
                raise Refused(f"MLflow has no built-in scorer {name!r}.")
        for value in definition.values():
            _require_builtin_classes(value)
    elif isinstance(definition, list):
        for value in definition:
            _require_builtin_classes(value)


def _judged(given: Answer, calls: list[ProviderCall], model: str) -> dict[str, Any]:
    errors = [row for row in given.rows if row["error"] is not None]
    texts = [json.loads(row["error"] or "{}").get("error_message") or "" for row in errors]
    failure: Failure | None = will_pass(calls, model)
    if errors and failure is None:
        failure = classify(given.error, " | ".join(texts), calls, model)
    if isinstance(failure, Retry):
        return {"rows": [], "retry": dataclasses.asdict(failure)}
    if isinstance(failure, Hold):
        return {"rows": [], "hold": dataclasses.asdict(failure)}
    if isinstance(failure, Permanent):
        for row in errors:
            _explain(row, failure)
    return {"rows": given.rows}


def _explain(row: AssessmentRow, failure: Permanent) -> None:
    error = json.loads(row["error"] or "{}")
    error |= {"error_code": failure.code, "error_message": failure.message}
    row["error"] = json.dumps(error)


def _not_loaded(error: BaseException, header: dict[str, Any]) -> dict[str, Any]:
    """A scorer that can't be made is nobody's unit's fault."""
    if isinstance(error, Refused):
        return {"rows": [], "hold": dataclasses.asdict(Hold("REFUSED", str(error)))}
    failure = classify(error, str(error), [], header["model"])
    if not isinstance(failure, Hold):
        failure = Hold("NOT_LOADED", f"Scorer {header['name']!r} can't be made: {error}")
    return {"rows": [], "hold": dataclasses.asdict(failure)}


if __name__ == "__main__":
    main()
