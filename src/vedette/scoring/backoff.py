"""When a unit that failed for the time being is tried again."""

from __future__ import annotations

from vedette.scoring.outcomes import Retry
from vedette.scoring.sample import draw

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 15 * 60.0
GIVE_UP_SECONDS = 24 * 3600.0


def next_try(
    unit: str, attempt: int, first_failed_at: float, now: float, retry: Retry
) -> float | None:
    """When to try a unit again, or None to give up: then `given_up` is its error.

    Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS, 2015): a
    time anywhere between now and 5 s, 10 s, 20 s, ... up to 15 min, but not before the provider
    wants it. The jitter is made of the unit and the attempt, so that a replay after a crash comes
    to the same time. Until 24 hours from the first failure there is a next time, the last one then
    at the latest, whatever the provider wants.

    Args:
        unit: what names the unit and the scorer.
        attempt: how many times it has been tried, from 1 on.
        first_failed_at: seconds, of any clock.
        now: the time of this failure, of the same clock.
        retry: the failure.
    """
    last = first_failed_at + GIVE_UP_SECONDS
    if now >= last:
        return None
    at_most = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
    wait = at_most * draw(f"{attempt}:{unit}")
    if retry.after_seconds is not None:
        # Not all at the very second that the provider named, either
        wait = retry.after_seconds + min(wait, LONGEST_SECONDS / 10)
    return min(now + wait, last)


def given_up(retry: Retry, attempts: int, seconds: float) -> tuple[str, str]:
    """Code and message of the error on a unit that is tried no more.

    Args:
        seconds: since the first failure.
    """
    text = f"Given up after {attempts} attempts in {duration(seconds)}. The last one: "
    return retry.code, text + retry.message


def duration(seconds: float) -> str:
    """A time in words: 29 s, 25 min, 23.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
