"""What README and docs/ say works: their code runs, their commands, settings and links exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
from mlflow.genai.scorers import get_scorer, list_scorers

from running import RunningVedette
from vedette.manifest.document import read_manifest
from vedette.scoring.price_table import read_prices
from vedette.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = ROOT / "examples" / "README.md"
NOT_RUN = {"mermaid", "text"}  # pictures
AWS_VARIABLES = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
T0 = 1_764_000_000 * 10**9


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str | None = None) -> Iterator[tuple[str, str]]:
    """(language, text) of the page's code blocks."""
    for found, text in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        if language in (None, found):
            yield found, text


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block; one may span lines within quotes."""
    command = ""
    for line in text.splitlines():
        command += f"{line}\n"
        try:
            shlex.split(command)
        except ValueError:
            continue
        if command.strip():
            yield command.strip()
        command = ""
    assert not command, f"unfinished: {command}"


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


def run_python(page: Path, vedette: RunningVedette, directory: Path) -> str:
    """Run the page's Python, top to bottom, against the running Vedette; returns its output."""
    script = "\n\n".join(text for _, text in blocks(page, "python"))
    for written, here in (
        ("http://127.0.0.1:5000", vedette.url),
        ("vedette-data/", f"{vedette.data}/"),
        ("time.sleep(15)", "time.sleep(20)"),  # the machine may be busy
    ):
        script = script.replace(written, here)
    if page.name == "judges.md":  # it has no key, and /health would say so to the other tests
        script += (
            "\n\nfrom mlflow.genai.scorers import get_scorer\nget_scorer(name='helpful').stop()"
        )
    file = directory / f"{page.stem}.py"
    hanging = "import faulthandler\nfaulthandler.dump_traceback_later(150, exit=True)\n"
    file.write_text(hanging + script)
    done = subprocess.run(
        [sys.executable, file],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{vedette.log.read_text()}"
    return done.stdout


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_the_python_of_a_page_runs(page: Path, vedette: RunningVedette, tmp_path: Path) -> None:
    if page.name == "read-tables.md":  # needs a trace and a score in the lake
        run_python(ROOT / "README.md", vedette, tmp_path)
        send_what_readers_must_mind(vedette)
        vedette.wait_until(lambda: vedette.health()["journal"]["backlog_bytes"] == 0)
    output = run_python(page, vedette, tmp_path)
    if page.name == "README.md":
        assert "cites_source" in output
        assert "value=True" in output
    if page.name == "read-tables.md":
        assert "answer" in output
        assert "cites_source" in output
        assert re.search(r"sent_again +│ +60 │ +500.0 │", output)
        assert "very late" in output
        assert re.search(r"queue_length +│ +│ +4.0 │", output)
        assert re.search(r"half_failed +│ +1 │ +1.0 │ +1 │", output)


def send_what_readers_must_mind(vedette: RunningVedette) -> None:
    """Spans that are sent again with another end, and a scorer of whose two calls one failed."""
    trace_id = uuid.uuid4().hex
    for nanoseconds in (900_000_000, 500_000_000):
        spans = [
            {
                "traceId": trace_id,
                "spanId": f"{number + 1:016x}",
                "name": "sent_again",
                "kind": 1,
                "startTimeUnixNano": str(T0),
                "endTimeUnixNano": str(T0 + nanoseconds),
            }
            for number in range(60)  # more than of any other name: the page shows the top ten
        ]
        post(vedette, "/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    late = {"timeUnixNano": str(T0), "severityNumber": 13, "body": {"stringValue": "very late"}}
    post(vedette, "/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [late]}]}]})
    queue = {"name": "queue_length", "gauge": {"dataPoints": [{"timeUnixNano": "1", "asInt": 4}]}}
    post(vedette, "/v1/metrics", {"resourceMetrics": [{"scopeMetrics": [{"metrics": [queue]}]}]})
    for feedback in ({"value": True}, {"error": {"error_code": "TIMEOUT"}}):
        assessment = {
            "assessment_name": "half_failed",
            "feedback": feedback,
            "source": {"source_type": "CODE", "source_id": "half_failed"},
        }
        path = f"/api/3.0/mlflow/traces/tr-{trace_id}/assessments"
        post(vedette, path, {"assessment": assessment})


def post(vedette: RunningVedette, path: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(vedette.url + path, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.parametrize("page", pages_with("bash"), ids=name_of)
def test_the_commands_of_a_page_work(page: Path, vedette: RunningVedette, tmp_path: Path) -> None:
    for _, manifest in [*blocks(page, "yaml")][:1]:  # the others are only read
        (tmp_path / "vedette.yaml").write_text(manifest)
    for _, text in blocks(page, "bash"):
        for command in commands(text):
            check_command(command.replace("http://127.0.0.1:5000", vedette.url), vedette, tmp_path)
    if page.name == "manifest.md":  # its judges have no key, and /health would say so to the others
        stop_scorers(vedette, "support-desk")


def stop_scorers(vedette: RunningVedette, experiment: str) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(vedette.url)
    experiment_id = mlflow.get_experiment_by_name(experiment).experiment_id
    for one in list_scorers(experiment_id=experiment_id):
        get_scorer(name=one.name, experiment_id=experiment_id).stop()
    mlflow.set_tracking_uri(before)


def check_command(command: str, vedette: RunningVedette, directory: Path) -> None:
    words = shlex.split(command)
    assignments = [word for word in words if re.match(r"[A-Z_]+=", word)]
    name = next(word for word in words if word not in assignments)
    if name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets
    elif name == "export":
        for assignment in assignments:
            require_known_variable(assignment.split("=")[0])
    elif name == "vedette":
        # up, server and engine run until they are stopped; `config` takes the same flags
        asked = re.sub(r"vedette (up|server|engine)", "vedette config", command)
        run_shell(asked, vedette, directory if "vedette.yaml" in os.listdir(directory) else None)
    elif name == "curl":
        if shutil.which("curl"):
            run_shell(command.replace("curl ", "curl --fail ", 1), vedette)
    else:
        assert command == "pip install .", f"say in this test how to check: {command}"


def run_shell(command: str, vedette: RunningVedette, directory: Path | None = None) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VEDETTE_URL": vedette.url}
    done = subprocess.run(
        command,
        shell=True,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def require_known_variable(name: str) -> None:
    if name.startswith("VEDETTE_"):
        assert name.removeprefix("VEDETTE_").lower() in Settings.model_fields
    elif name.startswith("OTEL_"):
        assert hasattr(opentelemetry.sdk.environment_variables, name)
    elif name.startswith("AWS_"):
        assert name in AWS_VARIABLES
    else:
        assert hasattr(mlflow.environment_variables, name)


@pytest.mark.parametrize("page", pages_with("toml"), ids=name_of)
def test_the_settings_of_a_page_are_accepted(page: Path, tmp_path: Path) -> None:
    for _, text in blocks(page, "toml"):
        (tmp_path / "vedette.toml").write_text(text)
        load_settings({}, tmp_path / "vedette.toml")


@pytest.mark.parametrize("page", pages_with("json"), ids=name_of)
def test_the_prices_of_a_page_are_accepted(page: Path, tmp_path: Path) -> None:
    for _, text in blocks(page, "json"):
        (tmp_path / "prices.json").write_text(text)
        assert read_prices(tmp_path / "prices.json")


@pytest.mark.parametrize("page", pages_with("yaml"), ids=name_of)
def test_the_manifests_of_a_page_are_read(page: Path) -> None:
    for _, text in blocks(page, "yaml"):
        filled = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "https://example.org/hook")
        assert read_manifest(text, environment=filled).experiments


def test_every_block_is_checked_somehow() -> None:
    known = {"python", "bash", "toml", "json", "yaml"} | NOT_RUN
    unknown = [(name_of(p), lang) for p in PAGES for lang, _ in blocks(p) if lang not in known]
    assert unknown == []


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "run.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", [*PAGES, EXAMPLES], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
