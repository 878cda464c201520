"""The governance block of agent specs, read as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from vedette.manifest.judges import Judge
from vedette.manifest.nodes import Node, Problem

_TRIGGER = re.compile(
    r"\s*(?P<scorer>\S+)\s*<\s*(?P<limit>\d{1,3}(\.\d{1,2})?)\s+over\s+(?P<window>\d+[mhd])"
    r"(\s+window)?\s*(->.*)?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the block says of a scorer.

    Attributes:
        kind, text: of the judge that it is; empty: it has been registered in Python.
    """

    name: str
    line: int
    kind: str = ""
    text: str = ""
    sampling: float | None = None
    threshold: float | None = None

    def judge(self, model: str | None) -> Judge | None:
        """What is to be registered; None: nothing."""
        return Judge(self.name, self.kind, (self.text,), model) if self.kind else None


@dataclass(slots=True)
class Suite:
    """What the block declares.

    Attributes:
        required_alerts: pairs of an id and its line.
        rollback: the id of the alert that triggers it, and the line; None: none does.
    """

    scorers: dict[str, Entry] = field(default_factory=dict)
    required_alerts: list[tuple[str, int]] = field(default_factory=list)
    rollback: tuple[str, int] | None = None


def suite_of(node: Node | None, problems: list[Problem]) -> Suite:
    """What a block declares, which is as the schema says; what is wrong is added to ``problems``.

    ``guidelines`` are Guidelines judges, ``judge_questions`` make_judge judges;
    ``production_scorers`` are sampled; ``required_alerts`` are alerts.
    """
    suite = Suite()
    if node is None:
        return suite
    if (scorers := node.get("scorer_suite")) is not None:
        for key, kind in (("guidelines", "guidelines"), ("judge_questions", "question")):
            for one in scorers.items(key):
                given = one.plain()
                entry = Entry(given["name"], one.line, kind, given["text"])
                if entry.name in suite.scorers:
                    problems.append(Problem(one.line, f"the scorer {entry.name} is there twice"))
                suite.scorers[entry.name] = replace(entry, threshold=given.get("threshold"))
        _add_production(suite, scorers, problems)
    if (monitoring := node.get("monitoring")) is not None:
        for one in monitoring.items("required_alerts"):
            suite.required_alerts.append((one.value, one.line))
        if (trigger := monitoring.get("rollback_trigger_example")) is not None:
            suite.rollback = _rollback(trigger, problems)
    return suite


def _add_production(suite: Suite, scorers: Node, problems: list[Problem]) -> None:
    seen = set()
    for one in scorers.items("production_scorers"):
        given = one.plain()
        name, threshold = given["name"], given.get("threshold")
        if name in seen:
            problems.append(Problem(one.line, f"the production scorer {name} is there twice"))
        seen.add(name)
        known = suite.scorers.get(name, Entry(name, one.line))
        if threshold is not None and known.threshold not in (None, threshold):
            told = f"{name} has the threshold {known.threshold:g} in line {known.line}, here"
            problems.append(Problem(one.line, f"{told} {threshold:g}"))
        suite.scorers[name] = replace(
            known,
            sampling=float(given["sampling"]),
            threshold=known.threshold if threshold is None else threshold,
        )


def _rollback(node: Node, problems: list[Problem]) -> tuple[str, int] | None:
    found = _TRIGGER.fullmatch(node.value)
    if found is None:
        told = f"the rollback trigger {node.value!r:.200} can't be understood; write it like"
        problems.append(Problem(node.line, f'{told} "doc_citation < 0.80 over 24h window -> ..."'))
        return None
    limit = f"{float(found['limit']):.2f}".replace(".", "_")
    return f"{found['scorer']}_below_{limit}_{found['window']}", node.line
