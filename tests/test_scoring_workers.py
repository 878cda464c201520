"""Scorers run in processes of their own; whatever one does, the others don't mind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from scoring_support import code, unit
from vedette.scoring.active import ActiveScorer
from vedette.scoring.answers import BadAnswer, checked_rows
from vedette.scoring.inputs import read_payload
from vedette.scoring.orders import ENGINE_GONE
from vedette.scoring.outcomes import Outcome
from vedette.scoring.pool import WorkerPool, WorkersUnavailable
from vedette.scoring.sandbox import Sandbox, missing_for_isolation
from vedette.traces.assessments import assessment_entity

HEALTHY = code("return inputs", name="healthy")


def values(outcomes: list[Outcome]) -> list[Any]:
    return [json.loads(outcome.rows[0]["value"]) for outcome in outcomes]


def error_of(outcome: Outcome) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(outcome.rows[0]["error"] or "{}")
    return error


@pytest.fixture(scope="module", params=["process", "container"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "container" and (missing := missing_for_isolation()):
        pytest.skip(missing)
    return Sandbox(request.param)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Iterator[WorkerPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_API_KEY", "hunter2")
        pool = WorkerPool(tmp_path_factory.mktemp("workers"), sandbox, per_scorer=2, timeout=60.0)
        # The first worker waits for the import of MLflow
        pool.submit(HEALTHY, [unit(0)]).result(120)
        yield pool
    pool.close()


def test_what_is_cancelled_before_its_turn_is_not_run(pool: WorkerPool) -> None:
    sleeper = code("import time\ntime.sleep(inputs)\nreturn inputs", name="sleeper")
    running = [pool.submit(sleeper, [unit(1)]) for _ in range(2)]
    waiting = [pool.submit(sleeper, [unit(50)]) for _ in range(2)]
    last = pool.submit(sleeper, [unit(0)])

    assert all(future.cancel() for future in waiting)
    assert values(last.result(30)) == [0]
    assert [values(future.result(30)) for future in running] == [[1], [1]]


def run(pool: WorkerPool, scorer: ActiveScorer, *numbers: int) -> list[Outcome]:
    """All outcomes: what comes after an accident is submitted again."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(numbers):
        units = [unit(number) for number in numbers[len(outcomes) :]]
        outcomes += pool.submit(scorer, units).result(60)
    return outcomes


def test_the_test_trace_is_one() -> None:
    trace = read_payload(unit(7).payload)
    assert trace.data.spans[0].inputs == 7


def test_a_batch_comes_back_in_order(pool: WorkerPool) -> None:
    outcomes = run(pool, HEALTHY, *range(32))

    assert values(outcomes) == list(range(32))
    assert [outcome.unit_id for outcome in outcomes] == [unit(n).unit_id for n in range(32)]


@pytest.mark.parametrize(
    ("body", "error_code", "message"),
    [
        ("raise ValueError('no good')", "SCORER_ERROR", "no good"),
        ("import sys\nsys.exit(3)", "SCORER_ERROR", "3"),
        ("raise KeyboardInterrupt", "SCORER_ERROR", "KeyboardInterrupt"),
        ("def again(): again()\nagain()", "SCORER_ERROR", "recursion"),
        ("return 'x' * 3_000_000", "SCORER_ERROR", "3,000,"),
        ("return Feedback(value=1, metadata={'k': 'x' * 3_000_000})", "SCORER_ERROR", "3,000,"),
        ("return 'x' * 5_000_000_000", "SCORER_ERROR", "MemoryError"),
        ("return Feedback(value=object())", "SCORER_ERROR", "object"),
        ("return (", "SCORER_NOT_LOADED", "never closed"),
        ("import os\nos._exit(3)", "SCORER_CRASHED", "exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "SCORER_CRASHED", "SIGSEGV"),
        (
            "import resource\n_, hard = resource.getrlimit(resource.RLIMIT_CPU)\n"
            "resource.setrlimit(resource.RLIMIT_CPU, (1, hard))\nwhile True: pass",
            "SCORER_CRASHED",
            "its limit of processor time",
        ),
        ("import os\nos.closerange(3, 256)", "SCORER_CRASHED", "exit code 1"),
        (
            "import os, socket, stat\nfor fd in range(3, 256):\n    try:\n"
            "        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, b'garbage' * 99)\n"
            "    except OSError: pass",
            "SCORER_CRASHED",
            "disturbed",
        ),
    ],
)
def test_an_accident_is_charged_to_the_trace_at_hand_alone(
    pool: WorkerPool, body: str, error_code: str, message: str
) -> None:
    at_hand = "\n".join(f"    {line}" for line in body.splitlines())
    scorer = code(f"if inputs == 2:\n{at_hand}\nreturn inputs", name="hostile")
    if error_code == "SCORER_NOT_LOADED":
        scorer = code(body, name="hostile")

    outcomes = run(pool, scorer, 0, 1, 2, 3, 4)

    assert error_of(outcomes[2])["error_code"] == error_code
    assert message in error_of(outcomes[2])["error_message"]
    assert outcomes[2].rows[0]["name"] == "hostile"
    if error_code != "SCORER_NOT_LOADED":
        assert values(outcomes) == [0, 1, None, 3, 4]


@pytest.mark.parametrize(
    "body",
    [
        "import time\ntime.sleep(100)",
        "while True: pass",
        "import signal, time\nfor number in (2, 15): signal.signal(number, signal.SIG_IGN)\n"
        "time.sleep(100)",
        "import os, time\nos.fork()\ntime.sleep(100)",
    ],
)
def test_a_hang_is_ended_at_the_time_limit(pool: WorkerPool, body: str) -> None:
    at_hand = "\n".join(f"    {line}" for line in body.splitlines())
    scorer = code(f"if inputs == 1:\n{at_hand}\nreturn inputs", name="hanging", timeout=0.5)

    start = time.monotonic()
    outcomes = run(pool, scorer, 0, 1, 2)

    assert time.monotonic() - start < 10
    assert values(outcomes) == [0, None, 2]
    assert error_of(outcomes[1])["error_code"] == "SCORER_TIMEOUT"
    assert "0.5 seconds" in error_of(outcomes[1])["error_message"]


def test_a_scorer_that_hangs_does_not_hold_up_another(pool: WorkerPool) -> None:
    hanging = code("import time\ntime.sleep(100)", name="hangs", timeout=5)
    stuck: list[Future[list[Outcome]]] = [pool.submit(hanging, [unit(n)]) for n in range(4)]

    assert values(run(pool, HEALTHY, 1, 2, 3)) == [1, 2, 3]
    assert not any(future.done() for future in stuck)


def test_a_scorer_that_hangs_is_not_asked_about_the_next_trace(pool: WorkerPool) -> None:
    hanging = code("import time\ntime.sleep(100)", name="hangs", timeout=0.5)

    outcomes = pool.submit(hanging, [unit(number) for number in range(32)]).result(20)

    assert [outcome.unit_id for outcome in outcomes] == [unit(0).unit_id]
    assert error_of(outcomes[0])["error_code"] == "SCORER_TIMEOUT"


def test_what_no_worker_has_begun_with_can_be_taken_back(pool: WorkerPool) -> None:
    hanging = code("import time\ntime.sleep(100)", name="hangs", timeout=2)
    futures = [pool.submit(hanging, [unit(number)]) for number in range(6)]
    deadline = time.monotonic() + 20
    while not futures[1].running():
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert [future.cancel() for future in futures] == [False] * 2 + [True] * 4
    for future in futures[:2]:
        assert error_of(future.result(20)[0])["error_code"] == "SCORER_TIMEOUT"
    assert values(run(pool, HEALTHY, 1, 2, 3)) == [1, 2, 3]


def test_what_a_scorer_prints_disturbs_nothing(pool: WorkerPool) -> None:
    chatty = code(
        "import os, sys\nprint('x' * 1_000_000)\nsys.stderr.write('y' * 1_000_000)\n"
        "os.write(1, b'z' * 1_000_000)\nos.system('echo from a child')\nreturn inputs",
        name="chatty",
    )

    assert values(run(pool, chatty, 1, 2, 3)) == [1, 2, 3]


def test_what_a_scorer_does_to_its_process_meets_no_other(pool: WorkerPool) -> None:
    vandal = code(
        "import json, builtins\njson.loads = json.dumps = None\nbuiltins.len = None\nreturn 1",
        name="vandal",
    )
    run(pool, vandal, 1, 2, 3)

    assert values(run(pool, HEALTHY, 4, 5)) == [4, 5]


def test_a_worker_has_no_secrets_and_is_no_server(pool: WorkerPool) -> None:
    curious = code(
        "import json, os, sys, resource\nreturn json.dumps([dict(os.environ),"
        " [name for name in sys.modules if name.startswith('mlflow.server')],"
        " resource.getrlimit(resource.RLIMIT_CORE), os.getcwd(), os.getpgid(0) == os.getpid()])",
        name="curious",
    )

    environment, server, core, directory, leads = json.loads(values(run(pool, curious, 1))[0])

    assert "SECRET_API_KEY" not in environment
    assert not [name for name in environment if "KEY" in name or "TOKEN" in name]
    assert server == []
    assert core == [0, 0]
    assert Path(directory) != Path.cwd()
    assert leads


def test_a_worker_killed_by_others_costs_nothing(pool: WorkerPool, sandbox: Sandbox) -> None:
    slow = code("import time\ntime.sleep(0.02)\nreturn inputs", name="slow")
    future = pool.submit(slow, [unit(n) for n in range(32)])
    for _ in range(2):  # a third time would be laid to the charge of the trace at hand
        time.sleep(0.15)
        [starter] = _forking_processes()
        for worker in _workers(starter, sandbox):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGKILL)

    assert values(future.result(60)) == list(range(32))


def test_the_death_of_the_forking_process_is_an_event_not_an_incident(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    pool = WorkerPool(tmp_path, sandbox)
    try:
        before = set(_forking_processes())
        assert values(run(pool, HEALTHY, 1)) == [1]
        [forks] = set(_forking_processes()) - before
        workers = _workers(forks, sandbox)
        forks.kill()
        psutil.wait_procs(workers, timeout=10)

        deadline = time.monotonic() + 60
        while True:
            try:
                assert values(run(pool, HEALTHY, 2)) == [2]
                break
            except WorkersUnavailable:  # for as long as it backs off
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        pool.close()

    assert not [worker for worker in workers if worker.is_running()]


def test_closing_leaves_no_process_behind(tmp_path: Path, sandbox: Sandbox) -> None:
    pool = WorkerPool(tmp_path, sandbox)
    before = set(_forking_processes())
    run(pool, HEALTHY, 1)
    [forks] = set(_forking_processes()) - before
    processes = [forks, *forks.children(recursive=True)]
    stuck = pool.submit(code("import time\ntime.sleep(100)", name="stuck"), [unit(1)])

    start = time.monotonic()
    pool.close()

    assert time.monotonic() - start < 5
    assert isinstance(stuck.exception(5), WorkersUnavailable)
    gone, alive = psutil.wait_procs(processes, timeout=5)
    assert (len(gone), alive) == (len(processes), [])


# An engine whose workers never rest, until it is killed
ENGINE = """
import sys
from pathlib import Path
from scoring_support import code, unit
from vedette.scoring.pool import WorkerPool
from vedette.scoring.sandbox import choose_sandbox
pool = WorkerPool(Path(sys.argv[1]), choose_sandbox(None, ()), timeout=60.0)
scorer = code("return inputs", name="healthy")
while True:
    for batch in [pool.submit(scorer, [unit(n) for n in range(8)]) for _ in range(4)]:
        batch.result(120)
    print("scored", flush=True)
"""


@pytest.mark.parametrize("batches", [0, 5])
def test_what_a_killed_engine_leaves_ends_without_a_traceback(tmp_path: Path, batches: int) -> None:
    errors = tmp_path / "stderr"
    with errors.open("wb") as stderr:
        engine = subprocess.Popen(
            [sys.executable, "-c", ENGINE, tmp_path / "workers"],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert engine.stdout is not None
    while not _forking_processes(engine.pid):
        assert engine.poll() is None
        time.sleep(0.05)
    for _ in range(batches):
        assert engine.stdout.readline() == b"scored\n"
    family = psutil.Process(engine.pid).children(recursive=True)
    engine.kill()
    engine.wait()
    engine.stdout.close()

    _, orphans = psutil.wait_procs(family, timeout=60)
    assert orphans == []
    assert errors.read_bytes() == b""


@pytest.mark.parametrize("ready", [False, True])
def test_the_forking_process_says_by_its_exit_code_that_the_engine_is_gone(ready: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        forks = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vedette.scoring.start",
                str(theirs.fileno()),
                str(2**30),
                "process",
            ],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    with ours:
        if ready:  # its message left unread, the end is a reset
            ours.settimeout(120)
            ours.recv(1, socket.MSG_PEEK)
    _, errors = forks.communicate(timeout=120)
    assert (forks.returncode, errors) == (ENGINE_GONE, b"")


def test_what_a_scorer_leaves_behind_ends(tmp_path: Path, sandbox: Sandbox) -> None:
    seconds = str(32_000_000 + os.getpid())  # by this the processes are known
    leaving = code(
        f"import os, subprocess, time\nsubprocess.Popen(['sh', '-c', 'setsid sleep {seconds} &'])\n"
        "time.sleep(0.2)\nreturn inputs",
        name="leaving",
    )
    pool = WorkerPool(tmp_path, sandbox)
    try:
        assert values(run(pool, leaving, 1, 2)) == [1, 2]
    finally:
        pool.close()

    deadline = time.monotonic() + 5
    while left := [
        p for p in psutil.process_iter(["cmdline"]) if seconds in (p.info["cmdline"] or [])
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _forking_processes(parent: int | None = None) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.is_running() and "vedette.scoring.start" in child.cmdline():
                found.append(child)
    return found


def _workers(started: psutil.Process, sandbox: Sandbox) -> list[psutil.Process]:
    """The workers below what the engine has started: isolated, they are a generation further."""
    children = started.children()
    if sandbox.name == "process":
        return children
    return [worker for child in children for worker in child.children()]


GOOD_ROW: dict[str, Any] = {
    "name": "probe",
    "value": "1",
    "error": None,
    "created_timestamp": 1,
    "last_updated_timestamp": 1,
    "source_type": "CODE",
    "source_id": "probe",
    "span_id": None,
    "rationale": None,
    "assessment_metadata": '{"a": "b"}',
    "aggregate_value": 1.0,
    "is_numeric_value": True,
}
ERROR = {"error_code": "A", "error_message": None, "stack_trace": None}


@pytest.mark.parametrize(
    "forged",
    [
        {"value": str(10**400)},
        {"value": "[" * 200 + "]" * 200},
        {"value": "NaN"},
        {"error": "5"},
        {"error": json.dumps({**ERROR, "error_code": None})},
        {"error": json.dumps({**ERROR, "more": "b"})},
        {"assessment_metadata": "[1]"},
        {"assessment_metadata": '{"error_message": null}'},
        {"source_type": "NOBODY"},
        {"rationale": 5},
    ],
)
def test_an_answer_that_would_make_its_trace_unreadable_is_none(forged: dict[str, Any]) -> None:
    # What a scorer that talks to the engine itself could send
    good = {"rows": [GOOD_ROW, {**GOOD_ROW, "value": None, "error": json.dumps(ERROR)}]}
    for row in checked_rows(good):
        assessment_entity({**row, "trace_id": "tr-1", "assessment_id": "a-1"}).to_proto()
    with pytest.raises(BadAnswer):
        checked_rows({"rows": [GOOD_ROW | forged]})
