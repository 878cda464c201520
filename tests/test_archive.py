"""One row per trace in a Delta table: made, kept, refused, shared, merged, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from archive_support import NAME, NOW, Archive, Plant, as_told, expected, stored
from test_fold import assessment, spans_record, start_record
from vedette.archive import revision, sync, upkeep
from vedette.archive.names import TableName
from vedette.archive.schema import ARCHIVE_SCHEMA
from vedette.archive.setting import ArchiveSetting
from vedette.archive.table import ArchiveRefused, ArchiveTable, Overtaken
from vedette.archive.upkeep import plan_merges
from vedette.intake.records import Record
from vedette.lake.files import DataFile
from vedette.lake.storage import LakeUnavailable
from vedette.traces.columns import trim_changes

DAY_MS = 86_400_000


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.close()


def trace(number: int, *, at: int = NOW, experiment: str = "1", **fields: Any) -> Record:
    """A trace of two spans arrives."""
    found = spans_record(number, "root", "child", at=at)
    found.fields["experiment_id"] = experiment
    return found


def lake_id(number: int) -> str:
    return f"{number:032x}"


def score(number: int, value: str = "true") -> Record:
    return Record("assessments", NOW, {"put": [assessment(number, f"a-{number}", value)]})


def delete(*numbers: int) -> Record:
    return Record("delete_traces", NOW, {"trace_ids": [f"tr-{n:032x}" for n in numbers]})


def same_as_read_model(plant: Plant, archive: Archive, experiment: str = "1") -> None:
    rows = [as_told(row) for row in archive.stored() if row["experiment_id"] == experiment]
    assert rows == expected(plant, experiment)


def files(archive: Archive) -> list[str]:
    return sorted(DeltaTable(archive.table.storage.uri).file_uris())


# What a row says


def test_the_columns_are_those_of_the_unified_view_then_ours(plant: Plant) -> None:
    plant.archive().settle()
    fields = {
        field.name: field.type
        for field in DeltaTable(f"{plant.settings.lake_uri}/main/quality/traces").schema().fields
    }
    assert list(fields) == [
        "trace_id",
        "client_request_id",
        "request_time",
        "state",
        "execution_duration_ms",
        "request",
        "response",
        "trace_metadata",
        "tags",
        "spans",
        "assessments",
        "experiment_id",
        "received_at",
        "arrival_date",
    ]
    for name in ("trace_metadata", "tags"):
        assert (fields[name].key_type.type, fields[name].value_type.type) == ("string", "string")
    assert fields["request_time"].type == "timestamp"
    assert [field.name for field in fields["assessments"].element_type.fields] == [
        "assessment_id",
        "assessment_name",
        "source",
        "create_time",
        "last_update_time",
        "expectation",
        "feedback",
        "rationale",
        "metadata",
        "span_id",
        "overrides",
        "valid",
    ]


def test_a_row_tells_what_the_read_model_does(plant: Plant) -> None:
    plant.arrive(
        trace(1),
        start_record(
            1,
            experiment_id="1",
            client_request_id="c-1",
            request_preview="What?",
            tags={"env": "prod", "mlflow.traceName": "agent"},
            metadata={"mlflow.trace.session": "s", "version": "2"},
        ),
        score(1),
        Record("assessments", NOW, {"put": [assessment(1, "a-text", '"good"')]}),
    )
    archive = plant.archive()
    archive.settle()
    same_as_read_model(plant, archive)
    (row,) = archive.stored()
    assert row["trace_id"] == lake_id(1)
    assert row["request"] == "What?"  # the root tells no inputs: the preview
    assert row["tags"]["env"] == "prod"
    assert row["trace_metadata"]["mlflow.trace.session"] == "s"
    assert [span["name"] for span in row["spans"]] == ["root", "child"]
    assert [one["feedback"]["value"] for one in row["assessments"]] == ["true", "good"]
    assert row["arrival_date"].isoformat() == "2026-01-01"


def test_numbers_and_times_beyond_what_tables_can_hold_are_cut(plant: Plant) -> None:
    plant.arrive(start_record(1, experiment_id="1", request_time=2**60))
    plant.arrive(start_record(2, experiment_id="1", request_time=-(2**60)))
    archive = plant.archive()
    archive.settle()
    years = [row["request_time"].year for row in archive.stored()]
    assert years == [9999, 1]


def test_half_a_surrogate_pair_costs_that_character(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    plant.arrive(Record("assessments", NOW, {"put": [assessment(1, "a", '"half \\ud83d"')]}))
    archive = plant.archive()
    archive.settle()
    one, other = archive.stored()
    assert [a["feedback"]["value"] for a in one["assessments"]] == ["half ?"]
    assert len(other["spans"]) == 2


# Following


def test_new_traces_changes_and_deletions_follow(plant: Plant) -> None:
    archive = plant.archive()
    archive.settle()
    plant.arrive(trace(1), trace(2), trace(3, experiment="2"))
    archive.settle()
    assert archive.ids() == [lake_id(1), lake_id(2)]
    plant.arrive(score(1), delete(2), trace(4))
    archive.settle()
    assert archive.ids() == [lake_id(1), lake_id(4)]
    same_as_read_model(plant, archive)


def test_what_was_there_before_is_copied_a_part_at_a_time(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "_BLOCK", 5)
    monkeypatch.setattr(sync, "_FILL", 2)
    plant.arrive(*(trace(n, at=NOW + n * DAY_MS // 4) for n in range(1, 13)))
    archive = plant.archive()
    archive.sync.sync()
    archive.sync.sync()
    assert archive.ids() == []
    archive.sync.fill()
    assert len(archive.ids()) == 2
    plant.arrive(score(12), trace(13))
    archive.sync.sync()  # what changes meanwhile doesn't wait for the rest
    assert {lake_id(12), lake_id(13)} < set(archive.ids())
    archive.settle()
    same_as_read_model(plant, archive)
    assert archive.sync.progress.filled == archive.sync.progress.fill_until == 12
    assert {Path(path).parent.name for path in files(archive)} == {
        f"arrival_date=2026-01-0{day}" for day in (2, 3, 4)
    }


def test_a_change_replaces_the_row_in_its_file(plant: Plant) -> None:
    plant.arrive(*(trace(n) for n in range(5)))
    archive = plant.archive()
    archive.settle()
    plant.arrive(score(3))
    archive.settle()
    assert len(files(archive)) == 1
    same_as_read_model(plant, archive)


def test_an_assessment_that_moves_leaves_the_trace_it_was_on(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2), score(1))
    archive = plant.archive()
    archive.settle()
    plant.arrive(Record("assessments", NOW, {"put": [assessment(2, "a-1")]}))
    archive.settle()
    same_as_read_model(plant, archive)
    assert [len(row["assessments"]) for row in archive.stored()] == [0, 1]


@pytest.mark.parametrize("other_table", [NAME, NAME._replace(table="others")])
def test_a_trace_that_goes_to_another_experiment_goes_to_its_archive(
    plant: Plant, other_table: TableName
) -> None:
    plant.arrive(trace(1), trace(2))
    one, other = plant.archive("1"), plant.archive("2", other_table)
    one.settle()
    other.settle()
    plant.arrive(start_record(2, experiment_id="2"))
    for archive in (other, one):
        archive.settle()
    assert [r["trace_id"] for r in one.stored() if r["experiment_id"] == "1"] == [lake_id(1)]
    same_as_read_model(plant, other, "2")
    assert len(other.ids()) == len(set(other.ids()))


def test_many_changes_are_committed_a_part_at_a_time(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revision, "_COMMIT_BYTES", 0)
    archive = plant.archive()
    for day in range(4):
        plant.arrive(trace(day, at=NOW + day * DAY_MS))
        archive.settle()
    version = DeltaTable(archive.table.storage.uri).version()
    plant.arrive(*(score(n) for n in range(4)))
    assert archive.sync.sync()
    archive.settle()
    assert DeltaTable(archive.table.storage.uri).version() == version + 4
    same_as_read_model(plant, archive)


def test_changes_of_other_experiments_cost_no_commit(plant: Plant) -> None:
    plant.arrive(trace(1))
    archive = plant.archive()
    archive.settle()
    version = DeltaTable(archive.table.storage.uri).version()
    plant.arrive(trace(2, experiment="2"), score(2))
    archive.settle()
    assert DeltaTable(archive.table.storage.uri).version() == version


# Never twice, whatever happens


def test_a_replay_is_recognised(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    plant.archive().settle()
    plant.arrive(score(1), trace(3))
    archive = plant.archive()
    commit, commits = archive.table.commit, []

    def lost(*args: Any, **kwargs: Any) -> None:
        commit(*args, **kwargs)
        commits.append(args)
        raise LakeUnavailable("the answer was lost")

    archive.table.commit = lost  # type: ignore[method-assign]
    with pytest.raises(LakeUnavailable):
        archive.sync.sync()
    version = DeltaTable(archive.table.storage.uri).version()
    again = plant.archive()
    again.settle()
    assert len(commits) == 1
    assert DeltaTable(archive.table.storage.uri).version() == version
    same_as_read_model(plant, again)


def test_a_rival_between_look_and_commit_means_another_look(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    slow, quick = plant.archive(), plant.archive()
    slow.settle()
    quick.settle()
    plant.arrive(score(1), trace(3), delete(2))
    write, rivals = slow.files.write, [quick]

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        if rivals:
            rivals.pop().settle()
        return write(*args, **kwargs)

    slow.files.write = overtaken  # type: ignore[method-assign]
    slow.settle()
    assert slow.ids() == [lake_id(1), lake_id(3)]
    same_as_read_model(plant, slow)


def test_what_somebody_else_did_to_the_files_is_followed(plant: Plant) -> None:
    archive = plant.archive()
    for number in range(4):
        plant.arrive(trace(number))
        archive.settle()
    DeltaTable(archive.table.storage.uri).optimize.compact()
    assert len(files(archive)) == 1
    plant.arrive(score(2))
    archive.settle()
    same_as_read_model(plant, archive)


def test_a_read_model_made_anew_begins_anew(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2), trace(3), score(3))
    plant.archive().settle()
    plant.arrive(delete(1), start_record(2, experiment_id="2"), trace(4))
    plant.lose_read_model()
    archive = plant.archive()
    archive.settle()
    assert archive.ids() == [lake_id(3), lake_id(4)]
    same_as_read_model(plant, archive)


def test_changes_that_are_forgotten_mean_to_begin_anew(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    archive = plant.archive()
    archive.settle()
    plant.arrive(score(1))
    plant.arrive(delete(2))
    plant.arrive(trace(3, experiment="2"))
    trim_changes(plant.index, keep=0)
    archive.settle()
    same_as_read_model(plant, archive)


def test_a_power_cut_takes_no_change_from_an_archive(plant: Plant) -> None:
    """The changes are numbered anew by it: what was folded one by one comes in one batch."""
    archive = plant.archive()
    archive.settle()
    for number in range(5):
        plant.arrive(trace(number))
    archive.settle()
    plant.cut_power()
    plant.arrive(score(2), delete(4))
    again = plant.archive()
    again.settle()
    same_as_read_model(plant, again)


def test_lost_or_damaged_places_are_found_again(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2))
    archive = plant.archive()
    archive.settle()
    archive.places.remove()
    path = plant.settings.archive_state / f"{NAME}.db"
    path.write_bytes(b"this is no database, but long enough to be looked at " * 100)
    plant.arrive(score(1))
    again = plant.archive()
    again.settle()
    same_as_read_model(plant, again)


# Tables that are there


def test_rows_of_others_stay_as_they_are(plant: Plant, tmp_path: Path) -> None:
    """Also those of an experiment of the same number, of a server that is no more."""
    elsewhere = Plant(tmp_path / "elsewhere")
    elsewhere.arrive(trace(100), trace(101, experiment="2"))
    for experiment in ("1", "2"):
        elsewhere.archive(experiment).settle()
    elsewhere.close()
    target = Path(plant.settings.lake_uri) / "main" / "quality"
    target.mkdir(parents=True)
    (tmp_path / "elsewhere/lake/main/quality/traces").rename(target / "traces")
    plant.arrive(trace(1))
    archive = plant.archive()
    archive.settle()
    plant.arrive(delete(1), trace(2))
    archive.settle()
    assert archive.ids() == [lake_id(2), lake_id(100), lake_id(101)]


def test_a_table_with_other_columns_is_refused(plant: Plant) -> None:
    uri = f"{plant.settings.lake_uri}/main/quality/traces"
    write_deltalake(uri, pa.table({"trace_id": [1], "mine": ["x"]}))
    archive = plant.archive()
    with pytest.raises(ArchiveRefused, match="partitioned by nothing"):
        archive.table.prepare(None)
    assert DeltaTable(uri).version() == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda schema: schema.remove(1), "client_request_id is missing"),
        (lambda schema: schema.append(pa.field("mine", pa.string())), "mine is no column"),
        (
            lambda schema: schema.set(4, pa.field("execution_duration_ms", pa.string())),
            "execution_duration_ms is string, not long",
        ),
    ],
)
def test_the_refusal_names_the_column(plant: Plant, change: Any, told: str) -> None:
    uri = f"{plant.settings.lake_uri}/main/quality/traces"
    DeltaTable.create(uri, schema=change(ARCHIVE_SCHEMA), partition_by=["arrival_date"])
    with pytest.raises(ArchiveRefused, match=told):
        plant.archive().table.prepare(None)


@pytest.mark.parametrize(
    "configuration",
    [
        {"delta.appendOnly": "true"},
        {"delta.enableChangeDataFeed": "true"},
        {"delta.enableDeletionVectors": "true"},
    ],
)
def test_a_table_that_would_lose_or_revive_rows_is_refused(
    plant: Plant, configuration: dict[str, str | None]
) -> None:
    uri = f"{plant.settings.lake_uri}/main/quality/traces"
    DeltaTable.create(
        uri,
        schema=ARCHIVE_SCHEMA,
        partition_by=["arrival_date"],
        configuration=configuration,
    )
    with pytest.raises(ArchiveRefused):
        plant.archive().table.prepare(None)


def test_a_directory_of_something_else_is_refused(plant: Plant) -> None:
    place = Path(plant.settings.lake_uri) / "main/quality/traces"
    place.mkdir(parents=True)
    (place / "notes.csv").write_text("mine")
    with pytest.raises(ArchiveRefused, match="no Delta table"):
        plant.archive().table.prepare(None)
    assert [path.name for path in place.iterdir()] == ["notes.csv"]


def test_a_table_in_which_somebody_has_doubled_a_row_is_refused(plant: Plant) -> None:
    plant.arrive(trace(1))
    archive = plant.archive()
    archive.settle()
    uri = archive.table.storage.uri
    write_deltalake(uri, DeltaTable(uri).to_pyarrow_table(), mode="append")
    plant.arrive(score(1))
    with pytest.raises(ArchiveRefused, match=f"two rows of trace {lake_id(1)}"):
        archive.sync.sync()


def test_a_table_that_is_gone_is_not_made_anew(plant: Plant) -> None:
    plant.arrive(trace(1))
    archive = plant.archive()
    archive.settle()
    Path(archive.table.storage.uri).rename(plant.settings.data / "unmounted")
    plant.arrive(trace(2))
    with pytest.raises(LakeUnavailable, match="was there before"):
        archive.sync.sync()
    (plant.settings.data / "unmounted").rename(archive.table.storage.uri)
    archive.sync.forget()
    archive.settle()
    same_as_read_model(plant, archive)


# Policy


def test_old_rows_are_deleted_and_do_not_come_back(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.arrive(trace(1), trace(2, at=NOW + 3 * DAY_MS), trace(3, experiment="2"))
    everything, other = plant.archive("1"), plant.archive("2")
    everything.settle()
    other.settle()
    monkeypatch.setattr(ArchiveSetting, "oldest_day", lambda setting: "2026-01-03")
    assert not everything.upkeep.retire("1", everything.sync.setting)
    assert everything.ids() == [lake_id(2), lake_id(3)]
    plant.arrive(score(1), score(2))
    everything.settle()
    plant.lose_read_model()
    again = plant.archive("1")
    again.settle()
    assert again.ids() == [lake_id(2), lake_id(3)]


def test_the_oldest_day_is_counted_from_today() -> None:
    assert ArchiveSetting(NAME).oldest_day() == ""
    long, short = (ArchiveSetting(NAME, retention_days=n).oldest_day() for n in (30.0, 2.0))
    assert long < short < "9999"


def test_small_files_are_merged_without_a_change_of_rows(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = plant.archive()
    for number in range(6):
        plant.arrive(trace(number))
        archive.settle()
    before = archive.stored()
    assert len(files(archive)) == 6
    assert archive.upkeep.merge()
    assert not archive.upkeep.merge()
    assert len(files(archive)) == 1
    assert archive.stored() == before
    plant.arrive(score(3))
    archive.settle()
    same_as_read_model(plant, archive)


def test_a_merge_that_is_overtaken_changes_nothing(plant: Plant) -> None:
    archive = plant.archive()
    for number in range(3):
        plant.arrive(trace(number))
        archive.settle()
    rival = plant.archive()
    write = archive.files.write

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        plant.arrive(score(1))
        rival.settle()
        return write(*args, **kwargs)

    archive.files.write = overtaken  # type: ignore[method-assign]
    with pytest.raises(Overtaken):
        archive.upkeep.merge()
    same_as_read_model(plant, rival)


def data_file(name: str, size: int, day: str, received_ms: int) -> DataFile:
    return DataFile(f"{day}/{name}", size, 1, day, None, None, received_ms, received_ms)


def test_files_are_merged_when_their_rows_have_settled() -> None:
    now = NOW / 1000 + 10_000.0  # of the same day
    fresh = [data_file(str(n), 1000, "2026-01-01", int(now * 1000) - n) for n in range(20)]
    settled = [data_file(f"s{n}", 1000, "2026-01-01", NOW + n) for n in range(8)]
    large = [data_file(f"l{n}", 3 << 20, "2026-01-01", NOW) for n in range(8)]
    assert plan_merges(fresh + large, now) == []
    assert plan_merges(settled[:7], now) == []
    assert plan_merges(settled + fresh + large, now) == [settled]
    # of a finished day, any two
    assert plan_merges(settled[:2], now + 86_400) == [settled[:2]]


def test_replaced_files_go_after_the_tables_own_time(plant: Plant) -> None:
    archive = plant.archive()
    archive.table.prepare(1)
    handle = DeltaTable(archive.table.storage.uri)
    assert handle.metadata().configuration["delta.deletedFileRetentionDuration"] == (
        "interval 1 hours"
    )
    plant.arrive(trace(1))
    archive.settle()
    plant.arrive(score(1))
    archive.settle()
    archive.upkeep.clean()
    assert archive.upkeep.vacuum() == 0  # not yet
    DeltaTable(archive.table.storage.uri).alter.set_table_properties(
        {"delta.deletedFileRetentionDuration": "interval 0 hours"}
    )
    assert archive.upkeep.vacuum() == 1
    same_as_read_model(plant, archive)


def test_work_ends_when_it_is_told_to(plant: Plant) -> None:
    plant.arrive(trace(1))
    archive = plant.archive()
    plant.stop.set()
    with pytest.raises(upkeep.Stopped):
        archive.settle()
    plant.stop = threading.Event()
    plant.archive().settle()


# Names and settings


@pytest.mark.parametrize("name", ["a.b.c", "main.quality.my-traces", "A1._b.9"])
def test_full_names(name: str) -> None:
    assert str(TableName.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "traces",
        "a.b",
        "a.b.c.d",
        "a..c",
        "a.b.",
        "../x.b.c",
        "a.b.c/d",
        "a.b.-c",
        "a.b.c d",
        "a.b.\u00e9",
        "a.b.`c`",
        "a.b." + "c" * 256,
        "main.default.mlflow_otel_spans",
        "main.default.x_trace_unified",
        None,
        7,
    ],
)
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ValueError, match=r"can't be used|no full name"):
        TableName.parse(name)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"delta_table_fullname": "a.b.c", "what": 1},
        {"delta_table_fullname": "a.b.c", "retention_days": 0},
        {"delta_table_fullname": "a.b.c", "retention_days": True},
        {"delta_table_fullname": "a.b.c", "retention_days": float("nan")},
        {"delta_table_fullname": "a.b.c", "optimize": "no"},
    ],
)
def test_settings_that_are_none(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        ArchiveSetting.of(value)


def test_a_setting_comes_back_from_its_json() -> None:
    setting = ArchiveSetting(NAME, retention_days=30.0, optimize=False)
    assert ArchiveSetting.of(setting.as_json()) == setting


def test_an_object_stores_files_are_read_and_written_the_same_way(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for S3, but over a directory."""
    archive = plant.archive()
    uri = Path(archive.table.storage.uri)
    archive.table.storage.local = None
    archive.table.storage.uri = uri.as_uri()
    (uri / "arrival_date=2026-01-01").mkdir(parents=True)
    plant.arrive(trace(1), trace(2))
    archive.settle()
    plant.arrive(score(1))
    archive.settle()
    assert [as_told(row) for row in stored(str(uri))] == expected(plant, "1")


def test_the_table_is_where_its_name_says(tmp_path: Path) -> None:
    table = ArchiveTable(NAME, str(tmp_path), tmp_path / "state", {})
    table.prepare(None)
    assert DeltaTable(tmp_path / "main" / "quality" / "traces").version() == 0
