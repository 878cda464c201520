"""What is told of a worker that gave no answer: what happened, and what to do about it."""

from __future__ import annotations

import os
import signal

from vedette.scoring.fork_server import Child

_EXIT_SECONDS = 5.0
_CRASH_TRIES = 3  # a process may be killed by others: an impatient admin, a lack of memory


class Accident(Exception):
    """A worker gave no answer for the unit at hand.

    Attributes:
        code: of the error that the unit gets.
        tries: after this many accidents it is charged to the unit.
    """

    def __init__(self, code: str, message: str, *, tries: int = 1) -> None:
        super().__init__(message)
        self.code = code
        self.tries = tries


def too_slow(name: str, seconds: float) -> Accident:
    """The scorer of this name took longer than it may."""
    return Accident(
        "SCORER_TIMEOUT",
        f"Scorer {name!r} was stopped after {seconds:g} seconds, its time limit for one trace. "
        "Make it faster, or register it with a longer one: @scorer(timeout=...).",
    )


def disturbed(name: str, problem: Exception) -> Accident:
    """What the scorer's process sent is no answer."""
    return Accident(
        "SCORER_CRASHED",
        f"Scorer {name!r} disturbed the process it ran in: {problem}. "
        "A scorer must leave alone what it has not opened or imported itself.",
    )


def crashed(name: str, child: Child) -> Accident:
    """The scorer's process broke off."""
    try:
        status = child.ended.result(_EXIT_SECONDS)
    except TimeoutError:
        return disturbed(name, ConnectionError("it closed its connection"))
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        if code == signal.SIGXCPU:  # see vedette.scoring.isolation
            return _killed(name, signal.SIGXCPU)
        return Accident(
            "SCORER_CRASHED",
            f"Scorer {name!r} ended its process with exit code {code}. A scorer must return or "
            "raise: look for os._exit, for what closes files that it has not opened, and for what "
            "changes Python's own modules.",
        )
    return _killed(name, signal.Signals(os.WTERMSIG(status)))


def _killed(name: str, by: signal.Signals) -> Accident:
    said = f"Scorer {name!r} had its process killed by {by.name}"
    if by is signal.SIGXCPU:
        hint = "its limit of processor time. Let it start fewer threads, or make it faster"
    elif by is signal.SIGKILL:
        hint = "most likely because the machine ran out of memory. Let it use less"
        return Accident("SCORER_CRASHED", f"{said}, {hint}.", tries=_CRASH_TRIES)
    elif by is signal.SIGTERM:
        return Accident("SCORER_CRASHED", f"{said}.", tries=_CRASH_TRIES)
    else:
        hint = "a crash of compiled code. Look at the libraries that it calls, or at its recursion"
    return Accident("SCORER_CRASHED", f"{said}, {hint}.")
