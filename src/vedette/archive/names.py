"""Names of tables as users write them: ``catalog.schema.table``."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile("[A-Za-z0-9_][A-Za-z0-9_-]*")
_LONGEST = 200  # files are named after it
# The ends of the names of Vedette's own tables and views
_OURS = (
    "_otel_spans",
    "_otel_annotations",
    "_otel_logs",
    "_otel_metrics",
    "_monitor_decisions",
    "_trace_unified",
    "_trace_metadata",
)


class TableName(NamedTuple):
    """A table of the lake, at ``<lake>/<catalog>/<schema>/<table>``."""

    catalog: str
    schema: str
    table: str

    @classmethod
    def parse(cls, fullname: object) -> TableName:
        """The name that ``fullname`` is.

        Raises:
            ValueError: it is none, or one that Vedette's own tables have.
        """
        if not isinstance(fullname, str) or fullname.count(".") != 2:
            raise ValueError(
                f"{fullname!r:.200} is no full name of a table: write catalog.schema.table"
            )
        if len(fullname) > _LONGEST:
            raise ValueError(
                f"{fullname!r:.50}... can't be used: it has more than {_LONGEST} characters"
            )
        name = cls(*fullname.split("."))
        for kind, part in zip(cls._fields, name, strict=True):
            if not _PART.fullmatch(part):
                raise ValueError(
                    f"the {kind} {part!r:.200} in {fullname!r:.200} can't be used: it must have "
                    "letters, digits, _ and - only, and not begin with -"
                )
        for end in _OURS:
            if name.table.endswith(end):
                raise ValueError(
                    f"{fullname} can't be used: names that end in {end} are those of Vedette's own "
                    "tables"
                )
        return name

    def __str__(self) -> str:
        return ".".join(self)

    def uri(self, lake: str) -> str:
        """Where the table is in the lake at ``lake``."""
        return "/".join((lake.rstrip("/"), *self))
