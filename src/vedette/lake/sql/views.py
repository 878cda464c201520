"""The views ``<prefix>_trace_unified`` and ``<prefix>_trace_metadata``, for any engine."""

from __future__ import annotations

from vedette.lake.schemas import LOCATION, TABLE_PREFIX
from vedette.lake.sql.dialect import in_dialect
from vedette.lake.sql.names import TABLES, VIEWS, full_name
from vedette.named_sql import statements

DIALECTS = ("databricks", "spark", "duckdb")
_SQL = statements("vedette.lake.sql", "views")


def view_query(name: str) -> str:
    """The query that a view is, in Databricks' dialect."""
    return f"{_SQL['said']}\n{_SQL[name.removeprefix(f'{TABLE_PREFIX}_')]}"


def view_statements(dialect: str, lake: str) -> str:
    """SQL that makes the views where the tables are known to an engine.

    Args:
        dialect: ``databricks``, ``spark`` or ``duckdb``. DuckDB has no catalog of the tables, so
            for it there are views of the tables, too.
        lake: root of the lake, for DuckDB.
    """
    made = []
    if dialect == "duckdb":
        made.append("INSTALL delta;\nLOAD delta;")
        for table in TABLES:
            place = f"{lake.rstrip('/')}/{LOCATION}/{table}".replace("'", "''")
            made.append(f"CREATE OR REPLACE VIEW {table} AS\nSELECT * FROM delta_scan('{place}');")
    for view in VIEWS:
        name = view if dialect == "duckdb" else full_name(view)
        made.append(f"CREATE OR REPLACE VIEW {name} AS\n{in_dialect(view_query(view), dialect)};")
    return "\n\n".join(made)
