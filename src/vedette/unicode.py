"""Text that can be stored."""

from __future__ import annotations


def storable(text: str) -> str:
    """The text as it is, but half a surrogate pair, as a cut emoji leaves it in JSON, becomes "?":
    no table and no UTF-8 has it."""
    return text.encode("utf-8", "replace").decode()
