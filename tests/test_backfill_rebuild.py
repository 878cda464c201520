"""A backfill goes on where it was when the read model is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from backfill_support import backfill, finish
from scoring_support import trace_number
from test_rebuild_scoring import ALL, SLOW, Site, u
from vedette.intake.records import Record
from vedette.scoring.backfill_progress import backfill_progress
from vedette.scoring.backfills import Backfill, stored_backfills
from vedette.scoring.epochs import stored_epochs


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.kill()


def ask(site: Site, rate: float, body: str = SLOW) -> Backfill:
    site.plane.register(site.experiment, "probe", body)
    site.arrive(*range(1, 201))
    site.settle()
    return backfill(site.plane, ("probe", rate), experiment=site.experiment)


def stream(site: Site, job: Backfill) -> str:
    return f"{site.experiment}:{job.job}"


@pytest.mark.parametrize("committed", [0, 1, ALL], ids=["journals", "both", "lake"])
def test_each_unit_is_decided_once(site: Site, committed: int) -> None:
    job = ask(site, 0.7)
    where = stream(site, job)
    site.work(lambda: site.plane.counts(where, "probe").get("scored", 0) >= 1)
    site.lose(committed)
    assert stored_backfills(site.plane.index) == [job]
    finish(site.plane, job)
    chosen = [number for number in range(1, 201) if u(number) < 0.7]
    assert site.scored("probe") == chosen
    assert site.plane.counts(where, "probe") == {
        "scored": len(chosen),
        "not_selected": 200 - len(chosen),
    }
    written = [
        trace_number(row["unit_id"])
        for record in site.records.values()
        if record.fields.get("scorer") == job.stream(job.scorers[0]).key
        for row in record.fields["decisions"]
    ]
    assert len(set(written)) == len(written)


def test_one_that_has_ended_is_not_begun_again(site: Site) -> None:
    job = ask(site, 0.5)
    finish(site.plane, job)
    before = backfill_progress(site.plane.index, job, stored_epochs(site.plane.index), {})
    site.lose()
    site.settle()
    after = backfill_progress(site.plane.index, job, stored_epochs(site.plane.index), {})
    assert after["state"] == before["state"] == "done"
    assert after["scorers"][0]["decisions"] == before["scorers"][0]["decisions"]


def test_one_that_was_cancelled_stays_so(site: Site) -> None:
    job = ask(site, 1.0, "import time; time.sleep(0.1); return 1")
    where = stream(site, job)
    site.work(lambda: site.plane.counts(where, "probe").get("scored", 0) >= 1)
    cancelled = {**job.row(), "cancelled_ms": 1}
    site.plane.arrive(Record("backfill", job.created_ms + 1, cancelled))
    site.lose()
    finish(site.plane, job)
    found = site.plane.counts(where, "probe")
    assert found["stopped"] > 0
    assert sum(found.values()) == 200


def test_the_ledger_tells_a_backfill_from_live_scoring(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    job = ask(site, 0.5)
    finish(site.plane, job)
    site.kill()
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    table = DeltaTable(site.lake.decisions.storage.uri).to_pyarrow_table()
    rows = table.select(["decision", "origin", "scorer", "experiment_id", "units"]).to_pylist()
    assert {row["origin"] for row in rows} == {f"backfill:{job.job}"}
    assert {row["experiment_id"] for row in rows} == {site.experiment}
    assert {row["decision"] for row in rows} == {"backfill", "epoch", "not_selected", "scored"}
    assert {row["scorer"] for row in rows if row["decision"] != "backfill"} == {"probe"}
    assert sum(row["units"] for row in rows) == 200
