"""What becomes of every unit: decisions, their probabilities, and counts that add up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scoring_support import Plane, spans_record
from vedette.scoring.explain import Explainer
from vedette.scoring.sample import draw


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane(tmp_path_factory.mktemp("decisions"))
    yield plane
    plane.close()


@pytest.fixture
def experiment(plane: Plane, request: pytest.FixtureRequest) -> str:
    return plane.store.create_experiment(request.node.name)


_numbers = iter(range(1, 1_000_000_000, 1_000))


@pytest.fixture
def first() -> int:
    """The first of a thousand trace numbers that no other test uses."""
    return next(_numbers)


def u(number: int) -> float:
    return draw(f"tr-{number:032x}")


def trace_id(number: int) -> str:
    return f"tr-{number:032x}"


def test_counts_add_up_to_the_traffic(plane: Plane, experiment: str, first: int) -> None:
    plane.register(experiment, "probe", "return True")
    plane.start(experiment, "probe", rate=0.2, filter_string="trace.status = 'OK'")
    plane.settle()
    numbers = range(first, first + 400)
    plane.arrive(*(spans_record(experiment, n, failed=n % 4 == 0) for n in numbers))
    plane.settle()
    plane.scoring.flush()
    plane.settle()

    ok = [n for n in numbers if n % 4]
    chosen = [n for n in ok if u(n) < 0.2]
    assert plane.scored(experiment, "probe") == chosen
    assert plane.counts(experiment, "probe") == {
        "scored": len(chosen),
        "not_selected": len(ok) - len(chosen),
        "filtered": 100,
    }
    decisions = plane.decisions(experiment, "probe")
    assert {n: decisions[trace_id(n), 0]["draw"] for n in chosen} == {n: u(n) for n in chosen}
    assert {row["inclusion_probability"] for row in decisions.values()} == {0.2}


def test_a_change_of_rate_opens_an_epoch_and_each_decision_has_the_rate_that_held(
    plane: Plane, experiment: str, first: int
) -> None:
    plane.register(experiment, "probe", "return True")
    plane.start(experiment, "probe", rate=0.1)
    plane.settle()
    plane.arrive(*(spans_record(experiment, n) for n in range(first, first + 200)))
    plane.settle()
    plane.start(experiment, "probe", rate=0.5)
    plane.settle()
    plane.arrive(*(spans_record(experiment, n) for n in range(first + 200, first + 400)))
    plane.settle()

    assert plane.scored(experiment, "probe") == [
        n for n in range(first, first + 400) if u(n) < (0.1 if n < first + 200 else 0.5)
    ]
    for (unit, _), row in plane.decisions(experiment, "probe").items():
        early = int(unit[3:], 16) < first + 200
        assert (row["epoch"], row["inclusion_probability"]) == ((1, 0.1) if early else (2, 0.5))


def test_strata_have_rates_of_their_own(plane: Plane, experiment: str, first: int) -> None:
    plane.register(experiment, "probe", "return True")
    plane.start(experiment, "probe", rate=0.1, strata=[("attributes.status = 'ERROR'", 1.0)])
    plane.settle()
    numbers = range(first, first + 200)
    plane.arrive(*(spans_record(experiment, n, failed=n % 10 == 0) for n in numbers))
    plane.settle()

    assert plane.scored(experiment, "probe") == [n for n in numbers if n % 10 == 0 or u(n) < 0.1]
    for (unit, _), row in plane.decisions(experiment, "probe").items():
        error = int(unit[3:], 16) % 10 == 0
        assert (row["stratum"], row["inclusion_probability"]) == ((0, 1.0) if error else (-1, 0.1))


def test_strata_that_make_no_sense_are_a_state_of_the_scorer(plane: Plane, experiment: str) -> None:
    plane.register(experiment, "probe", "return True")
    plane.start(experiment, "probe", strata=[("trace.status = 'OK'", 7.0)])
    plane.settle()

    assert "outside 0..1" in plane.scoring.state()["scorers"][f"{experiment}/probe"]["problem"]


def test_feedback_that_comes_after_a_trace_selects_it(
    plane: Plane, experiment: str, first: int
) -> None:
    plane.register(experiment, "why", "return 'because'")
    plane.start(experiment, "why", filter_string="feedback.user_feedback = 'false'")
    plane.settle()
    plane.arrive(*(spans_record(experiment, n) for n in range(first, first + 10)))
    plane.settle()
    assert plane.scored(experiment, "why") == []

    plane.annotate(first + 3, "user_feedback", "false")
    plane.annotate(first + 4, "user_feedback", "true")
    plane.annotate(first + 3, "other", "false")
    plane.settle()
    plane.annotate(first + 3, "user_feedback", "false")
    plane.settle()
    plane.scoring.flush()
    plane.settle()

    assert plane.scored(experiment, "why") == [first + 3]
    assert plane.counts(experiment, "why") == {"scored": 1, "filtered": 9}


def test_a_trace_without_a_root_is_given_up_and_scored_when_the_root_comes_after_all(
    tmp_path: Path,
) -> None:
    plane = Plane(tmp_path, max_trace_age=0.2)
    experiment = plane.store.create_experiment("late")
    plane.register(experiment, "probe", "return True")
    plane.start(experiment, "probe")
    plane.settle()
    plane.arrive(*(spans_record(experiment, n, root=False) for n in (1, 2)))
    plane.settle()
    deadline = time.monotonic() + 20
    while plane.counts(experiment, "probe") != {"incomplete": 2}:
        assert time.monotonic() < deadline, plane.counts(experiment, "probe")
        time.sleep(0.05)
        plane.settle()
        plane.scoring.flush()
        plane.fold()

    plane.arrive(spans_record(experiment, 2))
    plane.settle()

    assert plane.scored(experiment, "probe") == [2]
    assert plane.counts(experiment, "probe") == {"incomplete": 1, "scored": 1}
    plane.close()


def test_every_trace_says_why_it_has_its_scores_or_has_not(
    plane: Plane, experiment: str, first: int
) -> None:
    explainer = Explainer(plane.settings, plane.index, plane.selection)

    def told(number: int) -> dict[str, str]:
        active = plane.scoring.active()
        found = explainer.explain(trace_id(number), active)
        assert found is not None
        return {one.scorer: one.text for one in found}

    plane.arrive(spans_record(experiment, first))
    plane.settle()
    for name, rate, filter_string in (
        ("all", 1.0, None),
        ("few", 0.001, None),
        ("errors", 1.0, "trace.status = 'ERROR'"),
    ):
        body = "raise ValueError('no sense')" if name == "errors" else "return True"
        plane.register(experiment, name, body)
        plane.start(experiment, name, rate=rate, filter_string=filter_string)
    plane.settle()
    plane.arrive(
        spans_record(experiment, first + 1), spans_record(experiment, first + 2, failed=True)
    )
    plane.arrive(spans_record(experiment, first + 3, root=False))
    plane.settle()
    plane.scoring.flush()
    plane.settle()

    assert set(told(first).values()) == {
        "not scored: it was complete before the scorer was started"
    }
    usual, error, rootless = told(first + 1), told(first + 2), told(first + 3)
    assert usual["all"].startswith("scored by version 1 in ")
    assert usual["few"] == f"not selected: u={u(first + 1):.4f} >= rate 0.001 (epoch 1)"
    assert usual["errors"] == "filtered out: \"trace.status = 'ERROR'\" doesn't match (epoch 1)"
    assert error["errors"].startswith("failed: SCORER_ERROR: no sense")
    assert "no root span" in rootless["all"]
    assert explainer.explain("tr-nothing", []) is None


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param("return 10**30", 10**30, id="more than 64 bits"),
        pytest.param("return 'cut \\ud83d'", "cut ?", id="half a character"),
        pytest.param("raise ValueError('cut \\ud83d')", None, id="half a character in an error"),
        pytest.param(
            "x = []\nfor _ in range(600): x = [x]\nreturn str(x)", "[" * 601 + "]" * 601, id="deep"
        ),
        pytest.param(
            "import json\nfrom mlflow.entities import Feedback\n"
            "return Feedback(value=json.loads('[' * 30 + ']' * 30))",
            json.loads("[" * 30 + "]" * 30),
            id="nested",
        ),
    ],
)
def test_a_value_that_few_can_write_is_recorded_and_stops_no_other_scorer(
    plane: Plane, experiment: str, first: int, body: str, value: object
) -> None:
    plane.register(experiment, "odd", body)
    plane.register(experiment, "sound", "return True")
    for name in ("odd", "sound"):
        plane.start(experiment, name)
    plane.settle()
    plane.arrive(spans_record(experiment, first))
    plane.settle()
    assert live(plane, experiment, "sound") == [(first, True)]
    assert live(plane, experiment, "odd") == [(first, value)]
    decision = plane.decisions(experiment, "odd")[trace_id(first), 0]
    if value is None:
        assert decision["decision"] == "failed"
        assert decision["error"].startswith("cut ?")
    else:
        assert [one["value"] for one in json.loads(decision["scores"])] == [value]


COUNT_TURNS = "return len(session)"


def live(plane: Plane, experiment: str, name: str) -> list[tuple[int, int]]:
    """Trace number and value of the valid scores."""
    rows = plane.index.connection().execute(
        "SELECT t.trace_id, a.value FROM assessments a JOIN traces t ON t.id = a.trace"
        " WHERE a.name = ? AND t.experiment_id = ? AND a.valid ORDER BY t.trace_id",
        (name, int(experiment)),
    )
    return [(int(trace[3:], 16), json.loads(value)) for trace, value in rows]


def test_a_session_is_scored_once_per_revision_on_its_first_trace(
    plane: Plane, experiment: str, first: int
) -> None:
    plane.register(experiment, "turns", COUNT_TURNS, of_sessions=True)
    plane.start(experiment, "turns")
    plane.settle()
    session = f"s-{first}"
    plane.arrive(
        spans_record(experiment, first + 1, session=session, begun=2),
        spans_record(experiment, first, session=session, begun=1),
    )
    plane.settle()
    assert live(plane, experiment, "turns") == [(first, 2)]

    plane.arrive(spans_record(experiment, first + 2, session=session, begun=3))
    plane.settle()

    assert live(plane, experiment, "turns") == [(first, 3)]
    decisions = plane.decisions(experiment, "turns")
    assert sorted(decisions) == [(session, 0), (session, 1)]
    (old,) = json.loads(decisions[session, 0]["scores"])
    (new,) = json.loads(decisions[session, 1]["scores"])
    overrides = plane.index.connection().execute(
        "SELECT overrides FROM assessments WHERE assessment_id = ?", (new["assessment_id"],)
    )
    assert overrides.fetchone() == (old["assessment_id"],)


def test_a_trace_that_cannot_be_read_gets_an_error_and_others_go_on(
    plane: Plane, experiment: str, first: int
) -> None:
    plane.register(experiment, "probe", "return inputs")
    plane.start(experiment, "probe")
    plane.settle()
    plane.arrive(*(spans_record(experiment, first + number) for number in range(3)))
    plane.annotate(first + 1, "grade", 10**400)  # no request could store this

    plane.settle()

    errors = {score.number - first: score.error for score in plane.scores(experiment, "probe")}
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1] is not None
    assert "what is stored of the trace can't be read" in errors[1]["error_message"]
