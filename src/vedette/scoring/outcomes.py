"""What is scored, and what can come of it: the words that engine and pools have in common."""

from dataclasses import dataclass

from vedette.intake.records import AssessmentRow


@dataclass(frozen=True, slots=True)
class Unit:
    """What is scored: a trace, or a revision of a session."""

    unit_id: str
    """The trace id, or the session id."""
    payload: bytes
    """JSON. A trace: `{"info": ..., "spans": [...]}` as `vedette.scoring.payloads` makes it.
    A session: `{"session_id": ..., "traces": [{"info": ..., "spans": [...]}, ...]}`, the traces in
    the order of their start."""
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the calls of one scoring cost, as far as the provider told."""

    calls: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    model: str | None
    """`provider:/model`."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A transient failure: try this unit again later."""

    code: str
    """RATE_LIMITED, UNAVAILABLE, TIMEOUT or CONNECTION."""
    message: str
    """For people."""
    after_seconds: float | None
    """What the provider asked for (Retry-After), if it did."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is wrong with the unit: the scorer cannot run until somebody mends something."""

    code: str
    """NO_API_KEY, UNKNOWN_MODEL, NO_PROVIDER_LIBRARY, NOT_AUTHORIZED, ..."""
    message: str
    """What is missing and what to do."""
    after_seconds: float | None = None
    """It passes by itself then: the provider asked for so long a wait."""


@dataclass(frozen=True, slots=True)
class Left:
    """The unit is not scored, and never will be: nothing is wrong with the scorer."""

    decision: str
    """`stopped` or `deleted`."""
    message: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of scoring one unit."""

    unit_id: str
    rows: list[AssessmentRow]
    """The final feedback, errors too. Empty: the scorer returned None, or `retry`, `hold` or `left`
    say why there is none."""
    milliseconds: float
    worker: str = ""
    """`pid 4711`, for `vedette explain`."""
    usage: Usage | None = None
    retry: Retry | None = None
    hold: Hold | None = None
    left: Left | None = None
