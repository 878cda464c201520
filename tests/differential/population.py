"""A population of traces that searches and metrics run over: many short histories."""

from __future__ import annotations

from histories import Action, World, histories
from hypothesis import HealthCheck, Phase, given, seed, settings
from pair import Pair

_WORLDS = 10  # of four traces each


def populate(pair: Pair) -> list[str]:
    """The same traces in two new experiments of both stores; returns the experiments' ids."""
    experiments = [pair.experiment(), pair.experiment()]
    worlds = iter(range(int(experiments[0]) * 1000, 10**9))

    @seed(20261122)
    @settings(
        max_examples=_WORLDS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories(min_size=8, max_size=16))
    def happen(history: list[Action]) -> None:
        world = World(pair, experiments, next(worlds))
        for action in history:
            action.act(world)

    happen()
    return experiments
