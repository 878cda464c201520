"""The control database is whole at every moment, whatever MLflow it was made by."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as db
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from vedette.mlflow_app.control import prepare_control_database
from vedette.settings import Settings


def an_older_database(path: Path) -> str:
    """Make the database of the MLflow one schema version ago; returns that version."""
    config = db._get_alembic_config(f"sqlite:///{path}")
    scripts = ScriptDirectory.from_config(config)
    older = scripts.get_revision(scripts.get_current_head()).down_revision
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
        connection.execute(
            sqlalchemy.text("INSERT INTO experiments (experiment_id, name) VALUES (7, 'kept')")
        )
    engine.dispose()
    return str(older)


def read(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_it_is_made_once_and_then_left_alone(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    prepare_control_database(settings)
    made = (tmp_path / "control.db").stat()
    prepare_control_database(settings)
    again = (tmp_path / "control.db").stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["control.db"]


def test_an_older_one_is_migrated_and_the_version_before_kept(tmp_path: Path) -> None:
    control = tmp_path / "control.db"
    older = an_older_database(control)
    prepare_control_database(Settings(data=tmp_path))
    assert read(control, "SELECT name FROM experiments WHERE experiment_id = 7") == [("kept",)]
    assert read(control, "SELECT version_num FROM alembic_version") == [
        (db._get_latest_schema_revision(),)
    ]
    kept = tmp_path / f"control-{older}.db"
    assert read(kept, "SELECT version_num FROM alembic_version") == [(older,)]
    assert {path.name for path in tmp_path.iterdir()} == {"control.db", kept.name}


def test_a_failed_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = tmp_path / "control.db"
    an_older_database(control)
    before = control.read_bytes()

    def fail(_engine: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(db, "_upgrade_db", fail)
    with pytest.raises(RuntimeError):
        prepare_control_database(Settings(data=tmp_path))
    assert control.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["control.db"]


def test_a_users_database_is_filled_when_empty_and_never_migrated(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    settings = Settings(data=tmp_path, backend_store_uri=f"sqlite:///{theirs}")
    prepare_control_database(settings)
    assert read(theirs, "SELECT count(*) FROM experiments") == [(0,)]

    theirs.unlink()
    older = an_older_database(theirs)
    with pytest.raises(MlflowException, match="mlflow db upgrade"):
        prepare_control_database(settings)
    assert read(theirs, "SELECT version_num FROM alembic_version") == [(older,)]
