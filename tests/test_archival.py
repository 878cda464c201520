"""The archives of an engine: all are kept, whatever is wrong with one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archive_support import NAME, Plant, as_told, enable, expected, stored
from test_archive import trace
from vedette.archive import archival
from vedette.archive.archival import Archival
from vedette.archive.names import TableName
from vedette.archive.setting import ArchiveSetting
from vedette.archive.table import ArchiveTable, Opened
from vedette.lake.storage import LakeUnavailable

OTHER = NAME._replace(table="others")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.close()


@pytest.fixture
def kept(plant: Plant) -> Iterator[Archival]:
    """Experiment 1 is archived in one table, experiment 2 in another."""
    plant.arrive(trace(1), trace(2, experiment="2"))
    for experiment_id, name in (("1", NAME), ("2", OTHER)):
        enable(plant.settings, experiment_id, ArchiveSetting(name))
    kept = Archival(plant.settings, plant.index, plant.contents, plant.stop)
    yield kept
    kept.close()


def keep_until(kept: Archival, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, kept.state()
        if not kept.tick():
            time.sleep(0.02)


def is_kept(plant: Plant, experiment_id: str, name: TableName) -> bool:
    uri = name.uri(plant.settings.lake_uri)
    rows = stored(uri) if Path(uri).exists() else []
    told = [as_told(row) for row in rows if row["experiment_id"] == experiment_id]
    return told == expected(plant, experiment_id)


def test_all_are_kept(plant: Plant, kept: Archival) -> None:
    keep_until(kept, lambda: is_kept(plant, "1", NAME) and is_kept(plant, "2", OTHER))
    assert {one["error"] for one in kept.state().values()} == {None}
    assert kept.error is None


def test_one_that_fails_a_thousand_times_is_tried_again_and_stops_no_other(
    plant: Plant, kept: Archival, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, failures = ArchiveTable.open, 0

    def fail(table: ArchiveTable) -> Opened:
        nonlocal failures
        if table.name == NAME and failures < 1100:
            failures += 1
            raise LakeUnavailable("it is away")
        return look(table)

    monkeypatch.setattr(ArchiveTable, "open", fail)
    monkeypatch.setattr(archival, "_LONGEST_RETRY_SECONDS", 0.0)  # else it would take a day
    monkeypatch.setattr(archival, "_SLACK_SECONDS", 0.0)
    keep_until(kept, lambda: failures > 0 and is_kept(plant, "2", OTHER))
    assert kept.state()["1"]["error"] == "it is away"
    assert failures < 1100
    keep_until(kept, lambda: failures == 1100 and is_kept(plant, "1", NAME))
    assert kept.state()["1"]["error"] is None


def test_damage_to_the_places_of_two_archives_in_one_table_is_mended_for_both(plant: Plant) -> None:
    plant.arrive(trace(1), trace(2, experiment="2"))
    for experiment_id in ("1", "2"):
        enable(plant.settings, experiment_id, ArchiveSetting(NAME))
    kept = Archival(plant.settings, plant.index, plant.contents, plant.stop)
    keep_until(kept, lambda: is_kept(plant, "1", NAME) and is_kept(plant, "2", NAME))
    kept.close()
    (plant.settings.archive_state / f"{NAME}.db").write_bytes(b"no database " * 1000)
    plant.arrive(trace(3), trace(4, experiment="2"))
    again = Archival(plant.settings, plant.index, plant.contents, plant.stop)
    keep_until(again, lambda: is_kept(plant, "1", NAME) and is_kept(plant, "2", NAME))
    again.close()
