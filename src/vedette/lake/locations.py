"""Which experiment keeps its traces where.

Said once for each experiment, and never changed: what is remembered holds. The tags of experiments
in the control database say it to all servers; a file for each experiment in the data directory says
it to the processes here, who can't always ask the database. A file is whole or not there.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from vedette.lake.location import DEFAULT, Location, in_order
from vedette.lake.storage import sync_file

# An experiment's tag of this name; JSON, see `Binding`
LOCATION_TAG = "vedette.trace_location"
_EXPERIMENT_ID = re.compile("[0-9]{1,19}")


class Binding(NamedTuple):
    """That an experiment keeps its traces in a location."""

    location: Location
    bound_ms: int  # since when, in milliseconds since the epoch

    @classmethod
    def of(cls, text: str | bytes) -> Binding:
        """The inverse of `as_json`.

        Raises:
            ValueError: it is none.
        """
        value = orjson.loads(text)
        if not isinstance(value, dict) or not isinstance(value.get("bound_ms"), int):
            raise ValueError(f"no trace location: {value!r:.200}")
        return cls(Location.parse(str(value.get("trace_location"))), value["bound_ms"])

    def as_json(self) -> str:
        """As it is kept in a tag, and in a file."""
        value = {"trace_location": str(self.location), "bound_ms": self.bound_ms}
        return orjson.dumps(value).decode()


class Locations:
    """What is known in a data directory; for any number of threads and processes.

    Args:
        state: the directory of notes on the lake's tables.
    """

    def __init__(self, state: Path) -> None:
        self._directory = state / "locations"
        self._known: dict[str, Binding] = {}

    def of(self, experiment_id: str) -> Location:
        """Where an experiment keeps its traces."""
        found = self.binding(experiment_id)
        return DEFAULT if found is None else found.location

    def binding(self, experiment_id: str) -> Binding | None:
        """An experiment's; None if it has chosen nothing."""
        if (known := self._known.get(experiment_id)) is not None:
            return known
        if not _EXPERIMENT_ID.fullmatch(experiment_id):
            return None
        with suppress(FileNotFoundError):
            self._known[experiment_id] = Binding.of((self._directory / experiment_id).read_bytes())
        return self._known.get(experiment_id)

    def note(self, experiment_id: str, binding: Binding) -> Binding:
        """Remember a binding, durably; returns the one that holds: the first that was noted."""
        if (known := self.binding(experiment_id)) is not None:
            return known
        path = self._directory / experiment_id
        self._directory.mkdir(parents=True, exist_ok=True)
        sync_file(self._directory)
        draft = self._directory / f".{uuid.uuid4()}"
        draft.write_text(binding.as_json())
        sync_file(draft)
        with suppress(FileExistsError):  # another process was first
            os.link(draft, path)
        draft.unlink()
        sync_file(path)
        return self._known.setdefault(experiment_id, Binding.of(path.read_bytes()))

    def all(self) -> Mapping[str, Binding]:
        """Every binding by experiment, those that were bound first coming first."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                self.binding(name)
        found = sorted(self._known.items(), key=lambda item: (item[1].bound_ms, int(item[0])))
        return dict(found)

    def places(self) -> list[Location]:
        """The locations that there are, in the order in which they are written."""
        return sorted({DEFAULT, *(one.location for one in self.all().values())}, key=in_order)
