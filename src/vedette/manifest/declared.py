"""What a manifest declares: experiments with scorers, archives and alerts; and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vedette.archive.setting import ArchiveSetting
from vedette.manifest.judges import Judge
from vedette.manifest.targets import Target


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a scorer is to be. What is None stays as it is.

    Attributes:
        judge: what it is; None: it has been registered in Python.
        sampling, filter: go together: with a rate and no filter there is none.
        strata: pairs of a filter and a rate.
        budget: ``calls_per_minute`` and ``dollars_per_day``, either None.
    """

    name: str
    line: int
    judge: Judge | None = None
    sampling: float | None = None
    filter: str | None = None
    strata: tuple[tuple[str, float], ...] | None = None
    budget: Mapping[str, float | None] | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule; ``body`` as `vedette.alerts.rules.checked_rule` takes it."""

    name: str
    line: int
    body: Mapping[str, Any]
    scorer: str | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment, by the name that the file gives it."""

    name: str
    line: int
    scorers: Mapping[str, Scorer]
    alerts: Mapping[str, Alert]
    archival: ArchiveSetting | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file that is right in itself; whether it fits a server is another question.

    Attributes:
        where: the file's name.
    """

    where: str
    experiments: tuple[Experiment, ...]
    targets: Mapping[str, Target]
