"""Names of scores: the same work always gives the same id, so doing it again changes nothing."""

from __future__ import annotations

from hashlib import blake2b

import orjson


def assessment_id(
    *, experiment_id: str, scorer: str, version: int, unit: str, revision: int, index: int
) -> str:
    """``a-`` and 32 hex digits, a function of what is scored and by what.

    Args:
        experiment_id: the experiment that the scorer belongs to.
        scorer: the scorer's registered name.
        version: the scorer's version.
        unit: what is scored: a trace id.
        revision: 0 for a trace; how often the unit was re-opened.
        index: place of this feedback among those that the scorer returned.
    """
    identity = orjson.dumps([experiment_id, scorer, version, unit, revision, index])
    return "a-" + blake2b(identity, digest_size=16).hexdigest()
