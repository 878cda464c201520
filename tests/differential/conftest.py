"""Both stores, open for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pair import Pair, open_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Both stores, shared by the tests of a module: each uses experiments of its own."""
    with open_pair(tmp_path_factory.mktemp("pair")) as opened:
        yield opened
