"""Where an experiment keeps its traces: who may say so, when, and what is then refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from mlflow.entities import ExperimentTag
from mlflow.exceptions import MlflowException

from test_fold import spans_record
from vedette.intake.otlp import RequestRefused
from vedette.lake.location import DEFAULT, Location
from vedette.lake.locations import LOCATION_TAG, Binding, Locations
from vedette.mlflow_app.control import prepare_control_database
from vedette.mlflow_app.environment import ARTIFACTS_PROXY, store_uri
from vedette.mlflow_app.location_control import LocationControl
from vedette.mlflow_app.plane import TracePlane, open_plane
from vedette.mlflow_app.store import VedetteStore
from vedette.settings import Settings
from vedette.trace_locations import learn_locations

SHOP = {"catalog_name": "shop", "schema_name": "prod", "table_prefix": "agent"}
OTHER = {**SHOP, "table_prefix": "other"}
BY_DEFAULT = dict(zip(SHOP, DEFAULT, strict=True))


class Parts:
    """A server's parts, without the server."""

    def __init__(self, store: VedetteStore, plane: TracePlane) -> None:
        self.store = store
        self.plane = plane
        self.control = LocationControl(plane)
        self._traces = 0

    def experiment(self) -> str:
        """The id of a new one."""
        return str(self.store.create_experiment(uuid.uuid4().hex))

    def trace(self, experiment_id: str) -> None:
        """Send one."""
        self._traces += 1
        self.plane.log_spans(experiment_id, spans_record(self._traces, "root").body)

    def bind(self, experiment_id: str, body: Any = SHOP) -> str | dict[str, str]:
        """What is answered, or the code of the refusal."""
        try:
            return self.control.bind(experiment_id, body)
        except MlflowException as error:
            return str(error.error_code)

    def goes_to(self, experiment_id: str | None, location: str | None) -> tuple[str, str | None]:
        """Where OTLP requests with these headers go."""
        return asyncio.run(self.plane._resolve(experiment_id, location))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    settings = Settings(data=tmp_path_factory.mktemp("parts"))
    prepare_control_database(settings)
    with open_plane(settings) as plane:
        yield Parts(VedetteStore(store_uri(settings), ARTIFACTS_PROXY), plane)


acts = st.lists(st.one_of(st.sampled_from([SHOP, OTHER, BY_DEFAULT]), st.just("trace")), max_size=6)


@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(acts=acts)
def test_a_location_is_chosen_once_before_the_first_trace(
    parts: Parts, acts: list[dict[str, str] | str]
) -> None:
    experiment_id = parts.experiment()
    bound: dict[str, str] | None = None
    traced = False
    for act in acts:
        if isinstance(act, str):
            parts.trace(experiment_id)
            traced = True
            continue
        answer = parts.bind(experiment_id, act)
        if act == bound or (bound is None and (act == BY_DEFAULT or not traced)):
            assert answer == act
            bound = act
        else:
            assert answer == "RESOURCE_CONFLICT"
        held = Location(**dict(zip(Location._fields, (bound or BY_DEFAULT).values(), strict=True)))
        assert parts.plane.locations.of(experiment_id) == held
        assert parts.goes_to(experiment_id, None)[1] == (None if held == DEFAULT else str(held))


def test_the_prefix_is_the_experiments_id_if_none_is_given(parts: Parts) -> None:
    experiment_id = parts.experiment()
    body = {"catalog_name": "Shop", "schema_name": "PROD"}
    told = {"catalog_name": "shop", "schema_name": "prod", "table_prefix": experiment_id}
    assert parts.bind(experiment_id, body) == told


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ([], "an object"),
        ({**SHOP, "lake": "x"}, "an object"),
        ({"schema_name": "x"}, "the catalog None can't be used"),
        ({**SHOP, "schema_name": "a.b"}, r"the schema 'a\.b' can't be used"),
        ({**SHOP, "table_prefix": "../x"}, r"the table prefix '\.\./x' can't be used"),
    ],
)
def test_names_that_can_not_be_used_change_nothing(parts: Parts, body: Any, hint: str) -> None:
    experiment_id = parts.experiment()
    with pytest.raises(MlflowException, match=hint) as refused:
        parts.control.bind(experiment_id, body)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert parts.plane.locations.binding(experiment_id) is None
    assert parts.bind(experiment_id) == SHOP


@pytest.mark.parametrize("experiment_id", ["999", "x", "", "9" * 30, "../1", "-1"])
def test_there_is_no_such_experiment(parts: Parts, experiment_id: str) -> None:
    assert parts.bind(experiment_id) == "RESOURCE_DOES_NOT_EXIST"


def test_refusals_say_where_the_traces_are(parts: Parts) -> None:
    experiment_id = parts.experiment()
    parts.bind(experiment_id)
    with pytest.raises(MlflowException, match=r"its traces in shop\.prod\.agent\. That can't"):
        parts.control.bind(experiment_id, OTHER)
    traced = parts.experiment()
    parts.trace(traced)
    with pytest.raises(MlflowException, match=r"has traces already, in main\.default\.mlflow"):
        parts.control.bind(traced, SHOP)


def test_the_tag_that_says_it_is_nobodys_to_change(parts: Parts) -> None:
    experiment_id = parts.experiment()
    parts.bind(experiment_id)
    tag = ExperimentTag(LOCATION_TAG, Binding(Location("a", "b", "c"), 1).as_json())
    for change in (
        lambda: parts.store.set_experiment_tag(experiment_id, tag),
        lambda: parts.store.delete_experiment_tag(experiment_id, LOCATION_TAG),
        lambda: parts.store.create_experiment(uuid.uuid4().hex, None, [tag]),
    ):
        with pytest.raises(MlflowException, match="is chosen once"):
            change()
    found = parts.store.get_experiment(experiment_id).tags[LOCATION_TAG]
    assert Binding.of(found).location == Location("shop", "prod", "agent")
    parts.store.set_experiment_tag(experiment_id, ExperimentTag("mine", "yes"))


def test_another_servers_binding_is_learned(parts: Parts) -> None:
    """It has the same control database and a data directory of its own."""
    experiment_id = parts.experiment()
    tag = ExperimentTag(LOCATION_TAG, Binding(Location("a", "b", "c"), 1).as_json())
    parts.plane.control.set_experiment_tag(experiment_id, tag)
    assert parts.goes_to(experiment_id, None) == (experiment_id, "a.b.c")
    assert parts.bind(experiment_id) == "RESOURCE_CONFLICT"
    lost = Locations(parts.plane.settings.data / "lost")
    learn_locations(parts.plane.settings, lost)
    assert lost.all() == Locations(parts.plane.settings.lake_state).all()


def test_which_experiment_a_table_in_the_header_stands_for(parts: Parts) -> None:
    place = {**SHOP, "table_prefix": f"t{uuid.uuid4().hex}"}
    name = ".".join(place.values())
    with pytest.raises(RequestRefused, match="no experiment keeps its traces in") as refused:
        parts.goes_to(None, name)
    assert refused.value.status == 404
    first, second = parts.experiment(), parts.experiment()
    parts.bind(second, place)
    assert parts.goes_to(None, name) == (second, name)
    parts.bind(first, place)
    assert parts.goes_to(None, name) == (second, name)  # it was there first, and gets on
    assert parts.goes_to(first, name) == (first, name)
    parts.store.delete_experiment(second)
    assert parts.goes_to(None, name) == (first, name)
    with pytest.raises(RequestRefused, match=f"keeps its traces in {name}, not in main") as refused:
        parts.goes_to(first, "main.default.mlflow")
    assert refused.value.status == 400
    assert parts.goes_to(None, "main.default.mlflow") == ("0", None)
    assert parts.goes_to(None, None) == ("0", None)
    with pytest.raises(RequestRefused, match="there are no such tables") as refused:
        parts.goes_to(None, "a.b")
    assert refused.value.status == 404


def test_what_is_said_of_traces_goes_where_they_are(parts: Parts) -> None:
    """Also in one call for traces of several locations."""
    bound, unbound = parts.experiment(), parts.experiment()
    parts.bind(bound)
    traces = {}
    for experiment_id in (bound, unbound):
        parts.trace(experiment_id)
        traces[experiment_id] = f"tr-{parts._traces:032x}"
    seen: list[tuple[str, str | None, list[str]]] = []
    append = parts.plane.journal.append

    def watched(record: Any) -> Any:
        ids = record.fields.get("trace_ids") or [record.fields["trace_id"]]
        seen.append((record.kind, record.fields.get("location"), ids))
        return append(record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.plane.journal, "append", watched)
        for trace_id in traces.values():
            parts.store.set_trace_tag(trace_id, "k", "v")
            parts.store.delete_trace_tag(trace_id, "k")
        both = [f"trace:/shop.prod.agent/{traces[bound][3:]}", traces[unbound], "tr-not-here"]
        parts.store.link_traces_to_run(both, "run")
        for experiment_id, trace_id in traces.items():
            parts.store.delete_traces(experiment_id, trace_ids=[trace_id])
    shop, rest = "shop.prod.agent", traces[unbound]
    assert seen == [
        *((kind, shop, [traces[bound]]) for kind in ("set_tag", "delete_tag")),
        *((kind, None, [rest]) for kind in ("set_tag", "delete_tag")),
        ("link_run", shop, [traces[bound]]),
        ("link_run", None, [rest, "tr-not-here"]),
        ("delete_traces", shop, [traces[bound]]),
        ("delete_traces", None, [rest]),
    ]
