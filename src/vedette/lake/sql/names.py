"""What tables and views a query may name, and how."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from vedette.lake.location import DEFAULT, TABLE_PREFIX, Location
from vedette.lake.schemas import ANNOTATIONS, DECISIONS, SPANS
from vedette.lake.telemetry_schemas import LOGS, METRICS

# Those of the location by default: by these names a table is known in any location
TABLES = {spec.name: spec for spec in (SPANS, ANNOTATIONS, DECISIONS, LOGS, METRICS)}
VIEWS = (f"{TABLE_PREFIX}_trace_unified", f"{TABLE_PREFIX}_trace_metadata")
NAMES = (*TABLES, *VIEWS)
TABLES_SCHEMA = "lake"  # where they are inside of DuckDB

_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_OF_DEFAULT = re.compile(rf"\b{DEFAULT.catalog}\.{DEFAULT.schema}\.({TABLE_PREFIX}_[a-z_]+)")


class Name(NamedTuple):
    """A table or view of a location.

    Attributes:
        name: what it is called in the location by default.
    """

    location: Location
    name: str

    @property
    def key(self) -> str:
        """What it is called inside of DuckDB."""
        return self.location.key(self.name)

    @property
    def full(self) -> str:
        """``catalog.schema.table``, quoted where Databricks and Spark want it."""
        return ".".join(
            part if _PLAIN.fullmatch(part) else f"`{part}`"
            for part in self.location.table(self.name)
        )


def names_in(locations: Sequence[Location]) -> dict[str, Name]:
    """Every table and view by its key."""
    found = (Name(location, name) for location in locations for name in NAMES)
    return {one.key: one for one in found}


def located(text: str, location: Location) -> str:
    """A query of ours, which is on the location by default, on another one."""
    return _OF_DEFAULT.sub(lambda found: Name(location, found[1]).full, text)


def resolve(parts: Sequence[str], locations: Sequence[Location]) -> Name | None:
    """The table or view that a name of one to three parts stands for, in whatever case; else None.

    ``main`` and ``main.default`` may be left out: ``mlflow_otel_spans`` is
    ``main.default.mlflow_otel_spans``.
    """
    *place, last = (part.lower() for part in parts)
    if len(place) > 2:
        return None
    catalog, schema = [DEFAULT.catalog, DEFAULT.schema][: 2 - len(place)] + place
    for location in locations:
        if location[:2] == (catalog, schema):
            for name in NAMES:
                if location.table(name)[2] == last:
                    return Name(location, name)
    return None


def unknown(parts: Sequence[str], locations: Sequence[Location]) -> str:
    """What to tell whoever named a table that isn't there."""
    there_are = {one.full: one.location.table(one.name)[2] for one in names_in(locations).values()}
    near = difflib.get_close_matches(parts[-1].lower(), set(there_are.values()), n=1)
    meant = next((full for full, last in there_are.items() if last in near), None)
    hint = f"; did you mean {meant}?" if meant else "."
    told = ", ".join(Name(DEFAULT, name).full for name in NAMES)
    if others := [str(location) for location in locations if location != DEFAULT]:
        told += f"; and as many that begin with {', '.join(others)}"
    return f"there is no table {'.'.join(parts)}{hint} There are: {told}"
