"""``vedette maintain``: the tables in order, without a server and beside one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from archive_support import NAME, NOW, Plant, as_told, enable, expected
from test_archive import DAY_MS, trace
from vedette.archive.setting import ArchiveSetting
from vedette.cli import app
from vedette.maintain import Maintained, maintain
from vedette.settings import Settings


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    plant = Plant(tmp_path)
    yield plant
    plant.close()


def maintained(settings: Settings) -> dict[str, Maintained]:
    return {one.table: one for one in maintain(settings)}


def test_a_directory_that_has_not_been_used_needs_nothing(tmp_path: Path) -> None:
    done = maintained(Settings(data=tmp_path))
    assert [one.error for one in done.values()] == [None] * 5
    assert not (tmp_path / "lake").exists()


def test_all_tables_are_put_in_order_and_lose_nothing(plant: Plant) -> None:
    archive = plant.archive()
    for number in range(6):
        plant.arrive(trace(number, at=NOW + number * DAY_MS // 4))
        plant.to_lake()
        archive.settle()
    enable(plant.settings, "1", ArchiveSetting(NAME, retention_days=None))
    rows = archive.stored()
    done = maintained(plant.settings)
    assert all(one.error is None for one in done.values())
    spans, kept = done["mlflow_otel_spans"], done[str(NAME)]
    assert spans.files_after < spans.files_before
    assert (kept.files_before, kept.files_after) == (6, 3)  # one a day
    assert archive.stored() == rows
    assert [as_told(row) for row in rows] == expected(plant, "1")
    assert all(one.files_after == one.files_before for one in maintained(plant.settings).values())


def test_the_policy_of_each_archive_is_kept(plant: Plant) -> None:
    for number in range(3):
        plant.arrive(trace(number))
        plant.archive().settle()
    enable(plant.settings, "1", ArchiveSetting(NAME, optimize=False))
    assert maintained(plant.settings)[str(NAME)].files_after == 3
    enable(plant.settings, "2", ArchiveSetting(NAME, retention_days=1.0))
    assert maintained(plant.settings)[str(NAME)].files_after == 3  # those are not its rows
    plant.arrive(trace(9, experiment="2"))
    plant.archive("2").settle()
    done = maintained(plant.settings)[str(NAME)]
    assert (done.files_before, done.files_after) == (4, 3)


def test_a_table_that_is_no_archive_any_more_is_left_alone_and_told(plant: Plant) -> None:
    plant.arrive(trace(1))
    archive = plant.archive()
    archive.settle()
    enable(plant.settings, "1", ArchiveSetting(NAME))
    uri = archive.table.storage.uri
    rows = DeltaTable(uri).to_pyarrow_table()
    write_deltalake(
        uri,
        rows.append_column("mine", rows["trace_id"]),
        mode="append",
        schema_mode="merge",
    )
    version = DeltaTable(uri).version()
    done = maintained(plant.settings)[str(NAME)]
    assert done.error is not None
    assert "mine is no column" in done.error
    assert done.files_after == done.files_before > 0
    assert DeltaTable(uri).version() == version


def command(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["maintain", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_by_command(plant: Plant) -> None:
    plant.arrive(trace(1))
    plant.archive().settle()
    enable(plant.settings, "1", ArchiveSetting(NAME))
    data = str(plant.settings.data)
    code, out, err = command("--data", data, "--json")
    assert code == 0, err
    told: list[dict[str, Any]] = json.loads(out)
    assert [one["table"] for one in told][-1] == str(NAME)
    code, out, _ = command("--data", data)
    assert (code, out.splitlines()[-1].split()[:4]) == (0, [str(NAME), "1", "->", "1"])
    Path(plant.archive().table.storage.uri).rename(plant.settings.data / "unmounted")
    code, out, _ = command("--data", data)
    assert (code, "was there before" in out) == (1, True)
    code, _, err = command("--data", f"{data}/none")
    assert (code, "no data directory" in err) == (1, True)
