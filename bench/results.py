"""``bench/RESULTS.md``: a section per figure, each saying where, when and with what it was made."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "RESULTS.md"
_PACKAGES = ("mlflow", "deltalake", "duckdb", "pyarrow", "uvicorn")
_PREFACE = """# What Vedette costs and carries

Written by `make bench`; do not edit. Every ratio is against a stock `mlflow server` (sqlite, fresh
directory, default workers) in the same run on the same machine, over loopback, in alternating
order.
"""


class Table:
    """Rows that are printed as they come and kept for the report."""

    def __init__(self, *columns: str) -> None:
        self._rows: list[Sequence[str]] = [columns]

    def add(self, *cells: str) -> None:
        """One row; a cell per column."""
        names = self._rows[0]
        self._rows.append(cells)
        print(
            "  ".join(f"{n}: {c}" for n, c in zip(names, cells, strict=True) if n and c), flush=True
        )

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in self._rows) for i in range(len(self._rows[0]))]
        lines = [
            "| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |"
            for row in self._rows
        ]
        lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
        return "\n".join(lines)


def record(title: str, table: Table, notes: Sequence[str]) -> None:
    """Replace (or append) the section of this title in ``bench/RESULTS.md``."""
    command = "python -m bench." + Path(sys.argv[0]).stem
    section = "\n".join(
        (
            f"## {title}\n",
            f"`{' '.join((command, *sys.argv[1:]))}`, {time.strftime('%Y-%m-%d %H:%M')} "
            f"at {_commit()}; {machine()}; {_versions()}.\n",
            f"{table}\n",
            *(f"- {note}" for note in notes),
        )
    )
    text = RESULTS.read_text() if RESULTS.exists() else _PREFACE
    sections = [s for s in re.split(r"\n(?=## )", text) if not s.startswith(f"## {title}\n")]
    sections.append(section)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text("\n\n".join(s.strip() for s in sections) + "\n")
    temporary.replace(RESULTS)


def machine() -> str:
    """Cores, memory and processor."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (m := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        name = m.group(1)
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores ({name}), {memory:.0f} GiB, {platform.system()}"


def _versions() -> str:
    packages = (f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return ", ".join((f"Python {platform.python_version()}", *packages))


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", *arguments), capture_output=True, text=True, check=False, cwd=RESULTS.parent
        ).stdout.strip()

    changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", "../src"))
    return (git("rev-parse", "--short", "HEAD") or "no commit") + (" with changes" * changed)


def ratio(better: float, worse: float) -> str:
    """``better / worse`` for people; a dash when it can't be told."""
    if worse <= 0 or math.isnan(better):
        return "-"
    times = better / worse
    return f"{times:.1f}x" if times >= 1 else f"{times:.2f}x"
