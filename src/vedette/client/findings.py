"""Something in source code that will not do what its author expects, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One such thing.

    Attributes:
        line: from 1.
        column: from 1.
        code: what kind of finding it is, for filters and scripts.
        message: what is wrong.
        fix: what to write instead.
    """

    line: int
    column: int
    code: str
    message: str
    fix: str


def not_self_contained(
    name: str, findings: Sequence[Finding], where: str, lines: Sequence[str] = ()
) -> str:
    """What keeps a scorer from running elsewhere, as the text of an error.

    Args:
        name: of the scorer.
        findings: at least one.
        where: what to put before a line's number.
        lines: the source that the lines are counted in, to be quoted for who can't look at it.
    """
    problems = []
    for one in findings:
        quoted = f" (`{lines[one.line - 1].strip()}`)" if one.line <= len(lines) else ""
        problems.append(f"  {where}{one.line}{quoted}: {one.message}; {one.fix}")
    return (
        f"Scorer '{name}' is not self-contained. It is stored as text and runs elsewhere, without "
        "the module around it:\n" + "\n".join(problems)
    )
