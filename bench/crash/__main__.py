"""``python -m bench.crash --kills 200``: exit code 0 when every promise was kept, 1 when not."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.crash.run import run


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rate", type=float, default=60.0, help="traces/s while all is well")
    parser.add_argument("--data", type=Path, help="kept; without it a directory that is removed")
    options = parser.parse_args()
    directory = options.data or Path(tempfile.mkdtemp(prefix="vedette-crash-"))
    report = run(
        directory,
        kills=options.kills,
        traces_per_second=options.rate,
        say=partial(print, flush=True),
    )
    print("\n".join(report.lines))
    if report.violations:
        print(f"\nVIOLATED, the data is in {directory}:")
        print("\n".join(f"  {violation}" for violation in report.violations))
        sys.exit(1)
    print("Every promise was kept.")
    if options.data is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
