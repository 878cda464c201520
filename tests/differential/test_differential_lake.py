"""Traces read the same once they are in the lake and the journal has let go of them."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from clauses import clauses
from pair import Pair, open_pair
from population import populate

from vedette.intake.journal import JournalReader
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.traces.index import TraceIndex

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def move_to_lake(pair: Pair) -> None:
    """What the engine does, until nothing is left to do."""
    settings = pair.plane.settings
    journal = JournalReader(settings.server_journal)
    lake = Lake(settings.lake_uri, settings.data / "lake.state")
    tail = Tail(journal, TraceIndex(settings.index_path), lake)
    deadline = time.monotonic() + 20
    while journal.sealed_segments() or journal.end().offset:  # the last one is sealed by age
        assert time.monotonic() < deadline
        while tail.advance():
            pass
        tail.commit_sealed(lambda: False)
        time.sleep(0.05)


def test_traces_in_the_lake_read_as_those_in_the_journal(tmp_path: Path) -> None:
    with open_pair(tmp_path, segment_seconds=0.2) as pair:
        experiments = populate(pair)
        assert pair.all_traces(experiments)
        move_to_lake(pair)
        pair.all_traces(experiments)
        for field in ("trace.text", "span.content", "span.attributes.plain"):
            for clause in clauses(field):
                pair.call("search_traces", experiments, clause)
