"""What clients sent and what was acknowledged: the truth that the server is held to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class KnownAssessment:
    """One assessment as its client knows it."""

    name: str
    assessment_id: str | None  # None: the answer to its creation never came
    value: object
    deleted: bool = False


@dataclass
class KnownTrace:
    """One trace as its client knows it. Only the client that works on it changes it."""

    trace_id: str
    number: int  # in its inputs and outputs; the scores follow from it
    span_ids: tuple[str, ...]
    has_root: bool = True
    sends: Counter[str] = field(default_factory=Counter)  # per span: requests, acknowledged or not
    acknowledged: set[str] = field(default_factory=set)  # spans
    header_sends: int = 0  # start_trace requests
    header_acknowledged: bool = False
    tags: dict[str, str | None] = field(default_factory=dict)  # None: deleted
    assessments: list[KnownAssessment] = field(default_factory=list)
    deleted: bool = False

    @property
    def must_exist(self) -> bool:
        """Whether something of it was acknowledged and it was not deleted since."""
        return bool(self.acknowledged or self.header_acknowledged) and not self.deleted

    @property
    def must_be_scored(self) -> bool:
        """Whether its root was acknowledged."""
        return self.must_exist and self.has_root and self.span_ids[0] in self.acknowledged


@dataclass
class Ledger:
    """Everything the clients know."""

    traces: list[KnownTrace] = field(default_factory=list)
    acknowledged: Counter[str] = field(default_factory=Counter)  # requests, by kind
    unanswered: Counter[str] = field(default_factory=Counter)  # ... whose answer never came
    refused: Counter[str] = field(default_factory=Counter)  # ... asked to come later
    wrong: list[str] = field(default_factory=list)  # answers that must not happen
