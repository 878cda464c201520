"""The soak's own parts: an aged lake is one that Vedette takes up, and growth is found."""

from __future__ import annotations

import random
from pathlib import Path

from bench.aged import FILES_PER_DAY, age
from bench.soak import LIMITS, Limit, growth, run, soaking, version
from deltalake import DeltaTable

from vedette.lake.location import DEFAULT
from vedette.lake.schemas import SPANS
from vedette.settings import Settings
from vedette.traces.index import TraceIndex

TIMES = [float(second) for second in range(0, 3600, 30)]


def test_noise_is_flat_and_growth_is_not() -> None:
    chance = random.Random(1)
    noisy = [100 + chance.gauss(0, 10) for _ in TIMES]
    limit = Limit(0.25, 5.0)
    assert growth(TIMES, noisy, limit).is_flat
    falling = [v - t / 50 for v, t in zip(noisy, TIMES, strict=True)]
    assert growth(TIMES, falling, limit).is_flat
    rising = [v + t / 50 for v, t in zip(noisy, TIMES, strict=True)]
    assert not growth(TIMES, rising, limit).is_flat
    # What fills up in the first third and then stays
    assert growth(TIMES, [min(t, 1200.0) for t in TIMES], Limit(0.01, 0.0)).is_flat
    found = growth(TIMES, [10 + t / 3600 for t in TIMES], Limit(0.0, 1.0))
    assert found.is_flat
    assert 0.6 < found.rise < 0.7


def test_a_lake_of_many_days_is_taken_up_and_written_to(tmp_path: Path) -> None:
    days = 2
    made = age(tmp_path / "data", days, 10)
    table = DeltaTable(str((tmp_path / "data" / "lake").joinpath(*DEFAULT.table(SPANS.name))))
    assert table.version() == days * 86_400
    assert len(table.file_uris()) == made[SPANS.name] == days * FILES_PER_DAY[SPANS.name]
    with soaking(tmp_path, 10) as server:
        before = version(tmp_path)
        series, refused = run(server, tmp_path, 20, 5.0)
        assert version(tmp_path) - before > 10
    assert refused == 0
    for name in LIMITS:
        assert all(value >= 0 for value in getattr(series, name))
    assert series.active_files[-1] > made[SPANS.name]
    assert min(series.list_ms) > 0
    index = TraceIndex(Settings(data=tmp_path / "data").index_path).connection()
    old = index.execute("SELECT count(*) FROM traces WHERE experiment_id = 0").fetchone()
    assert old == (2 * made[SPANS.name],)
