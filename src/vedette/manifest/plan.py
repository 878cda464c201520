"""From what is declared and what there is to what is to be done, step by step."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from vedette.alerts.grammar import AlertIdError, parse_alert_id, require_scorer
from vedette.archive.setting import ArchiveSetting
from vedette.manifest.declared import Alert, Experiment, Manifest, Scorer
from vedette.manifest.nodes import ManifestError, Problem
from vedette.manifest.server import Found, Registered, Server
from vedette.manifest.targets import Target

Action = Literal["add", "change", "remove"]
_SIGNS: dict[Action, str] = {"add": "+", "change": "~", "remove": "-"}
_EMPTY = Found({}, {}, None)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. Doing it again does no harm.

    Attributes:
        what: the kind of thing and its name.
        details: what changes.
        run: does it.
    """

    action: Action
    experiment: str
    what: str
    details: str
    run: Callable[[], None]

    def __str__(self) -> str:
        details = f": {self.details}" if self.details else ""
        return f"{_SIGNS[self.action]} {self.experiment}: {self.what}{details}"


def plan(manifest: Manifest, target: Target, server: Server, *, prune: bool) -> list[Step]:
    """What is to be done, in this order; nothing if all is as declared.

    Args:
        prune: also remove what the manifest's experiments have and it doesn't declare.

    Raises:
        ManifestError: the manifest doesn't fit what there is: it says in which lines.
        MlflowException: the server refuses to be asked, or can't be.
    """
    steps: list[Step] = []
    problems: list[Problem] = []
    for experiment in manifest.experiments:
        name = target.experiment(experiment.name)
        found = server.found(name)
        one = _Plan(experiment, name, target, server, found or _EMPTY, prune, problems)
        if found is None:
            steps.append(Step("add", name, "the experiment", "", partial(server.create, name)))
        steps += one.steps(is_new=found is None)
    if problems:
        raise ManifestError(manifest.where, problems)
    return steps


class _Plan:
    def __init__(
        self,
        wanted: Experiment,
        name: str,
        target: Target,
        server: Server,
        found: Found,
        prune: bool,
        problems: list[Problem],
    ) -> None:
        self._wanted = wanted
        self._name = name
        self._target = target
        self._server = server
        self._found = found
        self._prune = prune
        self._problems = problems

    def steps(self, *, is_new: bool) -> list[Step]:
        """Removals come first: they make room for what is started. A budget comes before the rate
        that spends it, and an alert after the scorer that it watches."""
        scorers = list(self._wanted.scorers.values())
        self._check()
        return [
            *(self._removals() if self._prune else ()),
            *(step for one in scorers for step in self._registration(one)),
            *(step for one in scorers for step in self._limits(one)),
            # Those that sample less first: an experiment may have so many scorers started
            *sorted(
                (step for one in scorers for step in self._sampling(one)),
                key=lambda step: step.action == "add",
            ),
            *self._archival(),
            *(step for one in self._wanted.alerts.values() for step in self._alert(one, is_new)),
        ]

    def _check(self) -> None:
        declared = self._wanted.scorers
        for scorer in declared.values():
            if scorer.judge is None and scorer.name not in self._found.scorers:
                near = difflib.get_close_matches(scorer.name, self._found.scorers, n=1)
                hint = f"did you mean {near[0]}?" if near else "register it in Python first"
                message = f"no scorer {scorer.name} is registered in {self._name}; {hint}"
                self._wrong(scorer.line, message)
            elif scorer.budget and not self._is_judge(scorer):
                message = f"{scorer.name} asks no model, so that a budget could limit nothing"
                self._wrong(scorer.line, message)
        known = set(declared) if self._prune else {*declared, *self._found.scorers}
        for alert in self._wanted.alerts.values():
            try:
                require_scorer(parse_alert_id(alert.body["condition"]), known)
            except AlertIdError as error:
                self._wrong(alert.line, str(error))
        rates = {n: one.sampling for n, one in self._found.scorers.items() if n in known}
        rates |= {n: one.sampling for n, one in declared.items() if one.sampling is not None}
        active = sum(rate > 0 for rate in rates.values())
        if active > (most := self._server.most_active()):
            message = f"{self._name} would have {active} started scorers; {most} are the most"
            self._wrong(self._wanted.line, f"{message} (setting max_active_scorers)")
        setting = self._archive()
        before = self._found.archival
        if setting is not None and before is not None and before.table != setting.table:
            message = f"{self._name} is archived in {before.table}: disable that first"
            self._wrong(self._wanted.line, message)

    def _removals(self) -> Iterator[Step]:
        found, wanted = self._found, self._wanted
        for name in found.alerts:
            if name not in wanted.alerts:
                yield self._step("remove", f"alert {name}", "", self._server.delete_alert, name)
        for name, scorer in found.scorers.items():
            declared = wanted.scorers.get(name)
            if declared is None:
                yield self._step("remove", f"scorer {name}", "", self._server.delete_scorer, name)
                continue
            if scorer.strata and declared.strata is None:
                yield self._scoring("remove", name, "strata", {"strata": []}, "")
            if scorer.budget and declared.budget is None:
                yield self._scoring("remove", name, "budget", {}, "")
        if found.archival is not None and wanted.archival is None:
            told = f"the table {found.archival.table} stays"
            yield self._step("remove", "archival", told, self._server.archive, None)

    def _registration(self, scorer: Scorer) -> Iterator[Step]:
        judge, found = scorer.judge, self._found.scorers.get(scorer.name)
        if judge is None or (found is not None and judge.is_in(found.stored)):
            return

        def register() -> None:
            self._server.register(self._name, judge.scorer())

        kind = "Guidelines judge" if judge.kind == "guidelines" else "judge"
        what = f"scorer {scorer.name}"
        if found is None:
            yield Step("add", self._name, what, kind, register)
        else:
            yield Step("change", self._name, what, f"a new version, {kind}", register)

    def _limits(self, scorer: Scorer) -> Iterator[Step]:
        found = self._found.scorers.get(scorer.name)
        strata, budget = scorer.strata, scorer.budget
        if strata is not None and strata != (() if found is None else found.strata):
            body = {"strata": [list(one) for one in strata]}
            told = ", ".join(f"{rate:g} of {text}" for text, rate in strata) or "none"
            yield self._scoring(self._verb(found, "strata"), scorer.name, "strata", body, told)
        given = {key: value for key, value in (budget or {}).items() if value is not None}
        if budget is not None and given != ({} if found is None else found.budget):
            told = ", ".join(f"{key} {value:g}" for key, value in given.items()) or "none"
            yield self._scoring(
                self._verb(found, "budget"), scorer.name, "budget", dict(budget), told
            )

    def _sampling(self, scorer: Scorer) -> Iterator[Step]:
        rate, found = scorer.sampling, self._found.scorers.get(scorer.name)
        before = (0.0, None) if found is None else (found.sampling, found.filter)
        if rate is None or before == (rate, scorer.filter) or (rate == before[0] == 0):
            return
        told = f"{before[0]:g} -> {rate:g}"
        if before[1] != scorer.filter:
            told += f", filter {before[1] or 'none'} -> {scorer.filter or 'none'}"
        action: Action = "add" if before[0] == 0 else "change"
        run = partial(self._server.sample, self._name, scorer.name, rate, scorer.filter)
        yield Step(action, self._name, f"sampling of {scorer.name}", told, run)

    def _archival(self) -> Iterator[Step]:
        setting, before = self._archive(), self._found.archival
        if setting is None or setting == before:
            return
        told = f"in {setting.table}"
        if setting.retention_days is not None:
            told += f", for {setting.retention_days:g} days"
        action: Action = "add" if before is None else "change"
        yield self._step(action, "archival", told, self._server.archive, setting)

    def _alert(self, alert: Alert, is_new: bool) -> Iterator[Step]:
        changes = ["alert"]
        if not is_new and alert.name in self._found.alerts:
            changes = self._server.changes_of_alert(self._name, alert.name, alert.body)
        if not changes:
            return
        added = changes == ["alert"]
        run = partial(self._server.put_alert, self._name, alert.name, alert.body)
        told = "" if added else ", ".join(changes)
        yield Step("add" if added else "change", self._name, f"alert {alert.name}", told, run)

    def _archive(self) -> ArchiveSetting | None:
        wanted = self._wanted.archival
        if wanted is None:
            return None
        try:
            return self._target.archive(wanted)
        except ValueError as error:
            self._wrong(self._wanted.line, str(error))
            return None

    def _is_judge(self, scorer: Scorer) -> bool:
        found = self._found.scorers.get(scorer.name)
        return scorer.judge is not None or (found is not None and found.is_judge)

    def _verb(self, found: Registered | None, what: str) -> Action:
        return "change" if found is not None and getattr(found, what) else "add"

    def _scoring(self, action: Action, name: str, what: str, body: Any, told: str) -> Step:
        run = partial(self._server.set_scoring, self._name, name, what, body)
        return Step(action, self._name, f"{what} of {name}", told, run)

    def _step(
        self, action: Action, what: str, told: str, run: Callable[..., None], *arguments: Any
    ) -> Step:
        return Step(action, self._name, what, told, partial(run, self._name, *arguments))

    def _wrong(self, line: int, message: str) -> None:
        self._problems.append(Problem(line, message))
