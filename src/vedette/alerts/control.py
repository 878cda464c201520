"""The control database, as alerts use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy
from sqlalchemy import Connection, Engine, and_
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from vedette.alerts.tables import RULES

_NO_TABLES = (OperationalError, ProgrammingError)


class AlertsUnavailable(Exception):
    """The control database can't be asked or written now."""


class Control:
    """Use from any thread and process.

    Args:
        engine: of the control database, as `vedette.scoring.active.control_engine` makes it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Raises:
        AlertsUnavailable: try again later.
        """
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; rolled back if the block raises.

        Raises:
            AlertsUnavailable: nothing was changed; try again later.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(error) from error


def tables_missing(engine: Engine) -> bool:
    """Whether the server has not made the tables yet, or not even the database."""
    try:
        return not sqlalchemy.inspect(engine).has_table(RULES.name)
    except _NO_TABLES:
        return True


def of_rule(table: sqlalchemy.Table, experiment_id: str, name: str) -> Any:
    """The condition that a row is of a rule."""
    return and_(table.c.experiment_id == experiment_id, table.c.name == name)


def as_json(value: Any) -> str:
    """JSON text, of numpy's numbers too."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def _unavailable(error: SQLAlchemyError) -> AlertsUnavailable:
    reason = getattr(error, "orig", None) or error
    if isinstance(error, IntegrityError):
        return AlertsUnavailable(f"somebody else has just put the same rule: {reason}")
    return AlertsUnavailable(f"the control database can't be used: {reason}")
