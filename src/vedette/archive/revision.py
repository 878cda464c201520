"""One commit to an archive: which rows come and go, and which files that makes anew.

A row that changes is replaced in the file it is in, so changes never make more files; rows of new
traces make one file for each day of arrival. (Delta's deletion vectors would save rewriting, but
not every reader knows them, and deltalake doesn't write them.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from vedette.archive.files import ArchiveFiles
from vedette.archive.places import Place
from vedette.archive.table import Overtaken
from vedette.lake.files import DataFile
from vedette.lake.rewrite import NewFile

# Of files that one commit makes anew: what is left over is for the next
_COMMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A trace that is to have a row: its row in the read model, and the row's partition."""

    row: int
    day: str


# By trace id, as the tables have it. None: it is to have no row.
Changes = dict[str, Wanted | None]

# The rows of traces of the read model, some at a time
RowsOf = Callable[[list[int]], Iterable[pa.Table]]


@dataclass(slots=True)
class _FileChange:
    leaving: list[str] = field(default_factory=list)
    coming: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Revision:
    """What one commit does.

    Attributes:
        changed: by path of a file: what of it changes.
        new: by day: the traces of the read model that have had no row there.
    """

    changed: dict[str, _FileChange] = field(default_factory=dict)
    new: dict[str, list[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changed or self.new)

    def carry_out(
        self, files: Mapping[str, DataFile], archive: ArchiveFiles, rows_of: RowsOf
    ) -> tuple[list[NewFile], list[DataFile]]:
        """Write the new files; returns them and the files that they replace."""
        written = []
        for path, change in self.changed.items():
            before = _without(archive.rows(files[path]), change.leaving)
            written.append(archive.write(files[path].day, chain(before, rows_of(change.coming))))
        written += [archive.write(day, rows_of(rows)) for day, rows in self.new.items()]
        return [one for one in written if one is not None], [files[path] for path in self.changed]


def plan(
    changes: Changes,
    places: Mapping[str, Place],
    files: Mapping[str, DataFile],
    experiment_id: str,
) -> tuple[Revision, Changes]:
    """What the next commit does of ``changes``, and what is left for another.

    Args:
        places: where the traces have rows now.
        files: all of the table, by path.
        experiment_id: rows of other experiments are only replaced, never deleted.

    Raises:
        Overtaken: ``places`` and ``files`` are of two versions of the table.
    """
    revision, later = Revision(), Changes()
    size = 0
    for trace_id, wanted in changes.items():
        place = places.get(trace_id)
        if place is None:
            if wanted is not None:
                revision.new.setdefault(wanted.day, []).append(wanted.row)
            continue
        if wanted is None and place.experiment_id != experiment_id:
            continue
        if place.path not in files:
            raise Overtaken(f"the places know a newer version than the one with {len(files)} files")
        if place.path not in revision.changed:
            if size > _COMMIT_BYTES:
                later[trace_id] = wanted
                continue
            size += files[place.path].size
        change = revision.changed.setdefault(place.path, _FileChange())
        change.leaving.append(trace_id)
        if wanted is None:
            continue
        if wanted.day == files[place.path].day:
            change.coming.append(wanted.row)
        else:
            revision.new.setdefault(wanted.day, []).append(wanted.row)
    return revision, later


def _without(rows: Iterable[pa.Table], trace_ids: list[str]) -> Iterator[pa.Table]:
    leaving = pa.array(trace_ids, pa.string())
    for some in rows:
        yield some.filter(pc.invert(pc.is_in(some["trace_id"], value_set=leaving)))
