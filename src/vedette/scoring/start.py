"""``python -m vedette.scoring.start``, started by the engine: the process that forks workers.

Arguments: the descriptor of the socket for orders, the memory limit of a worker in bytes, the
sandbox's name, the directories to hide.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from vedette.scoring.isolation import Isolation


def main() -> None:
    """Enter the sandbox, then import: one that has threads, as MLflow may start, can't enter."""
    descriptor, memory_bytes, sandbox, *hidden = sys.argv[1:]
    limit = None if sandbox == "none" else int(memory_bytes)
    isolation = None
    if sandbox == "container":
        isolation = Isolation(Path.cwd(), [Path(directory) for directory in hidden])
    from vedette.scoring.forking import fork_workers

    fork_workers(socket.socket(fileno=int(descriptor)), limit, isolation)


if __name__ == "__main__":
    main()
