"""The scripts in ``examples/`` as modules: the demo plays what a user would write."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from vedette.demo.instance import DemoFailed


def example(name: str) -> ModuleType:
    """One of the example scripts, imported as if it were run from its own directory.

    Raises:
        DemoFailed: it is not there.
    """
    directory = str(_directory())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    return importlib.import_module(name)


def _directory() -> Path:
    """Installed, the examples lie beside this file; in a checkout, at its top."""
    here = Path(__file__).parent
    for directory in (here / "examples", here.parents[2] / "examples"):
        if (directory / "support_agent.py").is_file():
            return directory
    raise DemoFailed("the example agent is missing from this installation; install Vedette again")
