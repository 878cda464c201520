"""MLflow's tracking store as Vedette has it: traces in the journal, the lake and the read model;
experiments, runs, scorers, datasets, label schemas and review queues in MLflow's SQL tables.

A subclass of `SqlAlchemyStore`, since some of MLflow's routes ask for one, that overrides every
public method touching a trace table; a test looks for those that a new MLflow brings.
"""

from __future__ import annotations

from typing import Any, cast

from mlflow.entities import Experiment, ExperimentTag, Issue, ViewType
from mlflow.entities.entity_type import EntityAssociationType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import NOT_IMPLEMENTED
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.tracking import SEARCH_ISSUES_DEFAULT_MAX_RESULTS
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.search_utils import SearchTraceUtils

from vedette.lake.locations import LOCATION_TAG
from vedette.mlflow_app.environment import ARTIFACTS_PROXY
from vedette.mlflow_app.experiments import require_possible
from vedette.mlflow_app.plane import plane_of
from vedette.mlflow_app.read_methods import ReadMethods
from vedette.mlflow_app.scorer_methods import ScorerMethods
from vedette.mlflow_app.write_methods import WriteMethods

_ALL_PAGES = 1000  # issues, runs per query when all are wanted


class VedetteStore(WriteMethods, ReadMethods, ScorerMethods, SqlAlchemyStore):  # type: ignore[misc]
    """The store. Several may exist in a process; they share the opened data directory.

    Args:
        store_uri: names a data directory that this process has opened (`plane.open_plane`).
        artifact_uri: root of new experiments' artifacts.
    """

    def __init__(self, store_uri: str, artifact_uri: str | None = None) -> None:
        self._plane = plane_of(store_uri)
        root = artifact_uri or ARTIFACTS_PROXY
        super().__init__(self._plane.settings.control_uri, root)  # type: ignore[no-untyped-call]

    @property
    def supports_trace_archival(self) -> bool:
        """False: there is nothing in MLflow's trace tables to archive."""
        return False

    def get_experiment(self, experiment_id: str) -> Experiment:
        """As MLflow's, which fails on ids of more than 64 bits."""
        require_possible(experiment_id)
        found = super().get_experiment(experiment_id)  # type: ignore[no-untyped-call]
        return cast(Experiment, found)

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Any = None
    ) -> str:
        """As MLflow's; INVALID_PARAMETER_VALUE for the tag of its trace location."""
        for tag in tags or ():
            _refuse_location_tag(tag.key)
        return str(super().create_experiment(name, artifact_location, tags))  # type: ignore[no-untyped-call]

    def set_experiment_tag(self, experiment_id: str, tag: ExperimentTag) -> None:
        """As MLflow's; INVALID_PARAMETER_VALUE for the tag of its trace location."""
        _refuse_location_tag(tag.key)
        super().set_experiment_tag(experiment_id, tag)  # type: ignore[no-untyped-call]

    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """As MLflow's; INVALID_PARAMETER_VALUE for the tag of its trace location."""
        _refuse_location_tag(key)
        super().delete_experiment_tag(experiment_id, key)  # type: ignore[no-untyped-call]

    def delete_experiment(self, experiment_id: str) -> None:
        """As MLflow's, which also deletes what the experiment's runs have assessed."""
        super().delete_experiment(experiment_id)  # type: ignore[no-untyped-call]
        self._plane.experiments.forget(experiment_id)
        self._plane.writes.delete_assessments_of_runs(self._run_ids(experiment_id))

    def restore_experiment(self, experiment_id: str) -> None:
        """As MLflow's; traces can be added at once."""
        super().restore_experiment(experiment_id)  # type: ignore[no-untyped-call]
        self._plane.experiments.forget(experiment_id)

    def delete_run(self, run_id: str) -> None:
        """As MLflow's, which also deletes what the run has assessed."""
        super().delete_run(run_id)  # type: ignore[no-untyped-call]
        self._plane.writes.delete_assessments_of_runs([run_id])

    def _run_ids(self, experiment_id: str) -> list[str]:
        found: list[str] = []
        token = None
        while True:
            page = self.search_runs(  # type: ignore[no-untyped-call]
                [experiment_id], "", ViewType.ALL, max_results=_ALL_PAGES, page_token=token
            )
            found.extend(run.info.run_id for run in page)
            if not (token := page.token):
                return found

    def search_issues(
        self,
        experiment_id: str | None = None,
        filter_string: str | None = None,
        max_results: int | None = None,
        page_token: str | None = None,
        include_trace_count: bool = False,
    ) -> PagedList[Issue]:
        """As MLflow's; the number of traces of each issue is counted in the read model.

        With counts the order depends on them, so all issues that match are looked at.
        """
        if not include_trace_count:
            return super().search_issues(experiment_id, filter_string, max_results, page_token)
        self._validate_max_results_param(max_results, allow_null=True)  # type: ignore[arg-type]
        limit = max_results or SEARCH_ISSUES_DEFAULT_MAX_RESULTS
        start = SearchTraceUtils.parse_start_offset_from_page_token(page_token)
        issues: list[Issue] = []
        token = None
        while True:
            page = super().search_issues(experiment_id, filter_string, _ALL_PAGES, token)
            issues.extend(page)
            if not (token := page.token):
                break
        counts = self._plane.issue_trace_counts([issue.issue_id for issue in issues])
        for issue in issues:
            issue.trace_count = counts.get(issue.issue_id, 0)
        # By severity, count, time, id; MLflow's order without counts is by the others already
        issues.sort(
            key=lambda issue: (
                -1 if issue.severity is None else issue.severity._rank,
                issue.trace_count or 0,
            ),
            reverse=True,
        )
        more = len(issues) > start + limit
        following = SearchTraceUtils.create_page_token(start + limit) if more else None
        return PagedList(issues[start : start + limit], token=following)

    def sum_gateway_trace_cost(
        self,
        start_time_ms: int,
        end_time_ms: int,
        workspace: str | None = None,
        endpoint_id: str | None = None,
        username: str | None = None,
    ) -> float:
        """What calls through MLflow's gateway have cost, for its budgets; of all workspaces."""
        return self._plane.gateway_cost(start_time_ms, end_time_ms, endpoint_id, username)

    def search_entities_by_source(
        self,
        source_ids: str | list[str],
        source_type: EntityAssociationType,
        destination_type: EntityAssociationType,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[str]:
        """As MLflow's, but for traces: their links are in the read model."""
        _refuse_traces(source_type, destination_type)
        return super().search_entities_by_source(
            source_ids, source_type, destination_type, max_results, page_token
        )

    def search_entities_by_destination(
        self,
        destination_ids: str | list[str],
        destination_type: EntityAssociationType,
        source_type: EntityAssociationType,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[str]:
        """As MLflow's, but for traces: their links are in the read model."""
        _refuse_traces(source_type, destination_type)
        return super().search_entities_by_destination(
            destination_ids, destination_type, source_type, max_results, page_token
        )


def _refuse_traces(*types: Any) -> None:
    if EntityAssociationType.TRACE in types:
        raise MlflowException(
            "Links of traces are found with search_traces: filter on run_id or prompt.",
            error_code=NOT_IMPLEMENTED,
        )


def _refuse_location_tag(key: str) -> None:
    """What says where traces are can't be changed once it is said."""
    if key == LOCATION_TAG:
        raise MlflowException.invalid_parameter_value(
            f"The tag {LOCATION_TAG} can't be set or deleted: where an experiment keeps its traces "
            "is chosen once, with vedette.set_experiment."
        )
