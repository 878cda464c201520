"""Trace locations: their names, and that an experiment has one for good."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedette.intake.records import Record
from vedette.lake.location import DEFAULT, Location, in_order, location_of, stamp
from vedette.lake.locations import Binding, Locations
from vedette.lake.schemas import SPANS

SHOP = Location("shop", "prod", "agent")
words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(words, words, words)
def test_a_location_is_what_its_text_says(catalog: str, schema: str, prefix: str) -> None:
    location = Location.of(catalog, schema, prefix)
    assert location == (catalog.lower(), schema.lower(), prefix.lower())
    assert Location.parse(str(location)) == location
    assert location_of(Record("spans", 0, stamp(location))) == location


@pytest.mark.parametrize(
    "name", ["", None, 7, "_x", "-x", "a.b", "a/b", "..", "a b", "ä", "x" * 151]
)
@pytest.mark.parametrize("place", range(3))
def test_names_that_can_not_be_used_are_told(name: object, place: int) -> None:
    names: list[object] = ["a", "b", "c"]
    names[place] = name
    with pytest.raises(ValueError, match="can't be used"):
        Location.of(*names)


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "main.default.mlflow_otel_spans.x"])
def test_a_text_that_is_no_location_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"write catalog\.schema\.prefix"):
        Location.parse(text)


def test_tables_are_named_after_their_location() -> None:
    assert SHOP.table(SPANS.name) == ("shop", "prod", "agent_otel_spans")
    assert SPANS.at(SHOP).name == "shop.prod.agent_otel_spans"
    assert SPANS.at(DEFAULT) == SPANS
    assert DEFAULT.table(SPANS.name) == ("main", "default", "mlflow_otel_spans")


def test_what_goes_to_the_location_by_default_is_not_stamped() -> None:
    """So are the records of before there were locations."""
    assert stamp(DEFAULT) == {}
    assert location_of(Record("spans", 0)) == DEFAULT


def test_locations_are_written_in_one_order_the_one_by_default_last() -> None:
    others = [Location("z", "a", "a"), Location("a", "z", "z")]
    assert sorted([DEFAULT, *others], key=in_order) == [others[1], others[0], DEFAULT]


steps = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3"]),
        st.sampled_from([DEFAULT, SHOP, Location("shop", "prod", "other")]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_the_first_binding_holds_for_every_process(steps: list[tuple[str, Location, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        ours, reader = Locations(state), Locations(state)
        expected: dict[str, Binding] = {}
        for at, (experiment_id, location, restart) in enumerate(steps):
            binding = Binding(location, at)
            held = expected.setdefault(experiment_id, binding)
            assert ours.note(experiment_id, binding) == held
            for one in (ours, reader, Locations(state)):
                assert one.of(experiment_id) == held.location
            if restart:
                ours = Locations(state)
        for one in (ours, reader, Locations(state)):
            assert list(one.all().items()) == list(expected.items())  # in the order of binding
            known = {DEFAULT, *(binding.location for binding in expected.values())}
            assert one.places() == sorted(known, key=in_order)


def test_of_bindings_at_the_same_time_one_holds(tmp_path: Path) -> None:
    bindings = [Binding(Location("shop", "prod", f"p{number}"), number) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        held = set(threads.map(lambda one: Locations(tmp_path).note("7", one), bindings))
    assert len(held) == 1
    assert held <= set(bindings)
    assert [path.name for path in (tmp_path / "locations").iterdir()] == ["7"]


def _note(state: Path, number: int) -> None:
    Locations(state).note("7", Binding(Location("shop", "prod", f"p{number}"), number))


def test_a_binding_is_whole_or_not_there(tmp_path: Path) -> None:
    """Whoever is killed while it is noted."""
    context = multiprocessing.get_context("spawn")
    for number in range(4):
        process = context.Process(target=_note, args=(tmp_path, number))
        process.start()
        process.join(0.05 * number)
        process.kill()
        process.join()
        assert Locations(tmp_path).of("7") in [
            DEFAULT,
            *(Location("shop", "prod", f"p{one}") for one in range(number + 1)),
        ]
    held = Locations(tmp_path).note("7", Binding(SHOP, 9))
    assert Locations(tmp_path).binding("7") == held


@pytest.mark.parametrize("name", ["..", "../1", "a", "", "1" * 20, ".1"])
def test_no_experiment_of_such_a_name_is_looked_for(tmp_path: Path, name: str) -> None:
    assert Locations(tmp_path / "state").of(name) == DEFAULT
