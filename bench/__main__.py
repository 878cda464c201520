"""``python -m bench``: every figure, one after the other, about two hours."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FIGURES = (
    "otlp",
    "sdk",
    "reads",
    "scorers",
    "live_scores",
    "judges",
    "restart",
    "pages",
    "million",
    "backfill",
)


def main() -> None:
    """Run the figures; one that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FIGURES, action="append", help="repeatable")
    parser.add_argument("--without", choices=FIGURES, action="append", default=[])
    options = parser.parse_args()
    failed = []
    for figure in options.only or FIGURES:
        if figure in options.without:
            continue
        print(f"== {figure}", flush=True)
        command = [sys.executable, "-m", f"bench.{figure}"]
        if subprocess.run(command, check=False, cwd=Path(__file__).parent.parent).returncode:
            failed.append(figure)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
