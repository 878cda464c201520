"""Scorers go on where they were when the read model is lost: each unit is scored once."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from bench.fake_llm import FakeLLM, Reply, error, verdict
from deltalake import DeltaTable
from mlflow.genai.judges import make_judge

from scoring_support import Plane, make_control_database, spans_record
from vedette.intake.journal import JournalReader
from vedette.intake.records import Position, Record
from vedette.lake.table import Lake
from vedette.pipeline import Tail
from vedette.rebuild import Rebuild
from vedette.scoring import backoff, commit
from vedette.scoring.completion import Completion
from vedette.scoring.explain import Explainer
from vedette.scoring.sample import draw
from vedette.settings import Settings

SLOW = "import time\ntime.sleep(0.02)\nreturn inputs"
BUFFERS = {"trace_completion_buffer": 0.05, "session_completion_buffer": 0.1}
ALL = 1_000_000  # segments


class Untrimmed(JournalReader):
    """A journal whose engine was killed after the lake had a segment, and before it was removed."""

    def remove(self, number: int) -> None:
        """No more."""


class Site:
    """A data directory with a lake, and the plane that works on it, which can be killed."""

    def __init__(self, data: Path, **settings: Any) -> None:
        make_control_database(data / "control.db")
        self._settings = {**BUFFERS, **settings}
        self.data = data
        self.go_on()
        self.experiment: str = self.plane.store.create_experiment("lost")
        self.records: dict[Position, Record] = {}  # of the engine's journal

    def go_on(self) -> None:
        """Start (again)."""
        self.plane = Plane(self.data, **self._settings)
        self._alive = True

    @property
    def settings(self) -> Settings:
        return self.plane.settings

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_uri, self.settings.lake_state)

    def begin(self, name: str, body: str = "return inputs", **options: Any) -> None:
        """Register a scorer and start it."""
        of_sessions = options.pop("of_sessions", False)
        self.plane.register(self.experiment, name, body, of_sessions=of_sessions)
        self.plane.start(self.experiment, name, **options)

    def arrive(self, *numbers: int, **span: Any) -> None:
        self.plane.arrive(*(spans_record(self.experiment, n, **span) for n in numbers))

    def settle(self) -> None:
        """All that has arrived is decided by the scorers as they are now, and written down."""
        time.sleep(BUFFERS["trace_completion_buffer"])  # for so long the engine doesn't look again
        self.plane.settle()
        self.plane.scoring.flush()
        self.plane.settle()

    def work(self, until: Callable[[], bool]) -> None:
        """Run the engine's loops until something holds."""
        deadline = time.monotonic() + 60
        while not until():
            assert time.monotonic() < deadline
            self.plane.fold()
            self.plane.scoring.tick()

    def complete(self) -> None:
        """What has arrived becomes complete, and the engine does no more than that."""
        time.sleep(0.15)
        self.plane.fold()
        completion = Completion.of(self.settings, self.plane.index)
        completion.advance(folded_until_ms=int(time.time() * 1000), annotations=False)

    def kill(self, committed: int = ALL, *, trimmed: bool = True) -> None:
        """End without a last word; of each journal some segments get into the lake, and are gone
        from the journal if it has come to that."""
        if not self._alive:
            return
        self._alive = False
        self.plane.scoring._pools.close()
        self.plane.scoring._control.dispose()
        self.plane.server_journal.close()
        self.plane.engine_journal.close()
        self._read_records()
        lake = self.lake
        for reader in self.plane.readers:
            left = iter(range(committed))
            tail = Tail(reader if trimmed else Untrimmed(reader.directory), self.plane.index, lake)
            tail.commit_sealed(lambda left=left: next(left, None) is None)
        self.plane.index.connection().close()

    def lose(self, committed: int = ALL, *, trimmed: bool = True) -> None:
        """Kill it, lose the read model, make it anew, go on."""
        self.kill(committed, trimmed=trimmed)
        self.rebuild()
        self.go_on()

    def rebuild(self) -> None:
        for file in self.data.glob("index.db*"):
            file.unlink()
        Rebuild(
            self.settings.index_path,
            self.lake,
            self.plane.readers,
            self.data / "scratch",
            completion=partial(Completion.of, self.settings),
            stopping=lambda: False,
        ).run("it is missing")

    def scored(self, name: str) -> list[int]:
        return self.plane.scored(self.experiment, name)

    def counts(self, name: str) -> dict[str, int]:
        return self.plane.counts(self.experiment, name)

    def decisions(self, name: str) -> dict[tuple[str, int], dict[str, Any]]:
        return self.plane.decisions(self.experiment, name)

    def written(self, name: str) -> Counter[tuple[str, int]]:
        """How often each unit was decided: by id and revision."""
        self._read_records()
        return Counter(
            (row["unit_id"], row["revision"])
            for record in self.records.values()
            if record.fields.get("scorer") == f"{self.experiment}/{name}"
            for row in record.fields["decisions"]
        )

    def ledger(self, name: str) -> dict[str, int]:
        """What the Delta table says, once all is in it: units by decision."""
        self.kill()
        table = DeltaTable(self.lake.decisions.storage.uri)
        with duckdb.connect() as connection:
            connection.register("rows", table.to_pyarrow_dataset())
            found = connection.execute(
                "SELECT decision, sum(units) FROM (SELECT * FROM rows QUALIFY row_number() OVER"
                " (PARTITION BY decision_id ORDER BY record_id DESC) = 1)"
                f" WHERE scorer = '{name}' AND decision <> 'epoch' GROUP BY decision"
            ).fetchall()
        return {decision: units for decision, units in found if units}

    def _read_records(self) -> None:
        reader, position = self.plane.readers[1], Position(0, 0)
        while found := reader.read(position):
            for record, position in found:
                self.records[position] = record


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.kill()


def u(number: int) -> float:
    return draw(f"tr-{number:032x}")


@pytest.mark.parametrize("committed", [0, 1, ALL], ids=["journals", "both", "lake"])
def test_traces_that_waited_for_their_scores_get_them(site: Site, committed: int) -> None:
    site.begin("every", SLOW)
    site.begin("half", rate=0.5)
    site.settle()
    site.arrive(*range(1, 41))
    site.settle()
    site.arrive(*range(41, 141))
    site.work(lambda: len(site.decisions("every")) > 60)
    before = site.decisions("every")
    assert len(before) < 140

    site.lose(committed)
    after = site.decisions("every")  # and those that were in the journal, but not folded yet
    assert {unit: after[unit] for unit in before} == before
    site.settle()

    numbers = range(1, 141)
    assert site.scored("every") == list(numbers)
    assert site.scored("half") == [n for n in numbers if u(n) < 0.5]
    assert site.counts("every") == {"scored": 140}
    assert set(site.written("every").values()) == {1}
    assert set(site.written("half").values()) == {1}
    assert site.ledger("every") == {"scored": 140}


def test_counts_add_up_to_the_traffic(site: Site) -> None:
    site.begin("half", rate=0.5, filter_string="trace.status = 'OK'")
    site.settle()
    site.arrive(*range(1, 61))
    site.settle()
    site.arrive(*range(61, 90))
    site.arrive(*range(90, 101), failed=True)
    site.complete()
    site.arrive(1000, root=False)  # a record after which they are known to be quiet
    site.lose()
    site.settle()
    site.arrive(*range(101, 121))
    site.settle()

    ok = [n for n in range(1, 121) if not 90 <= n <= 100]
    chosen = [n for n in ok if u(n) < 0.5]
    expected = {"scored": len(chosen), "not_selected": len(ok) - len(chosen), "filtered": 11}
    assert site.scored("half") == chosen
    assert site.counts("half") == expected
    assert site.ledger("half") == expected


@pytest.mark.parametrize("trimmed", [False, True], ids=["journals and lake", "lake"])
def test_nothing_counts_twice_amid_traces_of_one_request(site: Site, trimmed: bool) -> None:
    """They have all arrived in one millisecond, and the scorer has come to some of them."""
    site.begin("slow", SLOW, rate=0.5)
    site.settle()
    numbers = range(1, 201)
    site.arrive(*numbers, at=int(time.time() * 1000))
    site.work(lambda: 20 < len(site.decisions("slow")) < 80)
    site.plane.fold()
    before = site.counts("slow")
    site.lose(trimmed=trimmed)
    assert site.counts("slow") == before
    site.kill()
    site.rebuild()  # twice in a row
    site.go_on()
    site.settle()

    chosen = [n for n in numbers if u(n) < 0.5]
    expected = {"scored": len(chosen), "not_selected": 200 - len(chosen)}
    assert site.scored("slow") == chosen
    assert set(site.written("slow").values()) == {1}
    assert site.counts("slow") == expected
    assert site.ledger("slow") == expected


def test_it_can_be_lost_again_and_again(site: Site) -> None:
    site.begin("every", SLOW)
    site.settle()
    numbers = itertools.count(1)
    arrived = 0
    for committed in (1, 0, ALL, ALL):
        site.arrive(*itertools.islice(numbers, 15))
        arrived += 15
        done = len(site.decisions("every"))
        site.work(lambda done=done: len(site.decisions("every")) > done)
        site.lose(committed)
    site.settle()

    assert site.scored("every") == list(range(1, arrived + 1))
    assert set(site.written("every").values()) == {1}
    assert site.ledger("every") == {"scored": arrived}


def test_a_trace_that_grows_after_its_score_is_not_scored_again(site: Site) -> None:
    site.begin("every")
    site.settle()
    site.arrive(1, 2)
    site.settle()
    site.arrive(1, root=False)
    site.lose()
    site.arrive(3)
    site.settle()

    assert site.scored("every") == [1, 2, 3]
    assert set(site.written("every").values()) == {1}
    assert site.counts("every") == {"scored": 3}


def test_what_is_tried_again_waits_on_and_is_scored_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.2)
    llm = FakeLLM()
    for name, value in llm.environment.items():
        monkeypatch.setenv(name, value)
    judge = make_judge(
        name="nice", instructions="Is {{ outputs }} nice?", model="openai:/gpt-4.1-mini"
    )
    site.plane.store.register_scorer(site.experiment, "nice", json.dumps(judge.model_dump()))
    site.plane.start(site.experiment, "nice")
    site.settle()
    llm.reset(Reply(503, error("overloaded")))
    site.arrive(1, 2)
    site.work(lambda: site.counts("nice") == {"retrying": 2})
    site.lose()
    assert site.counts("nice") == {"retrying": 2}

    llm.reset(Reply(body=verdict("yes")))
    site.work(lambda: site.counts("nice") == {"scored": 2})
    site.settle()
    assert site.scored("nice") == [1, 2]
    assert site.counts("nice") == {"scored": 2}
    assert site.ledger("nice") == {"scored": 2}
    llm.close()


def live_scores(site: Site, name: str) -> list[tuple[int, int]]:
    """Trace number and value of the valid scores."""
    rows = site.plane.index.connection().execute(
        "SELECT t.trace_id, a.value FROM assessments a JOIN traces t ON t.id = a.trace"
        " WHERE a.name = ? AND a.valid ORDER BY t.trace_id",
        (name,),
    )
    return [(int(trace[3:], 16), json.loads(value)) for trace, value in rows]


@pytest.mark.parametrize("committed", [0, ALL], ids=["journals", "lake"])
def test_conversations_are_scored_once_a_revision(site: Site, committed: int) -> None:
    site.begin("turns", "return len(session)", of_sessions=True)
    site.settle()
    for number in (1, 2, 3):  # revisions 0, 1, 2
        site.arrive(number, session="grows", begun=number)
        site.settle()
    site.arrive(11, session="rests")
    site.settle()
    site.arrive(4, session="grows", begun=4)
    site.arrive(21, session="new")
    site.complete()
    site.arrive(31, session="under way")
    assert site.written("turns") == Counter(
        [("grows", 0), ("grows", 1), ("grows", 2), ("rests", 0)]
    )

    site.lose(committed)
    site.settle()
    expected = [("grows", n) for n in range(4)] + [("rests", 0), ("new", 0), ("under way", 0)]
    assert site.written("turns") == Counter(expected)
    assert live_scores(site, "turns") == [(1, 4), (11, 1), (21, 1), (31, 1)]

    site.arrive(12, session="rests", begun=1)
    site.settle()
    assert site.written("turns") == Counter([*expected, ("rests", 1)])
    assert live_scores(site, "turns") == [(1, 4), (11, 2), (21, 1), (31, 1)]


def test_a_root_that_came_late_is_taken_off_those_without(tmp_path: Path) -> None:
    site = Site(tmp_path, max_trace_age=0.4)
    site.begin("every")
    site.settle()
    site.arrive(1, 2, root=False)
    site.settle()
    for seconds in (0.5, 0.15):  # it is known a moment later that nothing came in between
        time.sleep(seconds)
        site.settle()
    assert site.counts("every") == {"incomplete": 2}
    site.arrive(2)
    site.arrive(3)
    site.lose()
    site.settle()

    assert site.scored("every") == [2, 3]
    assert site.counts("every") == {"incomplete": 1, "scored": 2}
    site.kill()


def test_a_scorer_that_was_stopped_begins_when_it_is_started_again(site: Site) -> None:
    site.begin("every")
    site.settle()
    site.arrive(1, 2)
    site.settle()
    site.plane.start(site.experiment, "every", rate=0.0)
    site.settle()
    site.arrive(3, 4)
    site.settle()
    time.sleep(0.1)
    site.arrive(9, root=False)  # a record after which 3 and 4 are known to be quiet
    site.kill()
    site.plane.start(site.experiment, "every")  # by the server, while there is no engine
    site.rebuild()
    site.go_on()
    site.settle()
    site.arrive(5, 6)
    site.settle()

    assert site.scored("every") == [1, 2, 5, 6]


def test_what_a_scorer_left_that_was_deleted_is_counted_once(site: Site) -> None:
    site.begin("every", SLOW)
    site.settle()
    site.arrive(*range(1, 201))
    site.work(lambda: len(site.decisions("every")) > 3)
    site.kill()
    site.plane.store.delete_scorer(site.experiment, "every")  # while there is no engine
    site.rebuild()
    site.go_on()
    site.settle()
    scored = site.scored("every")
    assert 0 < len(scored) < 200
    assert site.counts("every") == {"scored": len(scored), "stopped": 200 - len(scored)}

    site.lose()
    site.begin("every")  # another one of that name
    site.settle()
    site.arrive(201)
    site.settle()
    assert site.scored("every") == [*scored, 201]
    expected = {"scored": len(scored) + 1, "stopped": 200 - len(scored)}
    assert site.counts("every") == expected
    assert site.ledger("every") == expected


def test_a_scorer_that_cannot_run_when_the_engine_starts_keeps_its_place(site: Site) -> None:
    site.begin("every")
    site.settle()
    site.arrive(1)
    site.settle()
    site.plane.start(site.experiment, "every", strata=[("trace.status = 'OK'", 7.0)])
    site.settle()
    site.arrive(2)
    site.complete()
    site.arrive(3, root=False)
    site.lose()
    site.settle()
    assert site.scored("every") == [1]

    site.plane.start(site.experiment, "every", strata=[("trace.status = 'OK'", 1.0)])
    site.settle()
    assert site.scored("every") == [1, 2]


def test_feedback_that_nobody_had_looked_at_selects_its_trace(site: Site) -> None:
    site.arrive(1)
    site.settle()
    site.begin("why", filter_string="feedback.user_feedback = 'false'")
    site.settle()
    site.arrive(2, 3, 4)
    site.settle()
    for number in (1, 3):
        site.plane.annotate(number, "user_feedback", "false")
    site.lose()
    site.settle()

    assert site.scored("why") == [3]  # 1 was there before the scorer
    assert site.counts("why") == {"scored": 1, "filtered": 2}


def test_feedback_that_comes_while_a_trace_waits_selects_it_once(site: Site) -> None:
    site.begin("why", filter_string="feedback.user_feedback = 'false'")
    site.settle()
    site.arrive(1, 2)
    site.complete()
    site.plane.annotate(1, "user_feedback", "false")
    site.settle()

    assert site.scored("why") == [1]
    assert site.counts("why") == {"scored": 1, "filtered": 1}


def test_what_happened_is_still_told(site: Site) -> None:
    site.arrive(1)
    site.settle()
    site.begin("few", rate=0.001)
    site.settle()
    site.arrive(2)
    site.settle()
    site.lose()
    site.settle()

    explainer = Explainer(site.settings, site.plane.index, site.plane.selection)
    told = {}
    for number in (1, 2):
        found = explainer.explain(f"tr-{number:032x}", site.plane.scoring.active())
        assert found is not None
        told[number] = found[0].text
    assert told == {
        1: "not scored: it was complete before the scorer was started",
        2: f"not selected: u={u(2):.4f} >= rate 0.001 (epoch 1)",
    }


def test_scorers_of_an_older_version_begin_after_what_is_complete(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append = commit._append

    def of_old(journal: Any, fields: Any, locations: Any) -> Any:
        old = {name: value for name, value in fields.items() if name != "arrived_until"}
        old["epochs"] = [
            {name: value for name, value in epoch.items() if name != "after_arrival"}
            for epoch in fields["epochs"]
        ]
        return append(journal, old, locations)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "_append", of_old)
        site.begin("every")
        site.settle()
        site.arrive(1)
        site.settle()
        site.arrive(2)
        site.complete()
        site.arrive(9, root=False)  # a record after which 2 is known to be quiet
        site.kill()
    site.rebuild()
    site.go_on()
    site.settle()
    site.arrive(3)
    site.settle()

    assert site.scored("every") == [1, 3]
    assert f"what was waiting for their scores gets none: {site.experiment}/every" in caplog.text

    site.lose()  # the new version has written down where it was
    site.arrive(4)
    site.settle()
    assert site.scored("every") == [1, 3, 4]
