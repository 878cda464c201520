"""How well each version of a judge agrees with people."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vedette.quality.accuracy import Accuracy, accuracy
from vedette.quality.estimate import Estimate
from vedette.quality.gwet import ac1
from vedette.quality.kappa import kappa
from vedette.quality.krippendorff import nominal_alpha
from vedette.quality.sample import categories, require_same_length


class JudgeQuality(NamedTuple):
    """One version's agreement with human labels.

    Attributes:
        labels: number of units with both.
        kappa: `vedette.quality.kappa`.
        ac1: `vedette.quality.gwet`.
        alpha: `vedette.quality.krippendorff.nominal_alpha` of the two.
        accuracy: sensitivity and specificity in finding ``positive``.
    """

    labels: int
    kappa: Estimate
    ac1: Estimate
    alpha: Estimate
    accuracy: Accuracy


def judge_quality(
    versions: ArrayLike,
    judge: ArrayLike,
    human: ArrayLike,
    positive: object,
    weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> dict[object, JudgeQuality]:
    """The agreement of each version by itself: a new prompt or model is a new instrument.

    Sources: see the modules named in `JudgeQuality`.

    Args:
        versions: (n,) the judge's version that scored the unit, anything that sorts.
        judge: (n,) categories: text, booleans or integers.
        human: (n,) likewise.
        positive: the category to be found, mostly the failing one.
        weights: (n,) 1 / probability that the unit was scored and labelled; None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of each interval, two-sided.

    Returns:
        Version -> agreement, in order of version.

    Raises:
        ValueError: lengths differ, a category is missing, or a weight can't be one.
    """
    names = categories("versions", versions)
    every_judge, every_human = categories("judge", judge), categories("human", human)
    require_same_length("judge", every_judge, names)
    require_same_length("human", every_human, names)
    found: dict[object, JudgeQuality] = {}
    for version in np.unique(names):
        of = names == version
        ours, theirs = every_judge[of], every_human[of]
        weight = None if weights is None else np.asarray(weights)[of]
        session = None if sessions is None else np.asarray(sessions)[of]
        both = np.stack([ours, theirs], axis=1)
        found[version.item()] = JudgeQuality(
            labels=int(of.sum()),
            kappa=kappa(ours, theirs, weight, session, level),
            ac1=ac1(ours, theirs, weight, session, level),
            alpha=nominal_alpha(both, weight, session, level),
            accuracy=accuracy(ours == positive, theirs == positive, weight, session, level),
        )
    return found
