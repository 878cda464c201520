"""A manifest applied to a running server, and what MLflow's own client finds there then."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pyarrow as pa
import pytest
from click.testing import Result
from deltalake import write_deltalake
from mlflow.genai.scorers import get_scorer, list_scorers, scorer
from typer.testing import CliRunner

from running import RunningVedette
from vedette.cli import app

ID = {
    "liveness": "liveness_zero_traces_15m",
    "drift": "doc_citation_drift_neg_0_05_6h",
    "below": "doc_citation_below_0_80_24h",
}


@scorer
def brief(outputs) -> bool:
    return len(str(outputs)) < 100


class Manifest:
    """A file, and the command line with it."""

    def __init__(self, vedette: RunningVedette, directory: Path) -> None:
        self.name = f"shop-{uuid.uuid4().hex[:8]}"
        self.file = directory / "vedette.yaml"
        self._vedette = vedette

    def write(self, text: str) -> None:
        self.file.write_text(f"experiment: {self.name}\n{text}")

    def run(self, *arguments: str) -> Result:
        with contextlib.chdir(self.file.parent):
            return CliRunner().invoke(app, [*arguments, "--url", self._vedette.url])

    def apply(self, *arguments: str) -> list[str]:
        done = self.run("apply", *arguments)
        assert done.exit_code == 0, done.stderr
        return done.stdout.splitlines()

    def refused(self, command: str = "apply") -> str:
        done = self.run(command)
        assert done.exit_code == 1, done.stdout
        assert "nothing was changed" in done.stderr
        return done.stderr

    def scorers(self) -> dict[str, tuple[int, float, str | None]]:
        """What the stock client finds: versions, rates, filters."""
        experiment = mlflow.get_experiment_by_name(self.name)
        return {
            one.name: (one.scorer_version, one.sample_rate, one.filter_string)
            for one in list_scorers(experiment_id=experiment.experiment_id)
        }

    def alerts(self) -> dict[str, dict]:
        listed = self.run("alerts", "list", "--experiment", self.name, "--json")
        return {one["name"]: one for one in json.loads(listed.stdout)}


@pytest.fixture
def manifest(vedette: RunningVedette, tmp_path: Path) -> Iterator[Manifest]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    manifest = Manifest(vedette, tmp_path)
    yield manifest
    experiment = mlflow.get_experiment_by_name(manifest.name)
    if experiment is not None:  # judges without a key: /health would say so to the other tests
        for one in list_scorers(experiment_id=experiment.experiment_id):
            if one.sample_rate:
                get_scorer(name=one.name, experiment_id=experiment.experiment_id).stop()
    mlflow.set_tracking_uri(before)


WHOLE = """
judge_model: openai:/gpt-4.1-mini
notify: ["https://example.org/T0KEN"]
scorers:
  - name: doc_citation
    guidelines: Cite the source title.
    sampling: 0.5
    filter: attributes.status = 'OK'
    threshold: 0.8
    budget: {calls_per_minute: 60}
  - {name: no_pii, question: "Does the response avoid PII?"}
archival: {table: main.shop.TABLE}
alerts: [liveness_zero_traces_15m, doc_citation_drift_neg_0_05_6h]
"""


def test_what_is_declared_is_made_and_doing_it_again_changes_nothing(manifest: Manifest) -> None:
    text = WHOLE.replace("TABLE", f"t{uuid.uuid4().hex[:8]}")
    manifest.write(text)
    planned = manifest.run("plan").stdout.splitlines()
    assert mlflow.get_experiment_by_name(manifest.name) is None
    done = manifest.apply()
    assert done == planned
    assert done[0] == f"+ {manifest.name}: the experiment"
    assert f"+ {manifest.name}: sampling of doc_citation: 0 -> 0.5, filter none ->" in done[4]
    assert manifest.scorers() == {
        "doc_citation": (1, 0.5, "attributes.status = 'OK'"),
        "no_pii": (1, 0.0, None),
    }
    assert set(manifest.alerts()) == set(ID.values())
    assert manifest.alerts()[ID["below"]]["notify"] == ["https://example.org/..."]
    assert manifest.apply() == ["All is as the manifest says."]
    assert manifest.run("diff").exit_code == 0

    changed = text.replace("source title", "title").replace("0.5", "0.2").replace("60", "30")
    manifest.write(changed.replace("T0KEN", "0THER"))
    different = manifest.run("diff")
    assert different.exit_code == 1
    assert manifest.apply() == different.stdout.splitlines()
    assert manifest.scorers()["doc_citation"] == (2, 0.2, "attributes.status = 'OK'")
    assert manifest.apply() == ["All is as the manifest says."]

    # What is exported is what there is; channels aren't told, and stay
    exported = manifest.run("export", "--experiment", manifest.name).stdout
    assert "0THER" not in exported
    manifest.file.write_text(exported)
    assert manifest.apply("--prune") == ["All is as the manifest says."]


def test_removal_only_with_prune(manifest: Manifest) -> None:
    manifest.write(WHOLE.replace("TABLE", f"t{uuid.uuid4().hex[:8]}"))
    manifest.apply()
    manifest.write("scorers: [{name: doc_citation}]\nalerts: [liveness_zero_traces_15m]")
    assert manifest.apply() == ["All is as the manifest says."]
    assert len(manifest.scorers()) == 2
    removed = manifest.apply("--prune")
    assert [line.split(": ")[1] for line in removed] == [
        f"alert {ID['below']}",
        f"alert {ID['drift']}",
        "budget of doc_citation",
        "scorer no_pii",
        "archival",
    ]
    assert manifest.scorers() == {"doc_citation": (1, 0.5, "attributes.status = 'OK'")}
    assert set(manifest.alerts()) == {ID["liveness"]}
    assert manifest.apply("--prune") == ["All is as the manifest says."]


def test_scorers_of_python_are_named_and_sampled(manifest: Manifest) -> None:
    experiment = mlflow.create_experiment(manifest.name)
    brief.register(name="brief", experiment_id=experiment)
    manifest.write(
        "scorers:\n- name: breif\n  sampling: 1\n- name: brief\n  budget: {calls_per_minute: 1}\n"
        "alerts:\n- bref_below_0_80_24h"
    )
    told = manifest.refused()
    assert "vedette.yaml:3: no scorer breif is registered" in told
    assert "did you mean brief?" in told
    assert "vedette.yaml:5: brief asks no model" in told
    assert "vedette.yaml:8: bref_below_0_80_24h: no scorer 'bref' is registered" in told
    manifest.write("scorers: [{name: brief, sampling: 0.5, threshold: 0.9}]")
    manifest.apply()
    assert manifest.scorers() == {"brief": (1, 0.5, None)}
    assert set(manifest.alerts()) == {"brief_below_0_90_24h"}
    exported = manifest.run("export", "--experiment", manifest.name).stdout
    assert "name: brief\n  sampling: 0.5" in exported
    assert manifest.run("init", "--experiment", manifest.name).exit_code == 2  # it is there


def test_nothing_is_applied_of_a_manifest_that_does_not_fit(manifest: Manifest) -> None:
    scorers = ", ".join(f"{{name: s{n}, guidelines: Be kind., sampling: 1}}" for n in range(21))
    manifest.write(f"scorers: [{scorers}]\nalerts: [other_below_0_80_24h]")
    told = manifest.refused()
    assert "21 started scorers; 20 are the most" in told
    assert "vedette.yaml:3: other_below_0_80_24h: no scorer 'other'" in told
    assert mlflow.get_experiment_by_name(manifest.name) is None
    manifest.write("scorers: [{name: a, sampling: 2}]")
    assert "vedette.yaml:2: sampling must be between 0 and 1, not 2" in manifest.refused("plan")


def test_what_failed_in_the_middle_is_said_and_completed_by_the_next(
    manifest: Manifest, vedette: RunningVedette
) -> None:
    table = f"t{uuid.uuid4().hex[:8]}"
    place = vedette.data / "lake" / "main" / "shop" / table
    write_deltalake(str(place), pa.table({"something": ["else"]}))  # no archive can be that
    manifest.write(WHOLE.replace("TABLE", table))
    failed = manifest.run("apply")
    assert failed.exit_code == 1
    assert re.search(r"archival: in main\.shop.*\nfailed: ", failed.stderr)
    assert "5 of 9 steps are done; apply again for the 4" in failed.stderr
    assert manifest.alerts() == {}
    shutil.rmtree(place)
    assert [line.split(": ")[1] for line in manifest.apply()] == [
        "archival",
        f"alert {ID['liveness']}",
        f"alert {ID['drift']}",
        f"alert {ID['below']}",
    ]
    assert manifest.apply() == ["All is as the manifest says."]


def test_several_experiments_in_one_file(manifest: Manifest) -> None:
    other = f"{manifest.name}-other"
    manifest.file.write_text(
        f"experiments:\n- {{experiment: {manifest.name}, alerts: [liveness_zero_traces_15m]}}\n"
        f"- {{experiment: {other}, scorers: [{{name: kind, guidelines: [Be kind., Be short.]}}]}}\n"
    )
    assert manifest.apply() == [
        f"+ {manifest.name}: the experiment",
        f"+ {manifest.name}: alert liveness_zero_traces_15m",
        f"+ {other}: the experiment",
        f"+ {other}: scorer kind: Guidelines judge",
    ]
    assert manifest.apply("--prune") == ["All is as the manifest says."]


def test_targets_and_servers(manifest: Manifest, vedette: RunningVedette) -> None:
    manifest.write(f"targets: {{dev: {{url: '{vedette.url}', name_prefix: dev-}}, prod: {{}}}}")
    without = [sys.executable, "-m", "vedette", "apply", "-t"]
    done = subprocess.run(
        [*without, "dev"], capture_output=True, text=True, check=False, cwd=manifest.file.parent
    )
    assert done.stdout == f"+ dev-{manifest.name}: the experiment\n", done.stderr
    ambiguous = manifest.run("plan")
    assert (ambiguous.exit_code, "which target" in ambiguous.stderr) == (2, True)
    with contextlib.chdir(manifest.file.parent):
        away = CliRunner().invoke(app, ["plan", "-t", "prod", "--url", "http://127.0.0.1:9"])
    assert away.exit_code == 3
