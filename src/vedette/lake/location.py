"""Trace locations: which tables of the lake an experiment has, ``catalog.schema.prefix``."""

from __future__ import annotations

import re
from typing import NamedTuple

from vedette.intake.records import Record

TABLE_PREFIX = "mlflow"  # of the location by default

_PART = re.compile("[a-z0-9][a-z0-9_-]*")
_LONGEST = 150  # files are named after it
_FIELDS = ("catalog", "schema", "table prefix")


class Location(NamedTuple):
    """Where tables are: ``<lake>/<catalog>/<schema>/<prefix>_otel_spans`` and so on.

    As in Unity Catalog, case doesn't tell names apart: they are kept in lower case.
    """

    catalog: str
    schema: str
    prefix: str

    @classmethod
    def of(cls, catalog: object, schema: object, prefix: object) -> Location:
        """The location of these names.

        Raises:
            ValueError: one can't be used; the message says which and why.
        """
        parts = []
        for kind, given in zip(_FIELDS, (catalog, schema, prefix), strict=True):
            part = given.lower() if isinstance(given, str) else ""
            if not _PART.fullmatch(part):
                raise ValueError(
                    f"the {kind} {given!r:.200} can't be used: it must have letters, digits, _ and "
                    "- only, and begin with a letter or a digit"
                )
            parts.append(part)
        found = cls(*parts)
        if len(str(found)) > _LONGEST:
            raise ValueError(
                f"{str(found)[:50]}... can't be used: it has more than {_LONGEST} characters"
            )
        return found

    @classmethod
    def parse(cls, text: str) -> Location:
        """The inverse of `str`.

        Raises:
            ValueError: it is none.
        """
        parts = text.split(".")
        if len(parts) != len(_FIELDS):
            raise ValueError(f"{text!r:.200} is no location: write catalog.schema.prefix")
        return cls.of(*parts)

    def __str__(self) -> str:
        return ".".join(self)

    def table(self, name: str) -> tuple[str, str, str]:
        """Catalog, schema and name of the table or view that is ``name`` in `DEFAULT`."""
        return self.catalog, self.schema, self.prefix + name.removeprefix(TABLE_PREFIX)

    def key(self, name: str) -> str:
        """What the table or view that is ``name`` in `DEFAULT` is called where no two may be called
        the same: by its full name, and in `DEFAULT` just so."""
        return name if self == DEFAULT else ".".join(self.table(name))


DEFAULT = Location("main", "default", TABLE_PREFIX)  # of experiments that have chosen none


def in_order(location: Location) -> tuple[bool, Location]:
    """Sorts locations as they are written: `DEFAULT` last."""
    return location == DEFAULT, location


def location_of(record: Record) -> Location:
    """The location whose tables a journal record goes to. It was said as the record was journaled,
    so that a segment that is replayed goes where it went."""
    said = record.fields.get("location")
    return DEFAULT if said is None else Location.parse(said)


def stamp(location: Location) -> dict[str, str]:
    """The field of a record that `location_of` reads; none for `DEFAULT`."""
    return {} if location == DEFAULT else {"location": str(location)}
