"""What is chosen stays chosen: samples, score ids, the active scorers, when a trace is complete."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.gateway_endpoint import GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.genai.judges import make_judge
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from scoring_support import make_control_database, spans_record
from vedette.intake.journal import JournalReader, JournalWriter
from vedette.scoring.active import (
    ActiveScorer,
    ActiveScorers,
    ControlMissing,
    ControlUnavailable,
    control_engine,
)
from vedette.scoring.completion import Completion, FoldedUntil, completed_after
from vedette.scoring.ids import assessment_id
from vedette.scoring.sample import draw
from vedette.traces.index import TraceIndex

# Samples and scores of scorers that have run for months depend on these: do not adapt them
DRAWN = {
    "tr-00000000000000000000000000000000": 0.9436551349579069,
    "tr-00000000000000000000000000000001": 0.72186290969133,
    "tr-00000000000000000000000000000002": 0.8011074228900819,
}
SCORE_ID = "a-ef453a74b935144163718e21f85767b3"


def test_the_draw_of_a_trace_never_changes() -> None:
    assert {unit: draw(unit) for unit in DRAWN} == DRAWN


def test_a_sample_has_the_size_of_its_rate() -> None:
    drawn = [draw(f"tr-{n:032x}") for n in range(20_000)]

    for rate in (0.002, 0.05, 0.5):
        assert sum(u < rate for u in drawn) == pytest.approx(20_000 * rate, rel=0.3)


@given(st.text())
def test_a_rate_of_1_holds_every_unit_and_a_rate_of_0_none(unit: str) -> None:
    assert 0 <= draw(unit) < 1
    assert draw(unit) == draw(unit)


def test_score_ids_tell_apart_what_is_different_and_nothing_else() -> None:
    base = {
        "experiment_id": "1",
        "scorer": "a",
        "version": 1,
        "unit": "tr-1",
        "revision": 0,
        "index": 0,
    }
    changes = [{}, {"experiment_id": "2"}, {"scorer": "b"}, {"version": 2}, {"unit": "tr-2"}]
    changes += [{"revision": 1}, {"index": 1}, {"scorer": "a1", "version": 1}]

    ids = [assessment_id(**{**base, **change}) for change in changes]

    assert len(set(ids)) == len(ids)
    assert ids[0] == assessment_id(**base) == SCORE_ID


def test_without_a_control_database_nothing_is_known_and_none_is_made(tmp_path: Path) -> None:
    path = tmp_path / "with space?" / "control.db"
    scorers = ActiveScorers(control_engine(f"sqlite:///{path}"))

    with pytest.raises(ControlMissing):
        scorers.read()

    assert not path.exists()


def test_a_control_database_that_is_gone_is_not_one_without_scorers(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    make_control_database(path)
    scorers = ActiveScorers(control_engine(f"sqlite:///{path}"), max_age=0)
    assert scorers.read() == []
    path.rename(tmp_path / "elsewhere.db")

    with pytest.raises(ControlUnavailable, match="unable to open") as caught:
        scorers.read()
    assert not isinstance(caught.value, ControlMissing)


def test_a_judge_of_the_gateway_asks_its_endpoint_by_name(tmp_path: Path) -> None:
    """MLflow keeps the endpoint's id; the gateway knows names only."""
    uri = f"sqlite:///{tmp_path / 'control.db'}"
    make_control_database(tmp_path / "control.db")
    store = SqlAlchemyStore(uri, str(tmp_path / "artifacts"))
    secret = store.create_gateway_secret("key", {"api_key": "sk"}, provider="openai")
    model = store.create_gateway_model_definition("small", secret.secret_id, "openai", "gpt")
    config = GatewayEndpointModelConfig(
        model.model_definition_id, GatewayModelLinkageType.PRIMARY, weight=1.0
    )
    store.create_gateway_endpoint('my "own"', [config])
    judge = make_judge(name="nice", instructions="{{ outputs }}?", model='gateway:/my "own"')
    experiment = store.create_experiment("judged")
    store.register_scorer(experiment, "nice", json.dumps(judge.model_dump()))
    store.upsert_online_scoring_config(experiment, "nice", 0.5)

    (scorer,) = ActiveScorers(control_engine(uri)).read()
    definition = scorer.definition["instructions_judge_pydantic_data"]
    assert definition["model"] == 'gateway:/my "own"'


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(None, None), (0, None), (2.5, 2.5), ("soon", None)]
)
def test_a_scorers_own_time_limit(timeout: object, seconds: float | None) -> None:
    text = f'{{"timeout": {timeout!r}}}'.replace("None", "null").replace("'", '"')

    assert ActiveScorer("1", "a", 1, text, 1.0).timeout_seconds == seconds


class Arrivals:
    """A journal and what has been folded of it."""

    def __init__(self, directory: Path) -> None:
        self.index = TraceIndex(directory / "index.db")
        self.journal = JournalWriter(directory / "journal")
        self.reader = JournalReader(directory / "journal")

    def append(self, number: int, *, at: int, root: bool = True) -> None:
        self.journal.append(spans_record("1", number, root=root, at=at)).result(10)

    def fold(self) -> None:
        self.index.catch_up([self.reader])

    def complete(self, quiet_since: int) -> list[int]:
        completion = Completion(
            self.index, trace_buffer=0.0, session_buffer=1_000.0, max_trace_age=1_000.0
        )
        completion.advance(folded_until_ms=quiet_since, annotations=False)
        return [int(one.trace_id[3:], 16) for one in completed_after(self.index, 0, 100)]


def test_a_trace_is_complete_when_its_root_has_ended_and_nothing_came_for_a_while(
    tmp_path: Path,
) -> None:
    arrivals = Arrivals(tmp_path)
    arrivals.append(1, at=1_000)
    arrivals.append(2, at=2_000, root=False)
    arrivals.append(3, at=3_000)
    arrivals.fold()

    assert arrivals.complete(500) == []
    assert arrivals.complete(2_500) == [1]
    arrivals.append(3, at=4_000, root=False)
    arrivals.append(1, at=4_500, root=False)
    arrivals.fold()
    assert arrivals.complete(3_500) == [1]
    assert arrivals.complete(9_000) == [1, 3]
    arrivals.append(2, at=20_000)
    arrivals.fold()
    assert arrivals.complete(19_000) == [1, 3]
    assert arrivals.complete(20_000) == [1, 3, 2]
    arrivals.journal.close()


def test_nothing_is_quiet_while_the_journal_is_not_folded(tmp_path: Path) -> None:
    arrivals = Arrivals(tmp_path)
    arrivals.append(1, at=1_000)
    folded = FoldedUntil(arrivals.index, [arrivals.reader])
    assert folded.milliseconds() is None

    arrivals.fold()
    known = folded.milliseconds()
    assert known is not None
    assert abs(known - time.time() * 1000) < 10_000
    time.sleep(0.02)
    folded.milliseconds()
    arrivals.append(2, at=2_000)
    time.sleep(0.02)
    before = folded.milliseconds()  # the sample was taken before that arrival
    assert before is not None
    assert folded.milliseconds() == before
    arrivals.fold()
    after = folded.milliseconds()
    assert after is not None
    assert after >= before
    arrivals.journal.close()
