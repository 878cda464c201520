"""A backfill scores history: which units, exactly, whatever happens meanwhile."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from backfill_support import asked, backfill, finish
from scoring_support import MadeSpans, Plane, make_control_database, spans_record, trace_number
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.intake.records import Position, Record
from vedette.scoring.asked_backfill import forecast
from vedette.scoring.backfill_progress import backfill_progress
from vedette.scoring.backfills import Backfill
from vedette.scoring.epochs import stored_epochs
from vedette.scoring.pace import Pace
from vedette.scoring.runner import Scoring
from vedette.scoring.sample import draw
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

_BEGAN_MS = 1_700_000_000_000  # the first trace
_FINE = "return len(str(outputs)) > 0"


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control") / "control.db"
    make_control_database(path)
    return path


@pytest.fixture
def plane(tmp_path: Path, control: Path) -> Iterator[Plane]:
    (tmp_path / "control.db").write_bytes(control.read_bytes())
    made = Plane(tmp_path)
    made.store.create_experiment("agent")
    yield made
    made.close()


def counts(plane: Plane, job: Backfill, name: str = "probe") -> dict[str, int]:
    return plane.counts(f"1:{job.job}", name)


def decided(plane: Plane, job: Backfill, name: str = "probe") -> dict[Any, dict[str, Any]]:
    return plane.decisions(f"1:{job.job}", name)


def sample(numbers: range, rate: float) -> list[int]:
    """What hash and rate say."""
    return [number for number in numbers if draw(f"tr-{number:032x}") < rate]


def arrive(plane: Plane, numbers: range, **options: Any) -> None:
    plane.arrive(*(spans_record("1", n, begun=n, **options) for n in numbers))
    plane.settle()


def test_a_backfill_scores_the_sample_that_hash_and_rate_say(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    arrive(plane, range(1, 201))
    job = backfill(plane, ("probe", 0.3))
    finish(plane, job)
    chosen = sample(range(1, 201), 0.3)
    assert plane.scored("1", "probe") == chosen
    assert counts(plane, job) == {"scored": len(chosen), "not_selected": 200 - len(chosen)}
    rows = decided(plane, job).values()
    assert {row["origin"] for row in rows} == {f"backfill:{job.job}"}
    assert {row["inclusion_probability"] for row in rows} == {0.3}


def test_the_window_is_over_the_time_at_which_traces_began(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    arrive(plane, range(1, 41))
    job = backfill(plane, ("probe", 1.0), window=(_BEGAN_MS + 10_000, _BEGAN_MS + 20_000))
    finish(plane, job)
    assert plane.scored("1", "probe") == list(range(10, 20))
    assert job.scorers[0]["units"] == 10


def test_it_contains_what_live_scored_and_does_not_score_it_again(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    plane.start("1", "probe", rate=0.2)
    plane.settle()
    arrive(plane, range(1, 151))
    live, wider = sample(range(1, 151), 0.2), sample(range(1, 151), 0.5)
    assert plane.scored("1", "probe") == live
    job = backfill(plane, ("probe", 0.5))
    finish(plane, job)
    assert plane.scored("1", "probe") == wider
    found = counts(plane, job)
    assert found == {
        "reused": len(live),
        "scored": len(wider) - len(live),
        "not_selected": 150 - len(wider),
    }
    assert plane.counts("1", "probe")["scored"] == len(live)  # live's sample is as it was
    reused = [row for row in decided(plane, job).values() if row["decision"] == "reused"]
    assert all('"assessment_id"' in row["scores"] for row in reused)


def test_rescoring_replaces_the_scores_under_the_same_ids(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    plane.start("1", "probe")
    plane.settle()
    arrive(plane, range(1, 21))
    ids = "SELECT assessment_id FROM assessments WHERE valid ORDER BY assessment_id"
    before = plane.index.connection().execute(ids).fetchall()
    job = backfill(plane, ("probe", 1.0), rescore=True)
    finish(plane, job)
    assert counts(plane, job) == {"scored": 20}
    assert plane.index.connection().execute(ids).fetchall() == before


def test_a_new_versions_scores_supersede_the_old_ones(plane: Plane) -> None:
    plane.register("1", "probe", "return 1")
    plane.start("1", "probe")
    plane.settle()
    arrive(plane, range(1, 11))
    plane.start("1", "probe", rate=0)
    plane.settle()
    plane.register("1", "probe", "return 2")
    finish(plane, backfill(plane, ("probe", 1.0)))
    found = "SELECT value, valid, overrides IS NOT NULL FROM assessments ORDER BY value"
    rows = plane.index.connection().execute(found).fetchall()
    assert rows == [("1", 0, 0)] * 10 + [("2", 1, 1)] * 10


def test_a_later_versions_scores_stay_when_an_older_backfill_comes_by(plane: Plane) -> None:
    plane.register("1", "probe", "return 1")
    arrive(plane, range(1, 11))
    older = asked(plane, ("probe", 1.0))
    plane.register("1", "probe", "return 2")
    finish(plane, backfill(plane, ("probe", 0.5)))
    plane.arrive(Record("backfill", older.created_ms, dict(older.row())))
    finish(plane, older)
    chosen = sample(range(1, 11), 0.5)
    assert counts(plane, older) == {"superseded": len(chosen), "scored": 10 - len(chosen)}
    found = "SELECT value, count(*) FROM assessments WHERE valid GROUP BY 1 ORDER BY 1"
    rows = plane.index.connection().execute(found).fetchall()
    assert rows == [("1", 10 - len(chosen)), ("2", len(chosen))]


def test_what_is_cancelled_ends_and_says_what_is_left(plane: Plane) -> None:
    plane.register("1", "probe", "import time; time.sleep(0.02); return 1")
    arrive(plane, range(1, 301))
    job = backfill(plane, ("probe", 1.0))
    plane.fold()
    while not counts(plane, job).get("scored"):
        plane.fold()
        plane.scoring.tick()
    plane.arrive(Record("backfill", 0, {**job.row(), "cancelled_ms": int(time.time() * 1000)}))
    finish(plane, job)
    found = counts(plane, job)
    assert found["stopped"] > 0
    assert sum(found.values()) == 300
    assert len(plane.scored("1", "probe")) == found["scored"] < 300
    assert plane.scoring.state()["backfills"] == {}


def test_a_dry_run_counts_what_the_job_then_does(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    plane.start("1", "probe", rate=0.1, filter_string="trace.status = 'OK'")
    plane.settle()
    arrive(plane, range(1, 101))
    arrive(plane, range(101, 131), failed=True)
    job = backfill(plane, ("probe", 0.4))
    registered = plane.scoring._scorers.registered("1")
    (told,) = forecast(plane.index, plane.selection, job, registered)
    finish(plane, job)
    found = counts(plane, job)
    assert told.units == sum(found.values()) == 130
    assert told.selected == found["scored"] + found["reused"]
    assert told.reused == found["reused"]
    assert found["filtered"] == 30
    (again,) = forecast(plane.index, plane.selection, asked(plane, ("probe", 1.0)), registered)
    assert again.reused == told.selected


def test_a_dry_run_tells_the_time_from_what_backfills_took(plane: Plane) -> None:
    plane.register("1", "probe", "import time; time.sleep(0.01); return 1")
    arrive(plane, range(1, 21))
    registered = plane.scoring._scorers.registered("1")
    (told,) = forecast(plane.index, plane.selection, asked(plane, ("probe", 1.0)), registered)
    assert (told.calls, told.dollars, told.seconds) == (0, 0, None)
    finish(plane, backfill(plane, ("probe", 0.5)))
    (told,) = forecast(plane.index, plane.selection, asked(plane, ("probe", 1.0)), registered)
    assert told.seconds is not None
    assert told.seconds >= 0.01 * (told.selected - told.reused) > 0


def test_live_scoring_does_not_wait_for_a_backfill(plane: Plane) -> None:
    plane.register("1", "probe", "import time; time.sleep(0.02); return 1")
    plane.register("1", "quick", _FINE)
    arrive(plane, range(1, 301))
    for name in ("probe", "quick"):
        plane.start("1", name)
    plane.settle()
    job = backfill(plane, ("probe", 1.0))
    while not counts(plane, job).get("scored"):
        plane.fold()
        plane.scoring.tick()
    plane.arrive(spans_record("1", 301))
    while not (plane.scored("1", "quick") == [301] and 301 in plane.scored("1", "probe")):
        plane.fold()
        plane.scoring.tick()
    assert counts(plane, job)["scored"] < 300  # it is still at work
    finish(plane, job)
    assert plane.scored("1", "probe") == list(range(1, 302))


def test_the_workers_of_a_backfill_wait_for_those_of_live_scoring(plane: Plane) -> None:
    plane.register("1", "probe", "import os; return os.nice(0)")
    arrive(plane, range(1, 4))
    plane.start("1", "probe")
    plane.settle()
    arrive(plane, range(4, 5))
    finish(plane, backfill(plane, ("probe", 1.0)))
    niceness = {score.number: score.value for score in plane.scores("1", "probe")}
    assert niceness[1] == min(19, niceness[4] + 10)


def test_what_a_backfill_writes_is_folded_before_it_writes_more(plane: Plane) -> None:
    """Else live scores, and what a reader sees, would wait in the journal behind it."""
    plane.register("1", "probe", _FINE)
    arrive(plane, range(1, 2001))
    job = backfill(plane, ("probe", 1.0))
    key = job.stream(job.scorers[0]).key
    plane.fold()
    begun = plane.readers[1].end()
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        plane.scoring.tick()
    written = plane.readers[1].read(begun, 2**30)
    assert [record.fields["scorer"] for record, _ in written] == [key]
    finish(plane, job)
    assert counts(plane, job) == {"scored": 2000}


def test_sessions_are_scored_as_they_were_when_it_was_asked_for(plane: Plane) -> None:
    plane.register("1", "probe", "return len(session)", of_sessions=True)
    for session in range(5):
        arrive(plane, range(session * 3 + 1, session * 3 + 4), session=f"s{session}")
    arrive(plane, range(16, 17), session="s0")
    job = backfill(plane, ("probe", 1.0))
    finish(plane, job)
    assert counts(plane, job) == {"scored": 5}
    assert sorted(score.value for score in plane.scores("1", "probe")) == [3, 3, 3, 3, 4]


def test_a_deleted_version_ends_the_job(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    arrive(plane, range(1, 11))
    job = backfill(plane, ("probe", 1.0))
    plane.store.delete_scorer("1", "probe")
    finish(plane, job)
    assert counts(plane, job) == {"stopped": 10}


@pytest.mark.parametrize(
    ("wanted", "window", "what"),
    [
        ([("prob", 1.0)], (0, 1), "Not registered in experiment 1: prob. Did you mean 'probe'?"),
        ([("xyz", None)], (0, 1), "Registered: probe"),
        ([("probe", 1.5)], (0, 1), "above 0 and at most 1, not 1.5"),
        ([("probe", 0)], (0, 1), "above 0 and at most 1, not 0"),
        ([("probe", float("nan"))], (0, 1), "above 0 and at most 1, not nan"),
        ([("probe", True)], (0, 1), "above 0 and at most 1, not True"),
        ([("probe", None)], (0, 1), "is not started, so it has no sampling rate"),
        ([("probe", 1.0)], (5, 5), "window is empty"),
        ([("probe", 1.0)], (6, 5), "window is empty"),
        ([("probe", 1.0), ("probe", 0.5)], (0, 1), "Named more than once: probe"),
        ([], (0, 1), "at least one scorer"),
    ],
)
def test_what_cant_be_done_is_refused_in_words(
    plane: Plane, wanted: list[tuple[str, Any]], window: tuple[int, int], what: str
) -> None:
    plane.register("1", "probe", _FINE)
    with pytest.raises(MlflowException) as refused:
        asked(plane, *wanted, window=window)
    assert what in refused.value.message
    assert refused.value.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


def test_a_window_without_traces_is_done_at_once(plane: Plane) -> None:
    plane.register("1", "probe", _FINE)
    arrive(plane, range(1, 6))
    job = backfill(plane, ("probe", 1.0), window=(5, 6))
    finish(plane, job)
    progress = backfill_progress(plane.index, job, stored_epochs(plane.index), {})
    assert progress["state"] == "done"
    assert (progress["scorers"][0]["units"], progress["scorers"][0]["decided"]) == (0, 0)


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace()
    pace.note(0.0, 5)
    assert pace.per_second(1.0) is None  # when those were begun with is not known
    pace.note(10.0, 100)
    assert pace.per_second(10.0) == 10.0
    assert pace.per_second(20.0) == 5.0
    pace.note(3600.0, 1)  # it waited for an hour
    pace.note(3601.0, 50)
    assert pace.per_second(3601.0) == 50.0
    assert pace.per_second(7200.0) is None


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


def test_sigkill_beside_live_traffic_loses_no_unit_and_doubles_none(
    tmp_path: Path, control: Path
) -> None:
    (tmp_path / "control.db").write_bytes(control.read_bytes())
    plane = Plane(tmp_path)
    plane.store.create_experiment("agent")
    plane.register("1", "probe", "import time\ntime.sleep(0.004)\nreturn inputs")
    plane.start("1", "probe", rate=0.05)
    plane.settle()
    arrive(plane, range(1, 401))
    job = backfill(plane, ("probe", 0.6))
    key = job.stream(job.scorers[0]).key
    plane.scoring.close()
    plane.engine_journal.close()  # the engines write it from here on

    def told() -> list[dict[str, Any]]:
        found = plane.readers[1].read(Position(0, 0), 2**30)
        return [row for one, _ in found if one.fields["scorer"] == key
                for row in one.fields["decisions"]]  # fmt: skip

    history, traffic = sample(range(1, 401), 0.6), iter(range(401, 2000))
    deadline = time.monotonic() + 120
    for share in (0.2, 0.6, 1.0):
        process = multiprocessing.get_context("spawn").Process(target=engine, args=(tmp_path,))
        process.start()
        while len(told()) < share * len(history):
            assert process.is_alive()
            assert time.monotonic() < deadline
            plane.arrive(spans_record("1", next(traffic)))
            time.sleep(0.02)
        process.kill()
        process.join()

    plane.fold()
    rows = told()
    assert len({row["unit_id"] for row in rows}) == len(rows)  # none was journaled twice
    assert sorted(trace_number(row["unit_id"]) for row in rows) == history
    scores = plane.scores("1", "probe")
    numbers = [score.number for score in scores]
    assert len(set(numbers)) == len(numbers)
    assert [number for number in sorted(numbers) if number <= 400] == history
    assert all(score.value == score.number for score in scores)
    assert any(number > 400 for number in numbers)  # live went on
    plane.server_journal.close()
