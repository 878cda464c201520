"""The control database: MLflow's tables, made or brought up to date before anything is served."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as db
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from vedette.settings import Settings

logger = logging.getLogger(__name__)


def prepare_control_database(settings: Settings) -> None:
    """Make the control database ready for the installed MLflow.

    Our own ``control.db`` is made, or migrated, as a copy that then takes its place: it is whole
    whatever happens meanwhile, and the version before a migration is kept beside it. A database of
    the user's is filled if it is empty, never migrated.

    Raises:
        MlflowException: the user's database has an older schema; the message names the command.
    """
    if settings.backend_store_uri is not None:
        _require_driver(settings.control_uri)
        engine = db.create_sqlalchemy_engine_with_retry(settings.control_uri)
        try:
            if db._is_empty_database(engine):
                db._safe_initialize_tables(engine)
            db._verify_schema(engine)
        finally:
            engine.dispose()
        return
    path = settings.data / "control.db"
    draft = path.with_name(f"control.db.{os.getpid()}")
    try:
        if not path.exists():
            _run(draft, db._initialize_tables)
            draft.rename(path)
        elif (version := _run(path, db._get_schema_version)) != db._get_latest_schema_revision():
            _migrate_copy(path, draft, version)
    finally:
        for left in draft.parent.glob(f"{draft.name}*"):
            left.unlink()


def _require_driver(uri: str) -> None:
    """Say what is missing before MLflow tries, again and again, to connect without it.

    Raises:
        MlflowException: the URI is none of a database, or its driver isn't installed.
    """
    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError) as error:
        raise MlflowException.invalid_parameter_value(
            f"the backend store URI names no database: {error}"
        ) from error
    except ImportError as error:
        raise MlflowException.invalid_parameter_value(
            f"the database's driver is not installed beside Vedette: {error}; for Postgres: "
            "pip install 'psycopg[binary]'"
        ) from error


def _migrate_copy(path: Path, draft: Path, version: str | None) -> None:
    kept = path.with_name(f"control-{version}.db")
    kept.unlink(missing_ok=True)  # of a migration that didn't get as far as the end
    logger.info("migrating %s to the installed MLflow's schema; %s keeps it", path, kept.name)
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(draft)) as target,
    ):
        source.backup(target)
    _run(draft, db._upgrade_db)
    os.link(path, kept)
    draft.replace(path)


def _run(path: Path, action: Callable[[Any], Any]) -> Any:
    """``action`` on an engine for the database file, which is closed afterwards."""
    engine = db.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    try:
        return action(engine)
    finally:
        engine.dispose()
