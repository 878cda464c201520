"""Which experiments are archived, and how: a tag of the experiment in the control database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from vedette.archive.names import TableName
from vedette.named_sql import statements
from vedette.scoring.active import ControlMissing, ControlUnavailable, is_missing

_SQL = statements("vedette.archive", "setting")

# An experiment's tag of this name; JSON, see `ArchiveSetting`
ARCHIVAL_TAG = "vedette.trace_archival"
_FIELDS = {"delta_table_fullname", "retention_days", "optimize"}


@dataclass(frozen=True, slots=True)
class ArchiveSetting:
    """How an experiment is archived.

    Attributes:
        retention_days: rows of traces that arrived longer ago are deleted; None keeps all.
        optimize: whether Vedette merges the table's small files.
    """

    table: TableName
    retention_days: float | None = None
    optimize: bool = True

    @classmethod
    def of(cls, value: Any) -> ArchiveSetting:
        """A setting from JSON.

        Raises:
            ValueError: it is none; the message says why.
        """
        if not isinstance(value, dict) or not value.keys() <= _FIELDS:
            raise ValueError(f"it has {', '.join(sorted(_FIELDS))}, not {value!r:.200}")
        days, optimize = value.get("retention_days"), value.get("optimize", True)
        is_number = isinstance(days, int | float) and not isinstance(days, bool)
        if days is not None and not (is_number and 0 < days <= 100_000):
            raise ValueError(
                f"retention_days must be a number above 0 and up to 100,000, not {days!r:.100}"
            )
        if not isinstance(optimize, bool):
            raise ValueError(f"optimize must be true or false, not {optimize!r:.100}")
        table = TableName.parse(value.get("delta_table_fullname"))
        return cls(table, None if days is None else float(days), optimize)

    def oldest_day(self) -> str:
        """The first day of arrival whose traces are kept: "2026-01-31"; "" is before all days."""
        if self.retention_days is None:
            return ""
        return (datetime.now(UTC) - timedelta(days=self.retention_days)).date().isoformat()

    def as_json(self) -> dict[str, Any]:
        """The inverse of `of`."""
        return {
            "delta_table_fullname": str(self.table),
            "retention_days": self.retention_days,
            "optimize": self.optimize,
        }


class ArchiveSettings:
    """The settings of all experiments.

    Args:
        engine: of the control database.
    """

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        self._engine = engine
        self._found = False

    def read(self) -> dict[str, ArchiveSetting | str]:
        """By experiment id; a text says why a setting can't be used: anybody may set tags.

        Raises:
            ControlMissing: there is no database yet, and there never was.
            ControlUnavailable: the database can't be read now.
        """
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(
                    sqlalchemy.text(_SQL["archival"]), {"tag": ARCHIVAL_TAG}
                ).all()
        except SQLAlchemyError as error:
            if is_missing(self._engine) and not self._found:
                raise ControlMissing("there is no control database yet") from error
            reason = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise ControlUnavailable(
                f"can't read from the control database which experiments are archived: {reason}"
            ) from error
        self._found = True
        return {str(experiment): _setting(value) for experiment, value in rows}


def _setting(text: str) -> ArchiveSetting | str:
    try:
        return ArchiveSetting.of(orjson.loads(text))
    except ValueError as error:
        return f"the experiment's tag {ARCHIVAL_TAG} can't be used: {error}"
