"""What is asked of a backfill, checked, and what it would come to."""

from __future__ import annotations

import difflib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from vedette.intake.records import BackfilledScorer
from vedette.named_sql import statements
from vedette.scoring.active import ActiveScorer
from vedette.scoring.arrival_order import arrived_until
from vedette.scoring.backfills import Backfill, scored_before, streams_of
from vedette.scoring.completion import newest_position
from vedette.scoring.epochs import Epochs
from vedette.scoring.selection import SELECTED, Selection
from vedette.traces.filters import compile_filter
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "backfills")


def ask(
    index: TraceIndex,
    registered: Sequence[ActiveScorer],
    wanted: Sequence[tuple[str, float | None]],
    *,
    experiment_id: str,
    start_ms: int,
    end_ms: int,
    rescore: bool,
    now_ms: int,
) -> Backfill:
    """A job that scores what is complete now and began in a time range (ms since the epoch).

    Args:
        registered: all versions of the experiment's scorers; the latest are taken.
        wanted: names, and rates in (0, 1] in place of those that the scorers have.

    Raises:
        MlflowException: RESOURCE_DOES_NOT_EXIST, naming the scorers there are;
            INVALID_PARAMETER_VALUE for everything else that is wrong.
    """
    if not wanted:
        raise _invalid("Name at least one scorer to backfill.")
    latest = {one.name: one for one in registered}
    _require_names([name for name, _ in wanted], latest, experiment_id)
    if start_ms >= end_ms:
        raise _invalid(
            f"The window is empty: its start, {start_ms}, is not before its end, {end_ms} "
            "(ms since the epoch)."
        )
    newest = newest_position(index)
    job = Backfill(
        job=f"bf-{uuid.uuid4().hex[:12]}",
        experiment_id=experiment_id,
        scorers=(),
        start_ms=start_ms,
        end_ms=end_ms,
        trace_arrival=arrived_until(index, newest, of_sessions=False),
        session_arrival=arrived_until(index, newest, of_sessions=True),
        rescore=rescore,
        created_ms=now_ms,
    )
    asked_scorers: list[BackfilledScorer] = []
    for name, rate in wanted:
        asked = _asked(latest[name], rate)
        window = job.window(index, asked)
        asked["units"] = sum(units for _, units in window.by_hour(index, 0, window.last))
        asked_scorers.append(asked)
    return replace(job, scorers=tuple(asked_scorers))


def _require_names(
    names: Sequence[str], latest: dict[str, ActiveScorer], experiment_id: str
) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _invalid(f"Named more than once: {', '.join(twice)}.")
    unknown = [name for name in names if name not in latest]
    if not unknown:
        return
    near = sorted({one for name in unknown for one in difflib.get_close_matches(name, latest)})
    hint = f" Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    raise MlflowException(
        f"Not registered in experiment {experiment_id}: {', '.join(unknown)}.{hint} "
        f"Registered: {', '.join(sorted(latest)) or 'none'}.",
        RESOURCE_DOES_NOT_EXIST,
    )


def _asked(scorer: ActiveScorer, rate: float | None) -> BackfilledScorer:
    if rate is None:
        if not scorer.sample_rate:
            raise _invalid(
                f"Scorer '{scorer.name}' is not started, so it has no sampling rate of its own: "
                "give one, such as 1.0."
            )
        rate, strata = scorer.sample_rate, list(scorer.strata)
    elif isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise _invalid(
            f"The rate of scorer '{scorer.name}' must be a number above 0 and at most 1, "
            f"not {rate!r}."
        )
    else:
        strata = []
    if scorer.invalid is not None:
        raise _invalid(f"Scorer '{scorer.name}' can't be run: {scorer.invalid}")
    for text in (scorer.filter_string, *(text for text, _ in strata)):
        if text:
            compile_filter(text, None)
    return BackfilledScorer(
        name=scorer.name,
        version=scorer.version,
        rate=float(rate),
        filter=scorer.filter_string,
        strata=strata,
        of_sessions=scorer.is_session_level,
        units=0,
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one scorer of a job would come to.

    Attributes:
        units: in the window.
        selected: by filter and rate.
        reused: of those, scored by this version already, and not to be scored again.
        calls: of models; None: the scorer asks a model, and hasn't yet.
        dollars: None: not known.
        seconds: of scorer time, one after another; None: not known.
    """

    scorer: str
    version: int
    rate: float
    units: int
    selected: int
    reused: int
    calls: float | None
    dollars: float | None
    seconds: float | None


def forecast(
    index: TraceIndex, selection: Selection, job: Backfill, registered: Sequence[ActiveScorer]
) -> list[Forecast]:
    """Decide as the job would, and run nothing.

    Raises:
        MlflowException: a filter takes too long.
        LakeUnavailable: a filter compares span content, which can't be read now.
    """
    versions = {(one.name, one.version): one for one in registered}
    found = []
    for asked in job.scorers:
        scorer = job.as_active(asked, versions[asked["name"], asked["version"]])
        epochs = Epochs()
        epoch = epochs.follow(scorer, 1.0, 0, job.created_ms, anew=True)
        assert epoch is not None
        units = selected = reused = 0
        for part in job.window(index, asked).all(index):
            choices = selection.choose(scorer, epochs, epoch, part)
            chosen = [choice.unit for choice in choices if choice.decision == SELECTED]
            units += len(part)
            selected += len(chosen)
            reused += 0 if job.rescore else len(scored_before(index, scorer, chosen))
        each = _each(index, scorer)
        calls, dollars, seconds = (
            None if one is None else one * (selected - reused) for one in each
        )
        found.append(
            Forecast(
                scorer=scorer.name,
                version=scorer.version,
                rate=scorer.sample_rate,
                units=units,
                selected=selected,
                reused=reused,
                calls=calls,
                dollars=dollars,
                seconds=seconds,
            )
        )
    return found


def _each(index: TraceIndex, scorer: ActiveScorer) -> tuple[float | None, ...]:
    """Calls, dollars and seconds that a unit has taken on average, of a thousand scored."""
    values = {"streams": json.dumps(streams_of(index, scorer))}
    calls, dollars, seconds = index.connection().execute(_SQL["each"], values).fetchone()
    return (calls, dollars, seconds) if scorer.is_judge else (0.0, 0.0, seconds)


def _invalid(message: str) -> MlflowException:
    error: MlflowException = MlflowException.invalid_parameter_value(message)
    return error
