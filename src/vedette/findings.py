"""What a check of `vedette doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        state: ok; warning: it runs, but not as well as it could; failed: it will not run.
        message: what was found and where, for people.
        fix: what to do; "" if nothing needs to be done.
    """

    check: str
    state: State
    message: str
    fix: str = ""
