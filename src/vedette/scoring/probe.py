"""``python -m vedette.scoring.probe ROOT HIDDEN...``: try to be isolated as workers are.

Prints ``isolated``, or what is in the way.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from vedette.scoring.isolation import Isolation


def main() -> None:
    """Enter the forking process's namespaces, then a worker's, then look for MLflow."""
    root, *hidden = map(Path, sys.argv[1:])
    try:
        isolation = Isolation(root, hidden)
        if worker := isolation.fork():
            os.waitpid(worker, 0)
            os._exit(0)
        isolation.enter_worker()
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print(f"{error.strerror}{place}", flush=True)
        os._exit(1)
    try:
        spec = importlib.util.find_spec("mlflow")
        Path(spec.origin if spec and spec.origin else "mlflow").read_bytes()
    except OSError as error:
        print(f"the user that workers become can't read Python's packages: {error}", flush=True)
        os._exit(1)
    print("isolated", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
