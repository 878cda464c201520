"""What a page looks at, as its address says it: an experiment and a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlencode

from vedette.monitor.data import Experiment
from vedette.monitor.figures.period import DEFAULT_RANGE, Period, period


@dataclass(frozen=True, slots=True)
class View:
    """What a page looks at.

    Attributes:
        path: of the page, beneath ``/monitor``.
        experiment: the one that was chosen.
        range: of `vedette.monitor.figures.period.RANGES`.
        until: when the time ends, in ms since the epoch, as text; None: now, whenever that is.
        more: further parameters of the page.
    """

    path: str
    experiment: Experiment
    range: str = DEFAULT_RANGE
    until: str | None = None
    more: tuple[tuple[str, str], ...] = ()

    @property
    def period(self) -> Period:
        """The time, as of now."""
        return period(self.range, self.until)

    @property
    def query(self) -> str:
        """What stands behind the ? of its address, and of those of the API."""
        said = {"experiment_id": self.experiment.experiment_id, "range": self.range}
        said |= dict(self.more) | ({"until": self.until} if self.until is not None else {})
        return urlencode(said)

    @property
    def address(self) -> str:
        """Leads there again, beneath ``/monitor``."""
        return f"{self.path}?{self.query}"

    def at(self, path: str, **more: str) -> str:
        """The address of another page, of the same experiment and time."""
        return replace(self, path=path, more=tuple(more.items())).address
