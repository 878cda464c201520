"""Locations in the lake: every record once, in the tables of its location, through kills."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from telemetry_support import log_request, metric_request
from test_fold import NOW, spans_record
from test_pipeline import Plant
from vedette.intake.records import Position, Record
from vedette.lake.location import DEFAULT, Location, stamp
from vedette.lake.locations import Binding
from vedette.lake.maintenance import Maintenance
from vedette.lake.table import Lake, LakeTable
from vedette.maintain import maintain
from vedette.rebuild import Rebuild
from vedette.scoring.completion import Completion
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

SHOP, OTHER = Location("shop", "prod", "agent"), Location("shop", "prod", "2")
PLACES = {"0": DEFAULT, "1": SHOP, "2": OTHER, "3": SHOP}  # two experiments share one
LAST_TRACE = 39


def told(experiment_id: str) -> Iterator[Record]:
    """Something of every kind of table about two traces of the experiment."""
    first = int(experiment_id) * 10
    for trace in (first, first + 1):
        yield replace(spans_record(trace, "root", "child"), body=spans_record(trace, "root").body)
        yield spans_record(trace, "child")
    key = {"trace_id": f"tr-{first:032x}", "key": "env", "value": experiment_id}
    yield Record("set_tag", NOW, key)
    yield Record(
        "decisions",
        NOW,
        {
            "scorer": f"{experiment_id}/polite",
            "cursor": [None, 7],
            "arrived_until": 1000 + int(experiment_id),
            "epochs": [],
            "decisions": [],
            "counts": [
                {"epoch": 1, "stratum": 0, "hour_ms": 0, "decision": "filtered", "units": 2}
            ],
            "put": [],
        },
    )
    yield Record("logs", NOW, {}, log_request(2))
    yield Record("metrics", NOW, {}, metric_request())


def history() -> Iterator[Record]:
    """What is told of all experiments, mixed."""
    for several in zip(*(told(one) for one in PLACES), strict=True):
        for record, (experiment_id, place) in zip(several, PLACES.items(), strict=True):
            fields = {**record.fields, **stamp(place)}
            if record.kind in ("spans", "logs", "metrics"):
                fields["experiment_id"] = experiment_id
            yield replace(record, fields=fields)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A plant with everything in its journal."""
    plant = Plant(tmp_path)
    for experiment_id, place in PLACES.items():
        if place != DEFAULT:
            plant.lake.locations.note(experiment_id, Binding(place, int(experiment_id)))
    for written in [plant.writer.append(record) for record in history()]:
        written.result(10)
    plant.seal()
    return plant


def rows(data: Path, place: Location, table: str) -> list[dict[str, Any]]:
    """All rows of a table, read without our code."""
    catalog, schema, prefix = place
    path = data / "lake" / catalog / schema / f"{prefix}_{table}"
    found: list[dict[str, Any]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return found


def require_exact(data: Path) -> None:
    """Every record's rows are once in the lake, in the tables of its experiment's location."""
    record_ids: Counter[str] = Counter()
    for place in set(PLACES.values()):
        ours = [one for one in PLACES if PLACES[one] == place]
        spans = rows(data, place, "otel_spans")
        assert Counter(
            (row["experiment_id"], int(row["trace_id"], 16), row["name"]) for row in spans
        ) == Counter(
            (one, int(one) * 10 + more, name)
            for one in ours
            for more in (0, 1)
            for name in ("root", "child")
        )
        tags = rows(data, place, "otel_annotations")
        assert sorted(row["value"] for row in tags) == [f'"{one}"' for one in ours]
        decisions = rows(data, place, "monitor_decisions")
        assert sorted((row["experiment_id"], row["units"]) for row in decisions) == [
            (one, 2) for one in ours
        ]
        logs, metrics = rows(data, place, "otel_logs"), rows(data, place, "otel_metrics")
        assert Counter(row["experiment_id"] for row in logs) == dict.fromkeys(ours, 2)
        assert Counter(row["experiment_id"] for row in metrics) == dict.fromkeys(ours, 5)
        for some in (spans, tags, decisions, logs, metrics):
            record_ids.update(row["record_id"] for row in some)
    assert set(record_ids.values()) == {1}


def test_each_record_goes_to_the_tables_of_its_location(plant: Plant) -> None:
    plant.fold()
    plant.commit()
    require_exact(plant.data)
    assert plant.journal.sealed_segments() == []
    assert plant.content_counts() == [2] * 8  # read back from wherever they are


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def killed_after(patch: pytest.MonkeyPatch, commits: int, kill: Callable[[], None]) -> None:
    """Let this process be killed after so many commits that were none of before."""
    append = LakeTable.append_segment
    left = iter(range(commits - 1))

    def counted(self: LakeTable, *arguments: Any) -> bool:
        done = append(self, *arguments)
        if done and next(left, None) is None:
            kill()
        return done

    patch.setattr(LakeTable, "append_segment", counted)


def raise_killed() -> None:
    raise Killed


@pytest.mark.parametrize("commits", [1, 2, 4])
def test_killed_between_two_tables_again_and_again(plant: Plant, commits: int) -> None:
    """The segment's commits are 15, of five tables in three locations."""
    kills = 0
    while plant.journal.sealed_segments():
        with pytest.MonkeyPatch.context() as patch:
            killed_after(patch, commits, raise_killed)
            try:
                plant.commit()
            except Killed:
                kills += 1
        plant.open()
        plant.fold()
    assert kills >= 15 // commits
    require_exact(plant.data)


def engine(data: str, commits: str) -> None:
    """An engine that commits what is sealed, and is killed after so many commits."""
    directory = Path(data)
    with pytest.MonkeyPatch.context() as patch:
        killed_after(patch, int(commits), lambda: signal.raise_signal(signal.SIGKILL))
        Plant.follow(directory).commit_sealed(lambda: False)


def test_processes_killed_between_two_tables(plant: Plant) -> None:
    plant.writer.close()
    command = [sys.executable, "-m", "test_locations_lake", str(plant.data)]
    for commits in (3, 5, 4):  # amid the first location, the second, the third
        done = subprocess.run([*command, str(commits)], cwd=Path(__file__).parent, check=False)
        assert done.returncode == -signal.SIGKILL
    subprocess.run([*command, "99"], cwd=Path(__file__).parent, check=True)
    assert plant.journal.sealed_segments() == []
    require_exact(plant.data)


def content(index: TraceIndex) -> dict[str, list[Any]]:
    """What is in the read model of traces, without how far it is."""
    connection = index.connection()
    statements = {
        "traces": "SELECT trace_id, experiment_id, timestamp_ms, trace_name FROM traces ORDER BY 1",
        "tags": "SELECT t.trace_id, g.key, g.value FROM trace_tags g"
        " JOIN traces t ON t.id = g.trace ORDER BY 1, 2",
        "spans": "SELECT t.trace_id, s.span_id FROM spans s JOIN traces t ON t.id = s.trace"
        " ORDER BY 1, 2",
        "counts": "SELECT scorer, decision, units FROM decision_counts ORDER BY 1, 2",
    }
    return {name: connection.execute(text).fetchall() for name, text in statements.items()}


def rebuilt(plant: Plant) -> TraceIndex:
    """The read model, lost and made anew."""
    for file in plant.data.glob("index.db*"):
        file.unlink()
    path = plant.data / "index.db"
    lake = Lake(str(plant.data / "lake"), plant.data / "lake.state")
    Rebuild(
        path,
        lake,
        [plant.journal],
        plant.data / "scratch",
        completion=lambda index: Completion(
            index, trace_buffer=1.0, session_buffer=1e6, max_trace_age=1e6
        ),
        stopping=lambda: False,
    ).run("it is missing")
    return TraceIndex(path, lake.is_used)


@pytest.mark.parametrize("commits", [0, 6, 15])
def test_the_read_model_is_rebuilt_from_all_locations(plant: Plant, commits: int) -> None:
    """From the lake alone, and where a part of the segment is in it and the rest is not."""
    plant.fold()
    before = content(plant.index)
    assert len(before["traces"]) == 8
    with pytest.MonkeyPatch.context() as patch:
        if commits:
            killed_after(patch, commits, raise_killed)
        with suppress(Killed):
            plant.commit()
    index = rebuilt(plant)
    assert content(index) == before
    if not commits:
        assert plant.journal.sealed_segments() == []
        found = index.connection().execute("SELECT scorer FROM scorer_cursors ORDER BY 1")
        # As the ledgers' transactions tell
        assert found.fetchall() == [(f"{one}/polite",) for one in PLACES]


def test_all_locations_are_kept_small(plant: Plant) -> None:
    plant.commit()
    for number in range(4):
        record = spans_record(LAST_TRACE + number, "root")
        fields = {"experiment_id": "1", **stamp(SHOP)}
        plant.writer.append(replace(record, fields=fields)).result(10)
        plant.fold()
        plant.commit()
    tables = plant.lake.all_tables()
    assert len(tables) == 15
    maintenance = Maintenance(plant.lake.tables, plant.data / "scratch")
    before = len(maintenance.jobs)
    maintenance.include(tables)
    maintenance.include(tables)
    assert len(maintenance.jobs) == 3 * before
    assert len({job.name for job in maintenance.jobs}) == 3 * before
    done = {one.table: one for one in maintain(Settings(data=plant.data))}
    assert [one.error for one in done.values()] == [None] * 15
    spans = done["shop.prod.agent_otel_spans"]
    assert (spans.files_before, spans.files_after) == (5, 1)
    assert done["mlflow_otel_spans"].files_after == 1


def test_a_trace_that_came_as_its_experiment_was_bound_is_read(plant: Plant) -> None:
    """It went to the tables by default; its experiment's are others."""
    record = replace(spans_record(15, "root"), fields={"experiment_id": "1"})
    plant.writer.append(record).result(10)
    plant.fold()
    plant.commit()
    assert sorted(plant.content_counts()) == [1, *[2] * 8]


def test_a_location_that_is_gone_is_told_and_nothing_is_lost(plant: Plant) -> None:
    plant.commit()
    place = plant.data / "lake" / "shop"
    place.rename(plant.data / "unmounted")
    record = replace(spans_record(15, "root"), fields={"experiment_id": "1", **stamp(SHOP)})
    plant.writer.append(record).result(10)
    plant.open()
    plant.fold()
    with pytest.raises(Exception, match=r"shop/prod/agent_otel_spans was there before and is gone"):
        plant.commit()
    assert plant.journal.sealed_segments() != []
    shutil.rmtree(place, ignore_errors=True)
    (plant.data / "unmounted").rename(place)
    plant.commit()
    assert len(rows(plant.data, SHOP, "otel_spans")) == 9


def test_places_are_positions_of_one_journal(plant: Plant) -> None:
    """Records of all locations are in one segment, else the tests above test nothing."""
    (segment,) = {end.segment for _, end in plant.journal.read(Position(0, 0), 1 << 20)}
    assert plant.journal.sealed_segments() == [segment]


if __name__ == "__main__":
    engine(*sys.argv[1:])
