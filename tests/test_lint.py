"""`vedette lint` finds, in source it never runs, what would go wrong with scorers."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vedette.client.lint import lint

IMPORTS = """\
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Safety, ScorerSamplingConfig, get_scorer, list_scorers, scorer
everything = ScorerSamplingConfig(sample_rate=1.0)
"""
HEAD = IMPORTS.count("\n")


def found(body: str, file: Path = Path("agent.py")) -> list[tuple[int, str]]:
    """(line of the body, code) of each finding."""
    text = IMPORTS + textwrap.dedent(body).lstrip("\n")
    return [(one.line - HEAD, one.code) for one in lint(text, file)]


def test_scorers_that_register_would_refuse() -> None:
    body = """
    import re
    from typing import List
    import mlflow

    LIMIT = 100

    @scorer
    def too_long(outputs):
        return len(re.sub(" ", "", outputs)) > LIMIT

    @mlflow.genai.scorers.scorer(name="typed", aggregations=[LIMIT])
    def typed(outputs: List[str]) -> bool:
        from .judging import judge
        return judge(outputs)

    @scorer
    def fine(outputs, trace: mlflow.entities.Trace):
        import re
        return bool(re.search("a", outputs))

    @scorer
    def limited(outputs, limit=LIMIT):
        return len(outputs) < limit

    def helper(outputs):
        return LIMIT
    """
    assert found(body) == [
        (9, "outside-name"),
        (9, "outside-name"),
        (12, "signature-import"),
        (13, "own-import"),
        (22, "outside-name"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "from re import compile",
        "import numpy as compile",
        "compile = print",
        "sum, compile = 1, 2",
        "def compile(): ...",
    ],
)
def test_a_built_in_that_means_something_else_here(line: str) -> None:
    body = f"""
    {line}

    @scorer
    def matching(outputs):
        return bool(compile("a", "", "eval"))
    """
    assert found(body) == [(5, "outside-name")]


def test_decorators_that_are_not_stored() -> None:
    body = """
    from mlflow.genai import scorer as judge

    @traced
    @scorer(name="length")
    @retry(3)
    def length(outputs):
        return len(outputs)

    @judge
    @cached
    def brief(outputs):
        return len(outputs) < 100
    """
    assert found(body) == [(5, "lost-decorator"), (10, "lost-decorator")]


def test_annotations_that_are_never_looked_up_do_not_count() -> None:
    text = "from __future__ import annotations\n" + IMPORTS
    text += "@scorer\ndef typed(outputs: List[str]) -> Any:\n    return True\n"
    assert lint(text, Path("agent.py")) == []


def test_another_decorator_of_that_name_is_none_of_ours() -> None:
    text = "from sports import scorer\n@scorer\ndef goal(outputs):\n    return LIMIT\n"
    assert lint(text, Path("agent.py")) == []


def test_imports_of_modules_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").touch()
    body = (
        "@scorer\ndef helped(outputs):\n    import helpers, json\n    return helpers.run(outputs)"
    )
    assert found(body, tmp_path / "agent.py") == [(3, "own-import")]


@pytest.mark.parametrize(
    "line",
    [
        "judge.start(sampling_config=everything)",
        "judge.update(sampling_config=everything)",
        "judge.stop()",
        "judge.register(name='x')",
        "self.judge.start(sampling_config=everything)",
        "short.register()",
        "unknown.start(sampling_config=everything)",
    ],
)
def test_dropped_handles(line: str) -> None:
    body = f"""
    judge = Safety().register(name="safety")
    @scorer
    def short(outputs):
        return len(outputs) < 100
    class Monitor:
        def begin(self):
            self.judge = make_judge(name="judge", instructions="...").register()
            {line}
    """
    assert found(body) == [(8, "dropped-handle")]


@pytest.mark.parametrize(
    "line",
    [
        "judge = judge.start(sampling_config=everything)",
        "return judge.start(sampling_config=everything)",
        "started.append(judge.start(sampling_config=everything))",
        "Safety().register(name='safety').start(sampling_config=everything)",
        "get_scorer(name='safety').stop()",
        "thread.start()",
        "atexit.register(stop)",
        "registry.register(judge)",
    ],
)
def test_what_drops_no_handle(line: str) -> None:
    assert found(f"judge = Safety()\ndef begin(started):\n    {line}") == []


@pytest.mark.parametrize(
    "head",
    [
        "@app.post('/chat')\ndef chat(message):",
        "@router.get('/chat')\nasync def chat(message):",
        "@app.route('/chat', methods=['POST'])\ndef chat():",
        "@invoke()\nasync def chat(message):",
        "#\ndef chat(request):",
        "#\nasync def chat(body: fastapi.Request):",
        "#\nasync def handle_message(event):",
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        "enable_trace_archival(delta_table_fullname='a.b.c')",
        "vedette.enable_trace_archival(delta_table_fullname='a.b.c')",
        "judge = Safety().register(name='safety')",
        "judge = get_scorer(name='safety').start(sampling_config=everything)",
    ],
)
def test_set_up_inside_request_handlers(head: str, call: str) -> None:
    assert found(f"{head}\n    if True:\n        {call}\n") == [(4, "in-request-handler")]


def test_set_up_elsewhere_is_fine() -> None:
    body = """
    @asynccontextmanager
    async def lifespan(app):
        judge = Safety().register(name="safety")
        enable_trace_archival(delta_table_fullname="a.b.c")
        yield

    @app.post("/chat")
    def chat(message):
        registry.register(message)
        return worker.start()
    """
    assert found(body) == []


@pytest.mark.parametrize(
    "filter_string",
    [
        "'attributes.timestamp_ms > 1700000000000'",
        "f'attributes.timestamp_ms > 1700000000000 AND tags.team = {team!r}'",
        "'trace.timestamp >= \\'2024-06-01\\''",
        "'tags.a = \\'b\\' AND ' + 'attributes.timestamp < 1700000000'",
        "SINCE",
    ],
)
def test_dates_written_into_filters(filter_string: str) -> None:
    body = f"""
    SINCE = "attributes.timestamp_ms > 1700000000000"
    config = ScorerSamplingConfig(0.5, filter_string={filter_string})
    other = ScorerSamplingConfig(0.5, {filter_string})
    """
    codes = [code for _, code in found(body)]
    assert codes == ["fixed-date"] * (1 if filter_string == "SINCE" else 2)


@pytest.mark.parametrize(
    "call",
    [
        "ScorerSamplingConfig(1.0, \"attributes.status = 'OK' AND tags.team = 'a'\")",
        "ScorerSamplingConfig(1.0, f'attributes.timestamp_ms > {one_day_ago}')",
        "ScorerSamplingConfig(1.0, \"tags.release = '2024-06-01'\")",
        "mlflow.search_traces(filter_string='attributes.timestamp_ms > 1700000000000')",
        "ScorerSamplingConfig(1.0)",
    ],
)
def test_other_filters_are_fine(call: str) -> None:
    assert found(f"config = {call}") == []


def test_what_is_not_python_is_a_finding() -> None:
    assert [one.code for one in lint("def f(:\n", Path("x.py"))] == ["syntax"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vedette", "lint", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_says_where_what_and_what_to_write_instead(tmp_path: Path) -> None:
    bad = f"{IMPORTS}@scorer\ndef long(outputs):\n    return len(outputs) > LIMIT\n"
    bad += "raise SystemExit('it was run')\n"
    (tmp_path / "bad.py").write_text(bad)
    (tmp_path / "good.py").write_text(IMPORTS)

    done = run("bad.py", "good.py", cwd=tmp_path)
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert first.startswith("bad.py:6:27: outside-name: scorer long uses LIMIT, ")
    assert first.endswith("; import or define it inside the function")
    assert last == "1 found in 2 files"

    listed = json.loads(run("bad.py", "--json", cwd=tmp_path).stdout)
    assert [sorted(one) for one in listed] == [["code", "column", "file", "fix", "line", "message"]]
    assert (listed[0]["file"], listed[0]["line"], listed[0]["column"]) == ("bad.py", 6, 27)


def test_nothing_found_is_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(IMPORTS)
    done = run("good.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "0 found in 1 file\n")
    assert json.loads(run("good.py", "--json", cwd=tmp_path).stdout) == []


def test_a_file_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    done = run("gone.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "gone.py" in done.stderr


def test_linting_is_light() -> None:
    code = "import sys, vedette.client.lint; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
