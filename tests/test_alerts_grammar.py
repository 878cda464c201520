"""Alert ids: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.alerts.grammar import (
    FORMS,
    AlertIdError,
    Condition,
    format_window,
    parse_alert_id,
    parse_window,
    require_scorer,
)

WINDOWS = st.one_of(
    st.integers(1, 60 * 24 * 31).map(lambda minutes: minutes * 60),
    st.integers(1, 31).map(lambda days: days * 86_400),
)
HUNDREDTHS = st.integers(1, 99).map(lambda number: number / 100)
COUNTS = st.integers(1, 10**9 - 1).map(float)
NAMES = st.text(st.sampled_from("abz_09 éß-."), min_size=1, max_size=30)
CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from(["drift", "below"]), WINDOWS, HUNDREDTHS, NAMES),
    st.builds(Condition, st.sampled_from(["liveness", "volume"]), WINDOWS),
    st.builds(Condition, st.sampled_from(["error_rate", "divergence"]), WINDOWS, HUNDREDTHS),
    st.builds(
        Condition,
        st.sampled_from(["latency_p95", "negative_feedback", "judge_cost"]),
        WINDOWS,
        COUNTS,
    ),
)


@settings(deadline=None)
@given(CONDITIONS)
def test_an_id_means_the_condition_that_wrote_it(condition: Condition) -> None:
    assert parse_alert_id(condition.id) == condition


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), CONDITIONS.map(lambda one: one.id[:-1] + "w")))
def test_any_other_text_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(AlertIdError) as refused:
        parse_alert_id(text)
    told = str(refused.value)
    assert any(form in told for form in FORMS) or "window" in told


@settings(deadline=None)
@given(WINDOWS)
def test_windows_are_written_as_they_are_read(seconds: int) -> None:
    assert parse_window(format_window(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("doc_citation_drift_neg_0_05_6h", Condition("drift", 21_600, 0.05, "doc_citation")),
        ("liveness_zero_traces_15m", Condition("liveness", 900)),
        ("human_negative_feedback_ge_3_24h", Condition("negative_feedback", 86_400, 3.0)),
        ("doc_citation_below_0_80_24h", Condition("below", 86_400, 0.8, "doc_citation")),
        ("latency_p95_above_8s_1h", Condition("latency_p95", 3600, 8.0)),
        ("below_below_4_00_90m", Condition("below", 5400, 4.0, "below")),
    ],
)
def test_ids_of_agent_specs(text: str, condition: Condition) -> None:
    assert parse_alert_id(text) == condition
    assert condition.id == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("doc_citation_below_0.80_24h", "SCORER_below_0_80_24h"),
        ("doc_citation_drift_0_05_6h", "SCORER_drift_neg_0_05_6h"),
        ("liveness_zero_trace_15m", "liveness_zero_traces_15m"),
        ("error_rate_above_1_50_1h", "not between 0 and 1"),
        ("liveness_zero_traces_90d", "1m to 31d"),
        ("doc_drift_neg_0_00_6h", "above 0"),
        ("", "missing"),
    ],
)
def test_a_near_miss_is_told_how_to_write_it(text: str, told: str) -> None:
    with pytest.raises(AlertIdError, match=told.replace(".", r"\.")):
        parse_alert_id(text)


def test_a_scorer_that_is_not_registered_is_refused_with_those_like_it() -> None:
    condition = parse_alert_id("doc_citaton_below_0_80_24h")
    with pytest.raises(AlertIdError, match="did you mean doc_citation"):
        require_scorer(condition, {"doc_citation", "safety"})
    with pytest.raises(AlertIdError, match="none yet"):
        require_scorer(condition, ())
    require_scorer(condition, {"doc_citaton"})
    require_scorer(parse_alert_id("liveness_zero_traces_15m"), ())
