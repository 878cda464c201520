"""``vedette demo``: Vedette shown at work, on the agent in ``examples/``."""

from vedette.demo.story import run

__all__ = ["run"]
