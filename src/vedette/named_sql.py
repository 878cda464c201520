"""Named SQL: statements live in ``.sql`` files beside the code that runs them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def script(package: str, name: str) -> str:
    """The whole text of ``name``.sql in ``package``."""
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")


@cache
def statements(package: str, name: str) -> dict[str, str]:
    """The statements of ``name``.sql in ``package``, by the name in the ``-- name:`` line above."""
    found: dict[str, str] = {}
    for block in script(package, name).split("-- name:")[1:]:
        title, _, text = block.partition("\n")
        found[title.strip()] = text.strip().rstrip(";")
    return found
