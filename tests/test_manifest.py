"""What a manifest says, and what is wrong with it, by line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedette.alerts.grammar import parse_alert_id
from vedette.manifest.declared import Experiment
from vedette.manifest.document import read_manifest
from vedette.manifest.nodes import ManifestError
from vedette.manifest.schema import schema
from vedette.manifest.targets import Target, choose

GOVERNANCE = """\
experiment: support
governance:
  scorer_suite:
    guidelines: [{name: doc_citation, text: "Cite the source title.", threshold: 0.8}]
    judge_questions: [{name: no_pii, text: "Does the response avoid PII?", threshold: 0.9}]
    production_scorers: [{name: doc_citation, sampling: 0.5, threshold: 0.8}]
  monitoring:
    required_alerts: [doc_citation_drift_neg_0_05_6h, liveness_zero_traces_15m, \
human_negative_feedback_ge_3_24h]
    rollback_trigger_example: "doc_citation < 0.80 over 24h window -> revert to previous @champion"
rollback: https://example.org/back
"""


def only(text: str, **environment: str) -> Experiment:
    (experiment,) = read_manifest(text, environment=environment).experiments
    return experiment


def told(text: str) -> list[tuple[int, str]]:
    with pytest.raises(ManifestError) as error:
        read_manifest(text, environment={})
    assert str(error.value).startswith("vedette.yaml:")
    return [(one.line, one.message) for one in error.value.problems]


def test_the_governance_block_of_agent_specs_is_read_as_it_is() -> None:
    found = only(GOVERNANCE)
    judges = {name: one.judge and one.judge.kind for name, one in found.scorers.items()}
    assert judges == {"doc_citation": "guidelines", "no_pii": "question"}
    assert found.scorers["doc_citation"].sampling == 0.5
    assert found.scorers["no_pii"].sampling is None  # not in production: registered only
    assert set(found.alerts) == {
        "doc_citation_drift_neg_0_05_6h",
        "liveness_zero_traces_15m",
        "human_negative_feedback_ge_3_24h",
        "doc_citation_below_0_80_24h",  # threshold and rollback trigger say the same
    }
    rollback = found.alerts["doc_citation_below_0_80_24h"].body
    assert (rollback["rollback"], rollback["severity"]) == ("https://example.org/back", "critical")


def test_scorers_alerts_and_archives() -> None:
    found = only(
        """
experiment: shop
judge_model: openai:/a
notify: ["https://example.org/${TOKEN}"]
scorers:
  - {name: a, guidelines: [One., Two.], sampling: 1, threshold: 0.95}
  - {name: b, question: "Is {{ outputs }} short?", model: "openai:/b"}
  - name: c
    sampling: 0.25
    filter: attributes.status = 'OK'
    strata: [{filter: "attributes.status = 'ERROR'", sampling: 1}]
    budget: {dollars_per_day: 5}
archival: {table: main.quality.traces, retention_days: 30}
alerts:
  - liveness_zero_traces_15m
  - {id: c_below_4_00_24h, name: stars, bounds: [1, 5], notify: [], renotify: 4h}
""",
        TOKEN="T0KEN",
    )
    a, b, c = found.scorers.values()
    assert a.judge is not None
    assert (a.judge.texts, a.judge.model, a.sampling) == (("One.", "Two."), "openai:/a", 1.0)
    assert b.judge is not None
    assert (b.judge.kind, b.judge.model, b.sampling) == ("question", "openai:/b", None)
    assert (c.judge, c.filter, c.strata) == (
        None,
        "attributes.status = 'OK'",
        (("attributes.status = 'ERROR'", 1.0),),
    )
    assert c.budget == {"calls_per_minute": None, "dollars_per_day": 5.0}
    assert str(found.archival and found.archival.table) == "main.quality.traces"
    assert set(found.alerts) == {"liveness_zero_traces_15m", "stars", "a_below_0_95_24h"}
    assert found.alerts["liveness_zero_traces_15m"].body["notify"] == ["https://example.org/T0KEN"]
    assert found.alerts["stars"].body["notify"] == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("experiment: a\nscorer: []", 2, "did you mean scorers?"),
        ("experiment: a\nscorers:\n  - name: b\n    samplign: 1", 4, "did you mean sampling?"),
        ("experiment: a\nscorers:\n  - {name: b, sampling: 1.5}", 3, "between 0 and 1, not 1.5"),
        ("experiment: a\nscorers:\n  - {name: b, sampling: yes}", 3, "a number, not true"),
        ("experiment: a\nscorers:\n  - {name: b, sampling: .nan}", 3, "between 0 and 1"),
        ("experiment: a\nscorers:\n  - sampling: 1", 3, "lacks name"),
        ("experiment: a\nscorers:\n  b: 1", 3, "a list, not a mapping"),
        ("experiment: a\nscorers:", 2, "not nothing: leave it out"),
        ("experiment: a\nalerts:\n  - liveness\n", 3, "'liveness' is no alert id"),
        ("experiment: a\nalerts:\n  - a_below_0_8_24h", 3, "is no alert id"),
        ("experiment: a\nalerts: [12]", 2, "text or a mapping"),
        ("experiment: a\nalerts:\n  - {id: liveness_zero_traces_5m, notify: [x]}", 3, "no channel"),
        ("experiment: a\nnotify:\n- https://a/${NONE}\nalerts: []", 3, "environment has no NONE"),
        ("experiment: a\nexperiment: b", 2, "is there twice, first in 1"),
        ("experiment: 3", 1, "must be text, not 3"),
        ("experiment: ''", 1, "must be some text"),
        ("experiment: a\nscorers: [", 2, "this is no YAML"),
        ("experiment: !!python/object:os.system a", 1, "this is no YAML"),
        ("", 1, "write experiment: NAME"),
        ("- a", 1, "must be a mapping"),
        ("experiment: a\nexperiments: [{experiment: b}]", 1, "belongs into an entry"),
        ("experiments: [{experiment: b}, {experiment: b}]", 1, "there twice"),
        ("experiment: &a\n  b: *a", 1, "nested too deep"),
        ("experiment: a\nscorers:\n- {name: b}\n- {name: b}", 4, "the scorer b is there twice"),
        (
            "experiment: a\nalerts:\n- error_rate_above_0_05_1h\n- error_rate_above_0_05_1h",
            4,
            "twice",
        ),
        ("experiment: a\nscorers: [{name: b, model: x}]", 2, "neither guidelines nor question"),
        ("experiment: a\nscorers: [{name: b, filter: x = 1}]", 2, "can't be used"),
        ("experiment: a\nscorers:\n- name: b\n  filter: tags.a = 'b'", 4, "with a sampling rate"),
        ("experiment: a\nscorers: [{name: b, guidelines: c, question: d}]", 2, "leave one out"),
        ("experiment: a\nscorers: [{name: b, question: '{{ nonsense }}'}]", 2, "can't be made"),
        ("experiment: a\nscorers: [{name: b, sampling: 1, threshold: 0.855}]", 2, "two decimals"),
        ("experiment: a\njudge_model: gpt\nscorers:\n- {name: b, question: c}", 4, "provider:/mod"),
        ("experiment: a\narchival: {table: traces}", 2, "catalog.schema.table"),
        ("experiment: a\nrollback: https://b", 2, "goes with a rollback trigger"),
        (GOVERNANCE.replace("< 0.80", "is bad"), 9, "can't be understood"),
        (GOVERNANCE.replace("0.5, threshold: 0.8", "0.5, threshold: 0.7"), 6, "in line 4"),
        ("experiment: a\nlabeling: {}", 2, "has no 'labeling'"),  # nothing would execute it
        ("experiment: a\ntargets: {b: {name_prefix: '{me}'}}", 2, "only {user}"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, message: str) -> None:
    found = told(text)
    assert any(one == line and message in words for one, words in found), found


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = told("experiment: a\nalerts: [b, c]\nscorers: [{name: d}, {name: d}]")
    assert [line for line, _ in found] == [2, 2, 3]


@settings(deadline=None)
@given(
    st.text(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["experiment", "scorers", "alerts", "name", "sampling", "governance", "id"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    ).map(json.dumps)
)
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    problems = []
    try:
        read_manifest(text, environment={})
    except ManifestError as error:
        problems = [one.line for one in error.problems]
        problems.append(str(error).count("vedette.yaml:"))
    assert all(line >= 1 for line in problems)


def test_the_schema_is_whole() -> None:
    definitions = schema()["$defs"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [one for inner in value.values() for one in references(inner)]
        return (
            [one for inner in value for one in references(inner)] if isinstance(value, list) else []
        )

    used = {one.removeprefix("#/$defs/") for one in references(schema())}
    assert used == set(definitions)
    several = schema()["properties"]["experiments"]["items"]["properties"]
    assert set(several) == set(schema()["properties"]) - {"experiments", "targets"}


def test_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann.b")
    text = "experiment: a\narchival: {table: main.quality.traces}\ntargets:\n"
    manifest = read_manifest(
        text + "  dev: {name_prefix: 'dev-{user}-', schema_prefix: '{user}_'}\n  prod: {}\n"
    )
    dev = manifest.targets["dev"]
    archival = manifest.experiments[0].archival
    assert archival is not None
    assert dev.experiment("a") == "dev-ann.b-a"
    assert str(dev.archive(archival).table) == "main.ann_b_quality.traces"
    assert choose(manifest.targets, "prod").experiment("a") == "a"
    with pytest.raises(ValueError, match="which target"):
        choose(manifest.targets, None)
    with pytest.raises(ValueError, match="there are: dev, prod"):
        choose(manifest.targets, "staging")
    assert choose({}, None) == Target("")


def test_a_threshold_is_the_alert_that_its_id_says() -> None:
    found = only("experiment: a\nscorers: [{name: s0.5, sampling: 1, threshold: 0.8}]")
    (alert,) = found.alerts
    assert alert == "s0.5_below_0_80_24h"
    assert parse_alert_id(alert).number == 0.8
    assert only("experiment: a\nscorers: [{name: b, threshold: 0.8}]").alerts
    assert not only("experiment: a\nscorers: [{name: b, threshold: 0.8, sampling: 0}]").alerts
