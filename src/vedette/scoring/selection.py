"""Which of the completed units a scorer is to score, and why not the others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.completion import CompletedUnit, newest_revision
from vedette.scoring.epochs import BASE_STRATUM, Epoch, Epochs
from vedette.scoring.sample import draw
from vedette.traces.conditions import prepare
from vedette.traces.filters import TraceFilter, compile_filter
from vedette.traces.index import TraceIndex
from vedette.traces.matching import Contents, matching_spans
from vedette.traces.patterns import limited_time

_SQL = statements("vedette.scoring", "decided")

SELECTED = "selected"
_OPEN = ("filtered", "not_selected")  # decisions that annotations may change


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided of one unit before any scorer ran.

    Attributes:
        decision: ``selected``, or one that needs no scorer.
        count: units to be counted: 1, or -1 to take back what was counted before.
        open: it leaves a row, not a count: annotations may yet change it, or it is reused.
        scores: those that are reused, as decisions have them.
    """

    unit: CompletedUnit
    decision: str
    epoch: Epoch
    stratum: int = BASE_STRATUM
    draw: float = 0.0
    count: int = 1
    open: bool = False
    scores: str = "[]"


class Selection:
    """Chooses units for scorers, by filter and hash."""

    def __init__(self, index: TraceIndex, contents: Contents) -> None:
        self._index = index
        self._contents = contents

    def choose(
        self,
        scorer: ActiveScorer,
        epochs: Epochs,
        epoch: Epoch,
        units: Sequence[CompletedUnit],
        under_way: Mapping[tuple[str, int], tuple[str, int]] | None = None,
    ) -> list[Choice]:
        """Decide these units, in order; those that aren't the scorer's business are left out.

        Args:
            epochs: the scorer's.
            epoch: that in which the units became complete.
            under_way: what the read model doesn't know of yet: decision and stratum by unit id and
                revision.

        Raises:
            MlflowException: the filter, or one of a stratum, is not valid or takes too long.
            LakeUnavailable: a filter compares span content, which can't be read now.
        """
        choices: list[Choice] = []
        candidates: list[CompletedUnit] = []
        again: set[int] = set()  # rows of traces that need no second look at their annotations
        annotated: dict[int, tuple[Epoch, list[CompletedUnit]]] = {}
        before: dict[int, tuple[str, int] | None] = {}  # by place: decision and stratum until now
        concern = [
            unit
            for unit in units
            if unit.experiment_id == scorer.experiment_id
            and (unit.session_id is not None) == scorer.is_session_level
        ]
        decided = self._decided(scorer, concern)
        for unit in concern:
            if unit.reason == "annotated":
                if unit.row not in again and (found := self._as_it_was(epochs, unit)):
                    then, unit_then = found
                    known = self._decided_before(scorer, unit, under_way or {})
                    if known is None or known[0] in _OPEN:
                        before[unit.position] = known
                        annotated.setdefault(then.number, (then, []))[1].append(unit_then)
                again.add(unit.row)
                continue
            again.add(unit.row)
            if (unit.unit_id, unit.revision) in decided:
                continue
            if unit.reason == "late_root":
                choices += self._taken_back(epochs, unit)
            if decision := self._at_once(unit):
                choices.append(Choice(unit, decision, epoch))
            else:
                candidates.append(unit)
        choices += self._sampled(epoch, candidates, live=scorer.job is None)
        for then, members in annotated.values():
            choices += [
                choice
                for choice in self._sampled(then, members, live=True)
                if (choice.decision, choice.stratum) != before[choice.unit.position]
            ]
        return sorted(choices, key=lambda choice: choice.unit.position)

    def _at_once(self, unit: CompletedUnit) -> str | None:
        """The decision that needs neither filter nor hash, if one does."""
        if unit.reason == "incomplete":
            return "incomplete"
        if unit.deleted:
            return "deleted"
        if unit.of_run:
            return "evaluation_run"
        if unit.session_id is not None and unit.revision < newest_revision(
            self._index, unit.experiment_id, unit.session_id
        ):
            return "superseded"
        return None

    def _taken_back(self, epochs: Epochs, unit: CompletedUnit) -> list[Choice]:
        """What was counted of a trace when it was given up, where it was counted."""
        found = self._index.connection().execute(_SQL["was_incomplete"], {"trace": unit.row})
        taken: list[Choice] = []
        for position, completed_ms in found:
            then = epochs.holding(position)
            if then is not None and (then.left or not then.stopped):
                counted = "stopped" if then.left else "incomplete"
                unit_then = replace(unit, completed_ms=completed_ms)
                taken.append(Choice(unit_then, counted, then, count=-1))
        return taken

    def _as_it_was(self, epochs: Epochs, unit: CompletedUnit) -> tuple[Epoch, CompletedUnit] | None:
        """A trace whose annotations changed, as it was when it became complete, and the epoch of
        that time: its probability holds. None if it is not to be considered again."""
        values = {"trace": unit.row, "before": unit.position}
        row = self._index.connection().execute(_SQL["was_complete"], values).fetchone()
        if row is None or row[0] <= epochs.begin or unit.of_run or unit.deleted:
            return None
        epoch = epochs.holding(row[0])
        if epoch is None or not _follows_annotations(epoch):
            return None
        return epoch, replace(unit, completed_ms=row[1])

    def _decided(
        self, scorer: ActiveScorer, units: Sequence[CompletedUnit]
    ) -> set[tuple[str, int]]:
        """Those that were decided before the read model was made anew: id and revision."""
        ids = json.dumps([unit.unit_id for unit in units])
        values = {"scorer": scorer.key, "ids": ids}
        return set(self._index.connection().execute(_SQL["decided"], values).fetchall())

    def _decided_before(
        self,
        scorer: ActiveScorer,
        unit: CompletedUnit,
        under_way: Mapping[tuple[str, int], tuple[str, int]],
    ) -> tuple[str, int] | None:
        """Decision and stratum of a unit until now."""
        if found := under_way.get((unit.unit_id, unit.revision)):
            return found
        values = {"scorer": scorer.key, "unit_id": unit.unit_id, "revision": unit.revision}
        row: tuple[str, int] | None = (
            self._index.connection().execute(_SQL["decided_before"], values).fetchone()
        )
        return row

    def _sampled(self, epoch: Epoch, units: Sequence[CompletedUnit], *, live: bool) -> list[Choice]:
        """Filter and hash decide."""
        is_open = live and _follows_annotations(epoch) and not epoch.of_sessions
        return [
            replace(choice, open=is_open and choice.decision != SELECTED)
            for choice in self._drawn(epoch, units)
        ]

    def _drawn(self, epoch: Epoch, units: Sequence[CompletedUnit]) -> list[Choice]:
        draws = {unit.position: draw(unit.unit_id) for unit in units}
        choices: list[Choice] = []
        compiled = _compiled(epoch.filter_string, units)
        left = list(units)
        if compiled.spans is not None:
            # Reading spans of what can't be selected anyway would cost more than all the rest
            left = [unit for unit in units if draws[unit.position] < epoch.highest]
            choices += [
                Choice(unit, "not_selected", epoch, draw=draws[unit.position])
                for unit in units
                if draws[unit.position] >= epoch.highest
            ]
        matching = self._matching(compiled, left)
        choices += [
            Choice(unit, "filtered", epoch, draw=draws[unit.position])
            for unit in left
            if unit.position not in matching
        ]
        left = [unit for unit in left if unit.position in matching]
        for unit, stratum in self._stratified(epoch, left):
            u = draws[unit.position]
            decision = SELECTED if u < epoch.probability(stratum) else "not_selected"
            choices.append(Choice(unit, decision, epoch, stratum, u))
        return choices

    def _stratified(
        self, epoch: Epoch, units: Sequence[CompletedUnit]
    ) -> list[tuple[CompletedUnit, int]]:
        """Each unit with the first of the strata that it matches."""
        strata = dict.fromkeys((unit.position for unit in units), BASE_STRATUM)
        left = list(units)
        for number, (filter_string, _) in enumerate(epoch.strata):
            found = self._matching(_compiled(filter_string, left), left)
            strata.update(dict.fromkeys(found, number))
            left = [unit for unit in left if unit.position not in found]
        return [(unit, strata[unit.position]) for unit in units]

    def _matching(self, compiled: TraceFilter, units: Sequence[CompletedUnit]) -> set[int]:
        """The places of the units that match; a session matches if its first trace does."""
        if not compiled.conditions or not units:
            return {unit.position for unit in units}
        connection: sqlite3.Connection = self._index.connection()
        where = compiled.where()
        prepare(connection)
        with limited_time():
            found = connection.execute(
                "SELECT t.id FROM traces t"
                f" WHERE t.id IN (SELECT value FROM json_each(?)) AND ({where.text})",
                (json.dumps([unit.row for unit in units]), *where.params),
            )
            rows = {row for (row,) in found}
            if compiled.spans is not None:
                rows = set(matching_spans(connection, self._contents, compiled.spans, sorted(rows)))
        return {unit.position for unit in units if unit.row in rows}


def follows_annotations(scorer: ActiveScorer) -> bool:
    """Whether its filter, or one of its strata, may match a trace because of what is said of it
    after it became complete.

    Raises:
        MlflowException: a filter is not valid.
    """
    return _any_on_annotations([scorer.filter_string, *(text for text, _ in scorer.strata)])


def _follows_annotations(epoch: Epoch) -> bool:
    return _any_on_annotations([epoch.filter_string, *(text for text, _ in epoch.strata)])


def _any_on_annotations(filters: Sequence[str | None]) -> bool:
    return any(compile_filter(text, None).on_annotations for text in filters if text)


def _compiled(filter_string: str | None, units: Sequence[CompletedUnit]) -> TraceFilter:
    experiments = sorted({int(unit.experiment_id) for unit in units})
    return compile_filter(filter_string, experiments or None)
