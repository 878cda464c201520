"""Scorers go on where they were, in a read model that is made anew.

In the new one all arrivals are known at once: a unit has its position by its last. One to which
something came after it had been decided may then lie behind the scorer's; its decision tells. But
none that was waiting lies before it: nothing is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vedette.intake.records import Record, Stream
from vedette.named_sql import statements
from vedette.scoring.arrival_order import arrival, at_ms, position_of
from vedette.scoring.completion import Completion
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "resume")
_NOTED = 10_000  # annotated traces that are written down at a time


class Resumption:
    """Learns from the records how far scorers were, then gives places to units and scorers.

    Args:
        index: the new read model, into which the records are folded meanwhile.
        completion: of its units.
    """

    def __init__(self, index: TraceIndex, completion: Completion) -> None:
        self._index = index
        self._completion = completion
        self._reached: dict[str, int] = {}  # by scorer: `Decisions.arrived_until`, 0 for None
        # `EpochRow.after_arrival` and ``of_sessions``, by scorer and number
        self._epochs: dict[tuple[str, int], tuple[int, bool]] = {}
        self._of_sessions: dict[str, bool] = {}  # by scorer: as its newest epoch has it
        self._annotated: dict[str, int] = {}  # by trace: when it was last, in ms since the epoch
        index.connection().execute(_SQL["make_annotated_at"])

    def note(self, record: Record) -> None:
        """Take notice of the record that comes next."""
        self._annotated.update(dict.fromkeys(_annotated(record), record.at))
        if len(self._annotated) > _NOTED:
            self._write_annotated()
        if record.kind == "decisions":
            scorer = record.fields["scorer"]
            self._of_sessions.setdefault(scorer, False)
            for epoch in record.fields["epochs"]:
                after = epoch.get("after_arrival", arrival(epoch["opened_ms"], ""))
                of_sessions = epoch.get("of_sessions", False)
                self._epochs.setdefault((scorer, epoch["epoch"]), (after, of_sessions))
                self._of_sessions[scorer] = of_sessions
            if "arrived_until" in record.fields:
                self._reached[scorer] = record.fields["arrived_until"] or 0

    def finish(self, folded_until_ms: int, reached: Callable[[str], int | None]) -> list[str]:
        """Give places to what is complete, and to scorers and epochs theirs among them.

        Args:
            folded_until_ms: what arrived until then is in the read model.
            reached: how far a scorer was of which no record says it; 0: it was stopped, None: that
                is not known.

        Returns:
            The scorers of which it is not known: they begin after what is complete.
        """
        unknown: list[str] = []
        for scorer in sorted(self._of_sessions.keys() - self._reached.keys()):
            if (until := reached(scorer)) is None:
                unknown.append(scorer)
            else:
                self._reached[scorer] = until
        cursors = {scorer: until for scorer, until in self._reached.items() if until}
        # Positions that were never given before: counts in the ledger are told apart by them
        begin = time.time_ns() // 1000
        self._index.connection().execute(_SQL["begin_positions"], {"position": begin})
        self._completion.recall()
        # What they have passed was complete, even if no record tells that it had gone quiet
        known = [
            self._completion.folded_until(until, of_sessions=self._of_sessions[scorer])
            for scorer, until in cursors.items()
        ]
        self._completion.advance(folded_until_ms=max(folded_until_ms, *known, 0), annotations=False)
        self._write_annotated()

        def position(until: int, of_sessions: bool) -> int:
            found = position_of(self._index, until, of_sessions=of_sessions)
            return begin if found is None else found

        with self._index.transaction() as connection:
            for (scorer, epoch), after in self._epochs.items():
                values = {"scorer": scorer, "epoch": epoch, "position": position(*after)}
                connection.execute(_SQL["put_epoch_position"], values)
            for scorer, until in cursors.items():
                place = position(until, self._of_sessions[scorer])
                values = {"scorer": scorer, "position": place}
                connection.execute(_SQL["put_cursor"], values)
            live = [until for scorer, until in cursors.items() if Stream.of(scorer).job is None]
            if live:  # filters may compare what scoring hasn't looked at yet
                since = {"since": at_ms(min(live))}
                connection.execute(_SQL["recall_annotated"], since)
        return unknown

    def _write_annotated(self) -> None:
        with self._index.transaction() as connection:
            connection.executemany(_SQL["put_annotated_at"], self._annotated.items())
        self._annotated.clear()


def _annotated(record: Record) -> list[str]:
    """Ids of the traces of which a record says something that a filter may compare."""
    fields = record.fields
    if record.kind in ("set_tag", "delete_tag"):
        return [fields["trace_id"]]
    if record.kind in ("assessments", "decisions"):
        put = [row["trace_id"] for row in fields.get("put", ())]
        return put + [trace_id for trace_id, _ in fields.get("delete", ())]
    return []
