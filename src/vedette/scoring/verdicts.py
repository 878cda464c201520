"""From a scorer's outcome to what is recorded: a decision, and the scores people see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vedette.intake.records import AssessmentRow, DecisionRow, Stream
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.answers import failed_row
from vedette.scoring.backoff import given_up, next_try
from vedette.scoring.batches import Attempt
from vedette.scoring.completion import newest_revision, session_traces
from vedette.scoring.ids import assessment_id
from vedette.scoring.outcomes import Outcome, Usage
from vedette.scoring.retries import Retries
from vedette.scoring.selection import Choice
from vedette.scoring.spending import Spending
from vedette.traces.index import TraceIndex
from vedette.traces.infos import assessment_rows

_SQL = statements("vedette.scoring", "decided")
_VALUE_LIMIT = 2_000  # characters of a score's value that the ledger repeats
_ERROR_LIMIT = 1_000
_REMEMBERED = 10_000  # sessions
_NO_USAGE = Usage(calls=0, input_tokens=None, output_tokens=None, cost_usd=None, model=None)


class _Before(NamedTuple):
    """A decision on a unit, see `DecisionRow`."""

    revision: int
    version: int
    decision: str
    decided_ms: int
    scores: str


class Verdicts:
    """Makes the rows of decisions.

    Args:
        retries: is told what is to be tried again, once that is on disk.
        spending: is told what was spent, likewise.
    """

    def __init__(self, index: TraceIndex, retries: Retries, spending: Spending) -> None:
        self._index = index
        self._retries = retries
        self._spending = spending
        # Scores of sessions written lately: the read model may not have them yet
        self._written: dict[tuple[str, str], list[AssessmentRow]] = {}

    def of(
        self, scorer: ActiveScorer, attempt: Attempt, outcome: Outcome
    ) -> tuple[DecisionRow, list[AssessmentRow]]:
        """The decision on a unit and the assessments to write with it."""
        now = int(time.time() * 1000)
        attempt = self._at_home(scorer, attempt)
        first = attempt.first_ms or now
        again: int | None = None
        answers = outcome.rows
        before: list[_Before] = []
        if attempt.revision or scorer.job is not None:
            before = self._before(scorer, attempt)
        superseded = self._has_newer(scorer, attempt) or _is_outdated(scorer, attempt, before)
        if superseded:
            answers = []
        elif outcome.retry is not None:
            unit = f"{scorer.key} {attempt.unit_id} {attempt.revision}"
            at = next_try(unit, attempt.number, first / 1000, now / 1000, outcome.retry)
            if at is None:
                told = given_up(outcome.retry, attempt.number, (now - first) / 1000)
                answers = [failed_row(scorer.name, *told)]
            else:
                again = int(at * 1000)
        rows = self._rows(scorer, attempt, answers)
        code, message = _error(outcome, answers, again)
        usage = outcome.usage or _NO_USAGE
        if superseded:
            decision = "superseded"
        elif outcome.left is not None:
            decision, message = outcome.left.decision, outcome.left.message
        elif again is not None:
            decision = "retrying"
        else:
            decision = "failed" if code is not None else "scored"
            if attempt.unit_type == "session" or scorer.job is not None:
                rows += self._invalidated(scorer, attempt, rows, before)
        decided = _decision(scorer, attempt, decision, now)
        decided["scores"] = _scores(rows)
        decided["error_code"], decided["error"] = code, message
        decided["first_attempt_ms"], decided["next_attempt_ms"] = first, again
        decided["milliseconds"], decided["worker"] = outcome.milliseconds, outcome.worker or None
        decided["model"], decided["calls"] = usage.model, usage.calls
        decided["input_tokens"], decided["output_tokens"] = usage.input_tokens, usage.output_tokens
        decided["cost_usd"] = usage.cost_usd
        return decided, rows

    def undrawn(self, scorer: ActiveScorer, choice: Choice) -> DecisionRow:
        """The decision on a unit that isn't selected, but may be when its annotations change, or
        whose scores are reused."""
        now = int(time.time() * 1000)
        decided = _decision(scorer, Attempt.first(choice), choice.decision, now)
        decided["attempts"], decided["scores"] = 0, choice.scores
        return decided

    def over_budget(self, scorer: ActiveScorer, attempt: Attempt, reason: str) -> DecisionRow:
        """The decision on a unit that there is no budget to score."""
        decided = _decision(scorer, attempt, "budget", int(time.time() * 1000))
        decided["error_code"], decided["error"] = "BUDGET", reason
        decided["attempts"], decided["first_attempt_ms"] = attempt.number - 1, attempt.first_ms
        return decided

    def journaled(self, scorer: str, decisions: Sequence[DecisionRow]) -> None:
        """These decisions are on disk."""
        self._retries.note(scorer, decisions)
        self._spending.note_decided(scorer, decisions)

    def _at_home(self, scorer: ActiveScorer, attempt: Attempt) -> Attempt:
        """The attempt on the trace that has its score: a session's first may have been deleted."""
        if attempt.unit_type == "trace":
            return attempt
        values = {"trace_id": attempt.trace_id}
        if self._index.connection().execute(_SQL["trace_exists"], values).fetchone():
            return attempt
        left = session_traces(self._index, scorer.experiment_id, attempt.unit_id)
        return replace(attempt, trace_id=next(iter(left.values()), attempt.trace_id))

    def _rows(
        self, scorer: ActiveScorer, attempt: Attempt, answers: Iterable[AssessmentRow]
    ) -> list[AssessmentRow]:
        return [
            AssessmentRow(
                {
                    **row,
                    "assessment_id": assessment_id(
                        experiment_id=scorer.experiment_id,
                        scorer=scorer.name,
                        version=scorer.version,
                        unit=attempt.unit_id,
                        revision=attempt.revision,
                        index=index,
                    ),
                    "trace_id": attempt.trace_id,
                }
            )
            for index, row in enumerate(answers)
        ]

    def _has_newer(self, scorer: ActiveScorer, attempt: Attempt) -> bool:
        """Whether the session has become complete anew meanwhile: that revision is what counts."""
        return attempt.unit_type == "session" and attempt.revision < newest_revision(
            self._index, scorer.experiment_id, attempt.unit_id
        )

    def _before(self, scorer: ActiveScorer, attempt: Attempt) -> list[_Before]:
        """What was decided of the unit, and of earlier revisions, by any stream of the scorer."""
        live = scorer.stream.live
        values = {"unit_id": attempt.unit_id, "revision": attempt.revision}
        found = self._index.connection().execute(_SQL["scores_before"], values)
        return [_Before(*row) for key, *row in found if Stream.of(key).live == live]

    def _invalidated(
        self,
        scorer: ActiveScorer,
        attempt: Attempt,
        rows: Sequence[AssessmentRow],
        before: Sequence[_Before],
    ) -> list[AssessmentRow]:
        """The scores of a session's earlier revisions, or those that an older version gave before a
        backfill, no longer valid; the new ones name them."""
        unit = scorer.stream.live, attempt.unit_id
        old = self._written.pop(unit, None)
        if old is None:
            ids = [score["assessment_id"] for one in before for score in json.loads(one.scores)]
            found = assessment_rows(self._index.connection(), ids) if ids else []
            old = [row for row in found if row["valid"]]
        new_ids = {row["assessment_id"] for row in rows}
        gone = [
            AssessmentRow({**row, "valid": False})
            for row in old
            if row["assessment_id"] not in new_ids
        ]
        for row in gone:
            for new in rows:
                if new["name"] == row["name"]:
                    new["overrides"] = row["assessment_id"]
        if attempt.unit_type == "session":
            self._written[unit] = list(rows)
        while len(self._written) > _REMEMBERED:
            self._written.pop(next(iter(self._written)))
        return gone


def _is_outdated(scorer: ActiveScorer, attempt: Attempt, before: Iterable[_Before]) -> bool:
    """Whether a later version has scored the unit since the backfill was asked for: that counts."""
    return scorer.asked_ms is not None and any(
        one.version > scorer.version
        and one.revision == attempt.revision
        and one.decision in ("scored", "failed")
        and one.decided_ms >= scorer.asked_ms
        for one in before
    )


def _decision(scorer: ActiveScorer, attempt: Attempt, decision: str, now_ms: int) -> DecisionRow:
    """A decision of which nothing is known but its unit."""
    return DecisionRow(
        unit_id=attempt.unit_id,
        unit_type=attempt.unit_type,
        trace_id=attempt.trace_id,
        revision=attempt.revision,
        version=scorer.version,
        epoch=attempt.epoch,
        stratum=attempt.stratum,
        inclusion_probability=attempt.inclusion_probability,
        draw=attempt.draw,
        decision=decision,
        scores="[]",
        error_code=None,
        error=None,
        attempts=attempt.number,
        first_attempt_ms=None,
        next_attempt_ms=None,
        milliseconds=None,
        worker=None,
        model=None,
        calls=0,
        input_tokens=None,
        output_tokens=None,
        cost_usd=None,
        completed_ms=attempt.completed_ms,
        decided_ms=now_ms,
        origin=scorer.stream.origin,
    )


def _scores(rows: Sequence[AssessmentRow]) -> str:
    return json.dumps(  # not orjson: it can't write every value that a scorer may give
        [
            {
                "assessment_id": row["assessment_id"],
                "name": row["name"],
                "value": json.loads(row["value"]) if len(row["value"]) <= _VALUE_LIMIT else None,
            }
            for row in rows
            if row["valid"]
        ],
        ensure_ascii=False,
    )


def _error(
    outcome: Outcome, answers: Sequence[AssessmentRow], again: int | None
) -> tuple[str | None, str | None]:
    """What went wrong, if no score came of it."""
    if outcome.retry is not None and again is not None:
        return outcome.retry.code, outcome.retry.message[:_ERROR_LIMIT]
    errors = [row["error"] for row in answers if row["error"] is not None]
    if not errors or len(errors) < len(answers):
        return None, None
    told: dict[str, Any] = json.loads(errors[0])
    return (
        str(told.get("error_code") or "SCORER_ERROR"),
        str(told.get("error_message") or "")[:_ERROR_LIMIT],
    )
