"""Traces read the same once they are in the lake and the journal has let go of them."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from clauses import clauses
from pair import Pair, open_pair
from population import populate

from vedette.intake.journal import JournalReader
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.traces import search
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


TEXTS = [
    "trace.text LIKE '%prod%'",
    "trace.text ILIKE '%PROD%'",
    "trace.text LIKE '%wrong%' AND span.status = 'ERROR'",
    "trace.text ILIKE '%näme%' AND trace.text LIKE '%acme%'",
    "trace.text LIKE '%quoted%'",
    "trace.text LIKE '%input_tokens%17%'",
    "trace.text LIKE '%claude%' AND tags.env = 'prod'",
    "trace.text ILIKE '%session.id%S-1%'",
    "trace.text LIKE '%traceRequestId%00001%'",
    "trace.text LIKE '%AAAAAAAAA%'",
    "trace.text LIKE '%nowhere%'",
    "span.attributes.`mlflow.llm.model` RLIKE '^gpt$'",
]


def search_for_text(pair: Pair, experiments: list[str]) -> None:
    """Compare searches that look into spans."""
    for field in ("trace.text", "span.content", "span.attributes.plain"):
        for clause in clauses(field):
            pair.call("search_traces", experiments, clause)
    for text in TEXTS:
        for limit in (2, 100):
            pair.call("search_traces", experiments, text, max_results=limit)


def test_traces_in_the_lake_read_as_those_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pair(tmp_path, segment_seconds=0.2) as pair:
        experiments = populate(pair)
        assert pair.all_traces(experiments)
        monkeypatch.setattr(search, "CONTENT_BATCH", 2)  # then all content is searched
        search_for_text(pair, experiments)
        move_to_lake(pair)
        pair.all_traces(experiments)
        search_for_text(pair, experiments)
