"""RLIKE: Python's regular expressions, but with an end: a pattern can take for ever on a text.

The module ``regex`` understands them as ``re`` does, gives up when its time is over, and lets other
threads run meanwhile.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import regex
from mlflow.exceptions import MlflowException

_SECONDS = 5.0  # of one read, in all, for comparing with patterns

# Braces that don't count repetitions are plain text to `re`; to `regex` they ask for near matches
_NOT_PLAIN = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!\d*,?\d*\})", re.DOTALL)


class _TimeLeft(threading.local):
    seconds = _SECONDS


_left = _TimeLeft()


@contextmanager
def limited_time() -> Iterator[None]:
    """Bound the time that this thread may spend on patterns in the block.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, it was not enough.
    """
    _left.seconds = _SECONDS
    try:
        yield
    except sqlite3.OperationalError as error:  # what SQLite makes of an error of `matches`
        if _left.seconds > 0:
            raise
        raise _too_slow() from error


def matches(pattern: str | None, text: str | None) -> bool:
    """Whether the pattern is found in the text; what is no pattern is found nowhere, as in MLflow.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, the time of `limited_time` is over.
    """
    compiled = None if pattern is None else _compiled(pattern)
    if compiled is None or text is None:
        return False
    if _left.seconds <= 0:
        raise _too_slow()
    begun = time.thread_time()  # what other threads take isn't the pattern's fault
    try:
        return compiled.search(text, timeout=_left.seconds, concurrent=True) is not None
    except (TimeoutError, MemoryError) as error:
        _left.seconds = 0.0
        raise _too_slow() from error
    finally:
        _left.seconds -= time.thread_time() - begun


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern[str] | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what future versions may make of it
            re.compile(pattern)
            return regex.compile(_NOT_PLAIN.sub(lambda found: _plain(found[0]), pattern), regex.V0)
    except (re.error, regex.error, RecursionError, OverflowError):
        return None


def _plain(found: str) -> str:
    return "\\{" if found == "{" else found


def _too_slow() -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(
        f"Comparing with the RLIKE pattern takes more than {_SECONDS:.0f} s. Avoid repetitions "
        "within repetitions, such as (a+)+, and several .* in one pattern, or use LIKE."
    )
    return error
