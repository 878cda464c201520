"""After any history of writes, changes, deletions and crashes an archive is the read model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from archive_support import NAME, NOW, Archive, Plant, as_told, expected
from test_fold import assessment, spans_record
from test_rebuild import other, spans, start
from vedette.intake.records import Record
from vedette.lake.storage import LakeUnavailable
from vedette.traces.columns import trim_changes

EXPERIMENTS = ("1", "2")
KILLS = 4


class Killed(BaseException):
    """The process is gone at this place."""


def sensible(fields: dict[str, Any]) -> dict[str, Any]:
    """A drawn record with assessments that MLflow would have taken."""
    rows = [*fields.get("put", ()), *fields.get("trace", {}).get("assessments", ())]
    for row in rows:
        if row["assessment_type"] == "issue" or json.loads(row["value"]) is None:
            row["assessment_type"] = "feedback"
    return fields


class Histories(RuleBasedStateMachine):
    """Two experiments with an archive each, in one table or in two."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.plant = Plant(self.directory)
        self.at = NOW
        self.archives: dict[str, Archive] = {}

    @initialize(shared=st.booleans(), drawn=st.lists(spans(), min_size=4, max_size=8))
    def take_up(self, shared: bool, drawn: list[dict[str, Any]]) -> None:
        self.names = {"1": NAME, "2": NAME if shared else NAME._replace(table="others")}
        self.write(drawn, 0)
        self.restart()
        for one in EXPERIMENTS:
            self.settle(one)

    def restart(self) -> None:
        for archive in self.archives.values():
            archive.places.close()
        self.archives = {one: self.plant.archive(one, self.names[one]) for one in EXPERIMENTS}

    @rule(
        drawn=st.lists(spans() | start() | other(), min_size=2, max_size=6),
        days=st.sampled_from([0, 0, 0, 1]),
    )
    def write(self, drawn: list[dict[str, Any]], days: int) -> None:
        self.at += days * 86_400_000
        for fields in map(sensible, drawn):
            self.at += 1
            kind, body = fields["kind"], fields.get("body", b"")
            rest = {key: value for key, value in fields.items() if key not in ("kind", "body")}
            self.plant.arrive(Record(kind, self.at, rest, body))

    @rule(number=st.integers(0, 9))
    def delete(self, number: int) -> None:
        """One of the traces that there are."""
        found = self.plant.index.connection().execute("SELECT trace_id FROM traces ORDER BY id")
        if ids := [trace_id for (trace_id,) in found]:
            one = ids[number % len(ids)]
            self.plant.arrive(Record("delete_traces", self.at, {"trace_ids": [one]}))

    @rule(one=st.sampled_from(EXPERIMENTS), fill=st.booleans())
    def step(self, one: str, fill: bool) -> None:
        archive = self.archives[one]
        if not (fill and archive.sync.fill()):
            archive.sync.sync()

    @rule(one=st.sampled_from(EXPERIMENTS))
    def settle(self, one: str) -> None:
        self.archives[one].settle()
        self.compare(one)

    @rule(
        one=st.sampled_from(EXPERIMENTS),
        after=st.sampled_from(["write", "look", "commit"]),
        error=st.sampled_from([Killed, LakeUnavailable]),
    )
    def crash(self, one: str, after: str, error: type[BaseException]) -> None:
        archive = self.archives[one]
        commit, write = archive.table.commit, archive.files.write

        def dying_write(*args: Any, **kwargs: Any) -> Any:
            write(*args, **kwargs)
            raise error("after a file was written")

        def dying_commit(*args: Any, **kwargs: Any) -> None:
            if after == "commit":
                commit(*args, **kwargs)
            raise error(f"after the {after}")

        if after == "write":
            archive.files.write = dying_write  # type: ignore[method-assign]
        else:
            archive.table.commit = dying_commit  # type: ignore[method-assign]
        try:
            while archive.sync.sync() or archive.sync.fill():
                pass
        except LakeUnavailable:
            archive.sync.forget()  # as the engine does
        except Killed:
            self.restart()
        finally:
            archive.files.write = write  # type: ignore[method-assign]
            archive.table.commit = commit  # type: ignore[method-assign]

    @rule(
        what=st.sampled_from(["places", "read model", "power", "changes", "merge"]),
        one=st.sampled_from(EXPERIMENTS),
    )
    def disturb(self, what: str, one: str) -> None:
        if what == "places":
            for archive in self.archives.values():
                archive.places.close()
            shutil.rmtree(self.plant.settings.archive_state)
            self.archives = {}
            self.restart()
        elif what == "read model":
            self.plant.lose_read_model()
            self.restart()
        elif what == "power":
            self.plant.cut_power()
            self.restart()
        elif what == "changes":
            trim_changes(self.plant.index, keep=0)
        else:
            self.archives[one].upkeep.merge()

    def teardown(self) -> None:
        try:
            for _ in range(2):  # a trace may go from one to the other
                for archive in self.archives.values():
                    archive.settle()
            for one in self.archives:
                self.compare(one)
        finally:
            self.plant.close()
            for archive in self.archives.values():
                archive.places.close()
            shutil.rmtree(self.directory)

    def compare(self, one: str) -> None:
        rows = self.archives[one].stored()
        assert len(rows) == len({row["trace_id"] for row in rows})
        told = [as_told(row) for row in rows if row["experiment_id"] == one]
        assert told == expected(self.plant, one)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=12,
    stateful_step_count=18,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_an_engine_killed_again_and_again_leaves_one_row_per_trace(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    random = Random(7)
    written = 0

    def write(seconds: float) -> None:
        nonlocal written
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            written += 1
            record = spans_record(written, "root", "child", at=NOW + written * 3_600_000)
            record.fields["experiment_id"] = "1"
            scored = assessment(1 + random.randrange(written), f"a-{random.randrange(50)}")
            plant.arrive(record, Record("assessments", NOW, {"put": [scored]}))
            if random.random() < 0.2:
                gone = f"tr-{1 + random.randrange(written):032x}"
                plant.arrive(Record("delete_traces", NOW, {"trace_ids": [gone]}))
            time.sleep(0.005)

    command = [sys.executable, "-m", "archive_support", str(tmp_path)]
    for _ in range(KILLS):
        keeper = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"begun\n"
        write(0.2 + random.random())
        keeper.send_signal(signal.SIGKILL)
        keeper.wait()
        keeper.stdout.close()
    archive = plant.archive()
    archive.settle()
    while archive.upkeep.merge():
        pass
    rows = archive.stored()
    assert len(rows) == len({row["trace_id"] for row in rows}) > 100
    assert [as_told(row) for row in rows] == expected(plant, "1")
    plant.close()
