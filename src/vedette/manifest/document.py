"""Reads a manifest: what it declares, or all that is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mlflow.exceptions import MlflowException

from vedette.alerts.rules import RuleError, checked_rule
from vedette.archive.setting import ArchiveSetting
from vedette.manifest.declared import Alert, Experiment, Manifest, Scorer
from vedette.manifest.governance import Suite, suite_of
from vedette.manifest.judges import Judge, JudgeError, require_judge
from vedette.manifest.nodes import ManifestError, Node, Problem, read_yaml
from vedette.manifest.schema import problems_of
from vedette.manifest.targets import Target
from vedette.traces.filters import compile_filter

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
THRESHOLD_WINDOW = "24h"
BUDGET = ("calls_per_minute", "dollars_per_day")


def read_manifest(
    text: str, where: str = "vedette.yaml", environment: Mapping[str, str] = os.environ
) -> Manifest:
    """What a file declares.

    Args:
        environment: gives the ``${NAME}`` of channels and URLs.

    Raises:
        ManifestError: all that is wrong with it, by line.
    """
    root = read_yaml(text, where)
    problems = problems_of(root)
    if problems:
        raise ManifestError(where, problems)
    reader = _Reader(environment, problems)
    manifest = Manifest(where, reader.experiments(root), reader.targets(root))
    if problems:
        raise ManifestError(where, problems)
    return manifest


class _Reader:
    """Reads nodes that are as the schema says, and notes what is wrong with them."""

    def __init__(self, environment: Mapping[str, str], problems: list[Problem]) -> None:
        self._environment = environment
        self._problems = problems

    def experiments(self, root: Node) -> tuple[Experiment, ...]:
        several = root.get("experiments")
        if several is None:
            if root.get("experiment") is None:
                self._wrong(root.line, "there is no experiment: write experiment: NAME")
                return ()
            return (self._experiment(root),)
        alone = [key for key in root.value if key not in ("experiments", "targets")]
        for key in alone:
            self._wrong(root.lines[key], f"{key} belongs into an entry of experiments")
        found: dict[str, Experiment] = {}
        for node in several.value:
            one = self._experiment(node)
            if one.name in found:
                self._wrong(one.line, f"the experiment {one.name} is there twice")
            found[one.name] = one
        return tuple(found.values())

    def targets(self, root: Node) -> dict[str, Target]:
        node = root.get("targets")
        found: dict[str, Target] = {}
        for name, one in () if node is None else node.value.items():
            given = one.plain()
            if "url" in given:
                given["url"] = self._filled(one.get("url"))
            try:
                found[name] = Target(name, **given)
            except ValueError as error:
                self._wrong(one.line, str(error))
        if sum(one.default for one in found.values()) > 1 and node is not None:
            self._wrong(node.line, "one target at most can be the default")
        return found

    def _experiment(self, node: Node) -> Experiment:
        name = node.get("experiment")
        assert name is not None
        suite = suite_of(node.get("governance"), self._problems)
        scorers = self._scorers(node, suite)
        return Experiment(
            name=name.value,
            line=name.line,
            scorers=scorers,
            alerts=self._alerts(node, suite, scorers),
            archival=self._archival(node.get("archival")),
        )

    def _scorers(self, node: Node, suite: Suite) -> dict[str, Scorer]:
        model = node.get("judge_model")
        default = None if model is None else str(model.value)
        found: dict[str, Scorer] = {}
        for one in node.items("scorers"):
            scorer = self._scorer(one, default)
            if scorer.name in found:
                self._wrong(scorer.line, f"the scorer {scorer.name} is there twice")
            found[scorer.name] = scorer
        for name, entry in suite.scorers.items():
            if name in found:
                self._wrong(entry.line, f"the scorer {name} is there twice, also under scorers")
            judge = entry.judge(default)
            found[name] = Scorer(name, entry.line, self._judge(judge, entry.line), entry.sampling)
        return found

    def _scorer(self, node: Node, default_model: str | None) -> Scorer:
        given = node.plain()
        name, line = given["name"], node.line
        judge = None
        kinds = [kind for kind in ("guidelines", "question") if kind in given]
        if len(kinds) > 1:
            self._wrong(line, f"the scorer {name} has guidelines and a question: leave one out")
        elif kinds:
            text = given[kinds[0]]
            texts = tuple(text) if isinstance(text, list) else (text,)
            model = given.get("model", default_model)
            judge = self._judge(Judge(name, kinds[0], texts, model), line)
        elif "model" in given:
            self._wrong(line, f"the scorer {name} has a model, and neither guidelines nor question")
        if "filter" in given:
            self._require_filter(given["filter"], node.lines["filter"])
            if "sampling" not in given:
                self._wrong(node.lines["filter"], f"the filter of {name} goes with a sampling rate")
        for stratum in node.items("strata"):
            self._require_filter(stratum.plain()["filter"], stratum.line)
        strata, budget = given.get("strata"), given.get("budget")
        if strata is not None:
            strata = tuple((one["filter"], float(one["sampling"])) for one in strata)
        if budget is not None:
            budget = {key: _number(budget.get(key)) for key in BUDGET}
        sampling = _number(given.get("sampling"))
        return Scorer(name, line, judge, sampling, given.get("filter"), strata, budget)

    def _judge(self, judge: Judge | None, line: int) -> Judge | None:
        try:
            if judge is not None:
                require_judge(judge)
        except JudgeError as error:
            self._wrong(line, str(error))
        return judge

    def _alerts(self, node: Node, suite: Suite, scorers: Mapping[str, Scorer]) -> dict[str, Alert]:
        defaults: dict[str, Any] = {}
        if (channels := node.get("notify")) is not None:
            defaults["notify"] = [self._filled(one) for one in channels.value]
        found: dict[str, Alert] = {}
        for one in node.items("alerts"):
            given = one.plain()
            given = {"id": given} if isinstance(given, str) else given
            if "notify" in given:
                given["notify"] = [self._filled(channel) for channel in one.items("notify")]
            if "rollback" in given:
                given["rollback"] = self._filled(one.get("rollback"))
            body = {**defaults, **given, "condition": given["id"]}
            name = body.pop("name", body.pop("id"))
            self._add(found, name, one.line, body)
        for alert_id, line in suite.required_alerts:
            if alert_id not in found:
                self._add(found, alert_id, line, {**defaults, "condition": alert_id})
        if suite.rollback is not None:
            alert_id, line = suite.rollback
            body = {**defaults, "condition": alert_id, "severity": "critical"}
            if (webhook := node.get("rollback")) is not None:
                body["rollback"] = self._filled(webhook)
            if alert_id in found:
                body = {**body, **found.pop(alert_id).body}
            self._add(found, alert_id, line, body)
        elif node.get("rollback") is not None:
            line = node.lines["rollback"]
            self._wrong(line, "rollback goes with a rollback trigger, or into an alert of its own")
        self._add_thresholds(found, node, suite, scorers, defaults)
        return found

    def _add_thresholds(
        self,
        found: dict[str, Alert],
        node: Node,
        suite: Suite,
        scorers: Mapping[str, Scorer],
        defaults: Mapping[str, Any],
    ) -> None:
        """A threshold is an alert, but of scorers that aren't sampled: those are for evaluation."""
        thresholds = {
            name: (one.threshold, one.line)
            for name, one in suite.scorers.items()
            if one.threshold is not None
        }
        for one in node.items("scorers"):
            threshold = one.get("threshold")
            if threshold is not None:
                thresholds[one.value["name"].value] = (float(threshold.value), threshold.line)
        for name, (limit, line) in thresholds.items():
            is_sampled = scorers[name].sampling
            if name not in suite.scorers and is_sampled is None:
                is_sampled = 1.0  # that it is may be said elsewhere
            if round(limit, 2) != limit or not 0 < limit < 1:
                told = "must be above 0, below 1, and have two decimals at most"
                self._wrong(line, f"the threshold of {name} {told}, not {limit:g}")
                continue
            share = f"{limit:.2f}".replace(".", "_")
            alert_id = f"{name}_below_{share}_{THRESHOLD_WINDOW}"
            if is_sampled and alert_id not in found:
                self._add(found, alert_id, line, {**defaults, "condition": alert_id})

    def _add(self, found: dict[str, Alert], name: str, line: int, body: Mapping[str, Any]) -> None:
        if name in found:
            self._wrong(line, f"the alert {name} is there twice; give one of them a name")
        try:
            rule = checked_rule("0", name, body, None)
        except RuleError as error:
            self._wrong(line, str(error))
        else:
            found[name] = Alert(name, line, body, rule.condition.scorer)

    def _archival(self, node: Node | None) -> ArchiveSetting | None:
        if node is None:
            return None
        given = node.plain()
        body = {**given, "delta_table_fullname": given["table"]}
        del body["table"]
        try:
            return ArchiveSetting.of(body)
        except ValueError as error:
            self._wrong(node.line, str(error))
            return None

    def _require_filter(self, text: str, line: int) -> None:
        try:
            compile_filter(text, None)
        except MlflowException as error:
            self._wrong(line, f"the filter {text!r:.200} can't be used: {error.message}")

    def _filled(self, node: Node | None) -> str:
        """A text with its ``${NAME}`` from the environment."""
        assert node is not None

        def value_of(found: re.Match[str]) -> str:
            if found[1] not in self._environment:
                self._wrong(node.line, f"the environment has no {found[1]}")
            return self._environment.get(found[1], "")

        return _VARIABLE.sub(value_of, node.value)

    def _wrong(self, line: int, message: str) -> None:
        self._problems.append(Problem(line, message))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
