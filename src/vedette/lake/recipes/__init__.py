"""Questions that analysts ask of the tables, each as one query in Databricks' dialect.

A file's first comment line is the question; what follows says how it is answered.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Recipe(NamedTuple):
    """One question and its query."""

    name: str
    question: str
    sql: str  # with its comments


@cache
def recipes() -> dict[str, Recipe]:
    """All of them, by name."""
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".sql"):
            name, text = file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")
            question = text.split("\n", 1)[0].removeprefix("-- ")
            found[name] = Recipe(name, question, text)
    return found


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        KeyError: there is none; the message names one that is called alike.
    """
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`vedette recipes` lists them"
        raise KeyError(f"there is no recipe {name}; {hint}")
    return known[name]
