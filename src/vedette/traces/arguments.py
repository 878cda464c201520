"""Arguments of reads as MLflow's API has them, checked with its errors.

Every function raises MlflowException (INVALID_PARAMETER_VALUE) for what makes no sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlflow.store.tracking import SEARCH_MAX_RESULTS_THRESHOLD
from mlflow.utils.search_utils import SearchTraceUtils

from vedette.traces.conditions import invalid, number

_LARGEST_OFFSET = 2**62


def experiment_numbers(experiment_ids: Iterable[str]) -> list[int]:
    """Experiment ids as the integers they must be."""
    numbers = []
    for experiment_id in experiment_ids:
        try:
            numbers.append(number(int(experiment_id)))  # beyond 64 bits: that of no experiment
        except (TypeError, ValueError):
            raise invalid(
                f"Invalid experiment ID '{experiment_id}'. Experiment ID must be a valid integer."
            ) from None
    return numbers


def searched_experiments(
    experiment_ids: Sequence[str] | None, locations: Sequence[str] | None
) -> list[int] | None:
    """The experiments to search; None for all. ``experiment_ids`` is the old name of the other."""
    if experiment_ids and locations:
        raise invalid("`experiment_ids` is deprecated, use `locations` instead.")
    wanted = experiment_ids or locations
    if others := ", ".join(location for location in wanted or () if "." in location):
        shown = others if len(others) <= 20 else f"{others[:20]}..."
        raise invalid(
            f"Locations must be a list of experiment IDs. Found invalid experiment IDs: {shown}."
        )
    return None if wanted is None else experiment_numbers(wanted)


def check_max_results(max_results: int | None) -> None:
    """A page has at least one result and at most `SEARCH_MAX_RESULTS_THRESHOLD`."""
    if max_results is None or max_results < 1:
        raise invalid(
            f"Invalid value {max_results} for parameter 'max_results' supplied. It must be "
            "a positive integer"
        )
    if max_results > SEARCH_MAX_RESULTS_THRESHOLD:
        raise invalid(
            f"Invalid value {max_results} for parameter 'max_results' supplied. It must be at "
            f"most {SEARCH_MAX_RESULTS_THRESHOLD}"
        )


def page_offset(page_token: str | None) -> int:
    """Where the page that the token stands for begins; 0 without a token."""
    try:
        offset = int(SearchTraceUtils.parse_start_offset_from_page_token(page_token))
        if offset > _LARGEST_OFFSET:
            raise ValueError("no search has that many results")
        return max(0, offset)
    except (AttributeError, TypeError, ValueError) as error:
        raise invalid(f"Invalid page token {page_token!r}: {error}") from error
