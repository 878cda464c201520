"""Engine and workers killed at any moment: each trace ends with one score of each scorer."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from scoring_support import MadeSpans, Plane, make_control_database, spans_record, trace_number
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Position
from vedette.scoring.runner import Scoring
from vedette.scoring.sample import draw
from vedette.scoring.sandbox import missing_for_isolation
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

TRACES = 600
ISOLATED = missing_for_isolation() is None
RATES = {"all": 1.0, "some": 0.2, "few": 0.02}


def engine(data: Path) -> None:
    """What the engine does for scoring, until it is killed."""
    settings = Settings(data=data, trace_completion_buffer=0.0)
    index = TraceIndex(settings.index_path)
    journal = JournalWriter(settings.engine_journal)
    readers = [JournalReader(settings.server_journal), JournalReader(settings.engine_journal)]
    scoring = Scoring(settings, index, MadeSpans(index), journal)
    while True:
        index.catch_up(readers)
        if not scoring.tick():
            time.sleep(0.01)


def is_worker(process: psutil.Process) -> bool:
    """Whether it was forked by the forking process; isolated, that is a fork itself."""
    above = [one for one in process.parents() if "vedette.scoring.start" in one.cmdline()]
    return len(above) == (2 if ISOLATED else 1)


def journaled(reader: JournalReader) -> Counter[tuple[str, int]]:
    """How often a score of each scorer and trace was written."""
    written = Counter[tuple[str, int]]()
    position = Position(0, 0)
    while found := reader.read(position):
        for record, position in found:  # noqa: B007, the last one is where to go on
            for row in record.fields["put"]:
                written[row["name"], trace_number(row["trace_id"])] += 1
    return written


def test_sigkill_of_engine_and_workers_loses_no_score_and_doubles_none(tmp_path: Path) -> None:
    make_control_database(tmp_path / "control.db")
    plane = Plane(tmp_path)
    plane.engine_journal.close()  # the engines of this test write it
    reader = plane.readers[1]
    for name, rate in RATES.items():
        plane.register("0", name, "import time\ntime.sleep(0.003)\nreturn inputs")
        plane.start("0", name, rate=rate)

    def arrive(numbers: range) -> None:
        shuffled = random.Random(1).sample(numbers, len(numbers))
        plane.arrive(*(spans_record("0", number) for number in shuffled))

    def live(until: Callable[[], bool], harm: Callable[[psutil.Process], None]) -> None:
        """Run an engine until something holds, then kill it; meanwhile do it harm."""
        process = multiprocessing.get_context("spawn").Process(target=engine, args=(tmp_path,))
        process.start()
        family: set[psutil.Process] = set()
        deadline = time.monotonic() + 120
        while not until():
            assert process.is_alive()
            assert time.monotonic() < deadline
            children = psutil.Process(process.pid).children(recursive=True)
            family.update(children)
            for child in children:
                harm(child)
            time.sleep(0.02)
        process.kill()
        process.join()
        _, orphans = psutil.wait_procs(family, timeout=10)
        assert not orphans

    def kill_workers(child: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_worker(child) and random.random() < 0.02:
                child.kill()

    def leave(_: psutil.Process) -> None:
        pass

    expected = {
        (name, number)
        for name, rate in RATES.items()
        for number in range(TRACES)
        if draw(f"tr-{number:032x}") < rate
    }
    arrive(range(TRACES // 2))
    live(lambda: len(journaled(reader)) > 20, leave)
    arrive(range(TRACES // 2, TRACES))
    live(lambda: len(journaled(reader)) > len(expected) // 2, kill_workers)
    live(lambda: len(journaled(reader)) == len(expected), leave)

    plane.fold()
    scores = {(name, s.number): s for name in RATES for s in plane.scores("0", name)}
    rows = plane.index.connection().execute("SELECT count(*) FROM assessments").fetchone()[0]
    assert scores.keys() == expected
    assert rows == len(expected)
    assert all(score.value == number for (_, number), score in scores.items())
    plane.server_journal.close()
