"""Which modules are the author's own code, by where they lie."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path


def own_modules(file: Path) -> Callable[[str], tuple[str, str] | None]:
    """An objection to modules that lie beside the file, or in the package that it is part of.

    They are the author's own code, which is not installed where scorers run.
    """
    inside = file.resolve().parent
    package = None
    while (inside / "__init__.py").is_file():
        package, inside = inside.name, inside.parent
    installed = inside in {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}

    def objection(module: str) -> tuple[str, str] | None:
        beside = (inside / f"{module}.py").is_file() or any((inside / module).glob("*.py"))
        own = module == package or (beside and not installed)
        if not own or module in sys.stdlib_module_names:
            return None
        fix = "put what it needs inside the function, or install it as a library with Vedette"
        return f"imports {module}, which is your own code and not there where it runs", fix

    return objection
