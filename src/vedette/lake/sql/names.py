"""What tables and views a query may name, and how."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from vedette.lake.schemas import ANNOTATIONS, DECISIONS, LOCATION, SPANS, TABLE_PREFIX
from vedette.lake.telemetry_schemas import LOGS, METRICS

CATALOG, SCHEMA = LOCATION.split("/")
TABLES = {spec.name: spec for spec in (SPANS, ANNOTATIONS, DECISIONS, LOGS, METRICS)}
VIEWS = (f"{TABLE_PREFIX}_trace_unified", f"{TABLE_PREFIX}_trace_metadata")
NAMES = (*TABLES, *VIEWS)
TABLES_SCHEMA = "lake"  # where they are inside of DuckDB


def full_name(name: str) -> str:
    """``catalog.schema.table``."""
    return f"{CATALOG}.{SCHEMA}.{name}"


def resolve(parts: Sequence[str]) -> str | None:
    """The table or view that a name of one to three parts stands for, in whatever case; else None.

    Leading parts may be left out: ``mlflow_otel_spans`` is ``main.default.mlflow_otel_spans``.
    """
    *place, name = (part.lower() for part in parts)
    if name in NAMES and place == [CATALOG, SCHEMA][2 - len(place) :] and len(place) <= 2:
        return name
    return None


def unknown(parts: Sequence[str]) -> str:
    """What to tell whoever named a table that isn't there."""
    near = difflib.get_close_matches(parts[-1].lower(), NAMES, n=1)
    hint = f"; did you mean {full_name(near[0])}?" if near else "."
    return (
        f"there is no table {'.'.join(parts)}{hint} There are: {', '.join(map(full_name, NAMES))}"
    )
