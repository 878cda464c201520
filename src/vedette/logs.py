"""Logging of a process: one line per event on stderr, marked with the part that says it."""

from __future__ import annotations

import logging
import os
import sys


def configure_logging(part: str) -> None:
    """Log ``vedette`` from INFO and everything else from WARNING up, as lines of ``part``."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s {part:<7} %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("vedette").setLevel(logging.INFO)
