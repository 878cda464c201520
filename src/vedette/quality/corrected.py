"""A judge's mean, corrected with human labels: prediction-powered inference (PPI++)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vedette.quality.estimate import Estimate, FloatArray, student_quantile
from vedette.quality.mean import mean
from vedette.quality.moments import Moments, moments
from vedette.quality.proportion import proportion
from vedette.quality.sample import Sample, require_same_length, sample, session_sums

FEWEST_LABELS = 100  # below it the labels speak for themselves


class Corrected(NamedTuple):
    """What the humans would have said of all traffic.

    Attributes:
        estimate: that mean.
        labels: how many labels it is made of.
        reliance: lambda of PPI++, 0 to 1: how much the judge adds to the labels. 0 if there are
            fewer labels than it takes (`FEWEST_LABELS`; of unequal weight it takes more).
    """

    estimate: Estimate
    labels: int
    reliance: float


def corrected_rate(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None = None,
    label_weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
) -> Corrected:
    """The share of traffic that humans would pass.

    See `corrected_mean`. Below 100 labels it is `vedette.quality.proportion` of the labels, Wilson
    interval and all. From 100 on, the variance is as if one more label contradicted the judge, so
    that a judge who was never contradicted isn't taken for faultless (after the made-up outcomes of
    A. Agresti & B. Caffo, The American Statistician 54 (2000) 280-288,
    doi:10.1080/00031305.2000.10474560; how many is ours, see bench/RESULTS.md).

    Args:
        judge: (n,) booleans or 0 and 1, of every unit the judge scored.
        human: (n,) likewise; nan for units without a label.
        weights: (n,) 1 / probability that the judge scored the unit; None if all are equal.
        label_weights: (n,) 1 / probability that it was scored and labelled; what it is for units
            without a label doesn't matter. None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.

    Returns:
        Within 0..1.

    Raises:
        ValueError: lengths differ, or a score, label or weight can't be one.
    """
    scored, labelled, is_labelled = _samples(judge, human, weights, label_weights, sessions)
    for one in (scored, labelled):
        if not np.isin(one.values, (0.0, 1.0)).all():
            raise ValueError("a rate needs booleans: take corrected_mean for numbers")
    labels = moments(labelled.values, labelled.weights, labelled.sessions)
    count = labelled.values.size
    if _effective(labels) < FEWEST_LABELS:
        return Corrected(proportion(labels, level), count, 0.0)
    contradiction = float(labels.unit_share) ** 2
    return _combined(scored, labelled, is_labelled, labels, contradiction, level, (0.0, 1.0))


def corrected_mean(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None = None,
    label_weights: ArrayLike | None = None,
    sessions: ArrayLike | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Corrected:
    """The mean that humans would give the traffic.

    mean of the labels + lambda (mean of the judge's scores - mean of its scores where there are
    labels): A. N. Angelopoulos, J. C. Duchi & T. Zrnic, "PPI++: Efficient Prediction-Powered
    Inference" (2023), arXiv:2311.01453, with the lambda that minimises the variance ("power
    tuning"), within 0..1. It is unbiased however bad the judge is, and better than the
    labels alone as far as the judge agrees with them.

    The three means are Hajek means, as labels are a probability sample, too. Labelled units are
    among the judged here, and units share sessions, so the variance and lambda are those of the
    linearised totals of sessions (as in `vedette.quality.mean`), which holds all covariances;
    with independent units and separate samples it is that of the paper. t quantiles with the
    labels' degrees of freedom.

    The variance is that of two more labels that have nothing to do with the judge's score, so that
    a judge who was never contradicted isn't taken for faultless (see `corrected_rate`).

    Below 100 labels, where estimating lambda may cost more than the judge brings (P. Mani, P. Xu,
    Z. C. Lipton & M. Oberst, "No Free Lunch" (2025), arXiv:2505.20178), it is
    `vedette.quality.mean` of the labels.

    Args:
        judge: (n,) scores of every unit the judge scored.
        human: (n,) labels on the same scale; nan for units without one.
        weights: (n,) 1 / probability that the judge scored the unit; None if all are equal.
        label_weights: (n,) 1 / probability that it was scored and labelled; what it is for units
            without a label doesn't matter. None if all are equal.
        sessions: (n,) what names each unit's session; None if units are independent.
        level: of the interval, two-sided.
        bounds: between which every label lies, such as (1, 5); intervals don't leave them.

    Returns:
        In the scores' unit. Without labels: nan and the bounds.

    Raises:
        ValueError: lengths differ, or a score, label or weight can't be one.
    """
    scored, labelled, is_labelled = _samples(judge, human, weights, label_weights, sessions)
    labels = moments(labelled.values, labelled.weights, labelled.sessions)
    count = labelled.values.size
    if _effective(labels) < FEWEST_LABELS:
        return Corrected(mean(labels, level, bounds), count, 0.0)
    spread = float((labelled.weights * (labelled.values - labels.mean) ** 2).sum())
    unrelated = 4 * float(labels.unit_share) ** 2 * spread / float(labelled.weights.sum())
    return _combined(scored, labelled, is_labelled, labels, unrelated, level, bounds)


def _samples(
    judge: ArrayLike,
    human: ArrayLike,
    weights: ArrayLike | None,
    label_weights: ArrayLike | None,
    sessions: ArrayLike | None,
) -> tuple[Sample, Sample, NDArray[np.bool_]]:
    """The judged units, the labelled ones with their labels, and which those are."""
    scored = sample(judge, weights, sessions)
    labels = np.asarray(human, np.float64)
    require_same_length("human", labels, scored.values)
    is_labelled = ~np.isnan(labels)
    chosen = None
    if label_weights is not None:
        every = np.asarray(label_weights, np.float64)
        require_same_length("label_weights", every, scored.values)
        chosen = every[is_labelled]
    checked = sample(labels[is_labelled], chosen)
    labelled = Sample(
        checked.values, checked.weights, scored.sessions[is_labelled], scored.session_count
    )
    return scored, labelled, is_labelled


def _effective(labels: Moments) -> int:
    """As many labels of equal weight would tell as much (Kish); 0 if there are none."""
    return round(1 / float(labels.unit_share)) if labels.units else 0


def _combined(
    scored: Sample,
    labelled: Sample,
    is_labelled: NDArray[np.bool_],
    labels: Moments,
    more_variance: float,
    level: float,
    bounds: tuple[float, float],
) -> Corrected:
    judged = Sample(
        scored.values[is_labelled], labelled.weights, labelled.sessions, scored.session_count
    )
    human_mean, human_part = _linearised(labelled)
    judge_mean, judge_part = _linearised(scored)
    judged_mean, judged_part = _linearised(judged)
    correction = judge_part - judged_part
    spread = float((correction**2).sum())
    reliance = 0.0
    if spread > 0:
        reliance = float(np.clip(-(human_part * correction).sum() / spread, 0.0, 1.0))
    value = human_mean + reliance * (judge_mean - judged_mean)
    sessions = float(labels.sessions)
    variance = float(((human_part + reliance * correction) ** 2).sum()) + more_variance
    if sessions < 2 or variance == 0:
        # No label contradicts another or the judge: what is unseen decides, as it does there
        return Corrected(mean(labels, level, bounds), labelled.values.size, 0.0)
    variance *= sessions / (sessions - 1)
    reach = student_quantile(level, labels.degrees_of_freedom) * math.sqrt(variance)
    lowest, highest = bounds
    estimate = Estimate(
        *(np.clip(bound, lowest, highest) for bound in (value, value - reach, value + reach))
    )
    return Corrected(estimate, labelled.values.size, reliance)


def _linearised(checked: Sample) -> tuple[float, FloatArray]:
    """The Hajek mean and what each session contributes to its error."""
    total = checked.weights.sum()
    found = float((checked.weights * checked.values).sum() / total)
    return found, session_sums(checked, checked.weights * (checked.values - found)) / total
