"""When a unit that failed for the time being is tried again."""

from __future__ import annotations

import hashlib

from vedette.scoring.outcomes import Retry

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
    to the same time. For 24 hours from the first failure on there is a next time.

    Args:
        unit: what names the unit and the scorer.
        attempt: how many times it has been tried, from 1 on.
        first_failed_at: seconds, of any clock.
        now: the time of this failure, of the same clock.
        retry: the failure.
    """
    at_most = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
    wait = at_most * _jitter(unit, attempt)
    if retry.after_seconds is not None:
        # Not all at the very second that the provider named, either
        wait = retry.after_seconds + min(wait, LONGEST_SECONDS / 10)
    at = now + wait
    return at if at - first_failed_at <= GIVE_UP_SECONDS else None


def given_up(retry: Retry, attempts: int) -> tuple[str, str]:
    """Code and message of the error on a unit that is tried no more."""
    hours = GIVE_UP_SECONDS / 3600
    return (
        retry.code,
        f"Given up after {attempts} attempts in {hours:.0f} hours. The last one: {retry.message}",
    )


def _jitter(unit: str, attempt: int) -> float:
    """A number in [0, 1), the same for the same arguments for ever."""
    digest = hashlib.blake2b(f"{attempt}:{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
