"""The views ``<prefix>_trace_unified`` and ``<prefix>_trace_metadata``, for any engine."""

from __future__ import annotations

from collections.abc import Sequence

from vedette.lake.location import DEFAULT, TABLE_PREFIX, Location
from vedette.lake.sql.dialect import in_dialect
from vedette.lake.sql.names import TABLES, VIEWS, Name, located
from vedette.named_sql import statements

DIALECTS = ("databricks", "spark", "duckdb")
_SQL = statements("vedette.lake.sql", "views")


def view_query(name: str, location: Location = DEFAULT) -> str:
    """The query that a view is, in Databricks' dialect; ``name`` is that by default."""
    return located(f"{_SQL['said']}\n{_SQL[name.removeprefix(f'{TABLE_PREFIX}_')]}", location)


def view_statements(dialect: str, lake: str, locations: Sequence[Location] = (DEFAULT,)) -> str:
    """SQL that makes the views where the tables are known to an engine.

    Args:
        dialect: ``databricks``, ``spark`` or ``duckdb``. DuckDB has no catalog of the tables, so
            for it there are views of the tables, too; they are called by their full names, those
            of the location by default without catalog and schema.
        lake: root of the lake, for DuckDB.
        locations: those whose views are made.
    """
    made = ["INSTALL delta;\nLOAD delta;"] if dialect == "duckdb" else []
    for location in locations:
        if dialect == "duckdb":
            for table in TABLES:
                place = "/".join((lake.rstrip("/"), *location.table(table))).replace("'", "''")
                name = _in_duckdb(Name(location, table))
                made.append(
                    f"CREATE OR REPLACE VIEW {name} AS\nSELECT * FROM delta_scan('{place}');"
                )
        for view in VIEWS:
            one = Name(location, view)
            query = in_dialect(view_query(view), dialect, location)
            name = _in_duckdb(one) if dialect == "duckdb" else one.full
            made.append(f"CREATE OR REPLACE VIEW {name} AS\n{query};")
    return "\n\n".join(made)


def _in_duckdb(name: Name) -> str:
    return name.key if name.location == DEFAULT else f'"{name.key}"'
