"""The demo itself: start, register, let customers talk, wait for the scores, show what they say."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vedette.demo.examples import example
from vedette.demo.instance import HOST, DemoFailed, Instance

if TYPE_CHECKING:
    from mlflow.entities import TraceInfo

EXPERIMENT = "support-agent"
VERSIONS = ("v1", "v2")  # of the agent, before and after the regression
_READY_SECONDS = 120.0
_SCORED_SECONDS = 60.0
# The default of 10 s suits agents whose spans come from several places; this one's come at once.
_SETTINGS = {"VEDETTE_TRACE_COMPLETION_BUFFER": "2"}


def run(
    *, data: Path | None = None, port: int = 5000, questions: int = 400, at_once: int = 4
) -> int:
    """Play the demo; the exit code: 0 all went well, 1 not (stderr says why), 130 interrupted.

    On a terminal it keeps serving until Ctrl-C, otherwise it stops everything at the end.

    Args:
        data: the data directory, which must not hold anything yet and is kept. Without it a
            temporary one is used, and removed at the end unless something went wrong.
        port: the port to listen on, or another one if that is taken.
        questions: how many questions customers ask; each makes one trace.
        at_once: how many customers talk at the same time.
    """
    console = Console(highlight=False)
    directory = data or Path(tempfile.mkdtemp(prefix="vedette-demo-"))
    code = 0
    try:
        _require_empty(directory)
        with _interruptible(), Instance(directory, port, _SETTINGS) as vedette:
            _play(vedette, console, questions, at_once)
            if console.is_terminal:
                _serve(vedette, console)
    except DemoFailed as failure:
        print(f"vedette demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        code = 130  # as shells have it
    if data is None:
        shutil.rmtree(directory, ignore_errors=True)
    return code


def _play(vedette: Instance, console: Console, questions: int, at_once: int) -> None:
    console.print(f"Starting Vedette on {vedette.url}, data in {vedette.data}", soft_wrap=True)
    example("support_agent")  # imports MLflow: takes seconds, as Vedette's start does
    vedette.wait_until_ready(_READY_SECONDS)

    experiment_id, scorers = _register(vedette.url)
    console.print(f"Registered and started two scorers: {', '.join(scorers)}")
    with _progress(console) as progress:
        asked = sum(
            _talk(vedette, progress, version, questions // len(VERSIONS), at_once)
            for version in VERSIONS
        )
        traces = _await_scores(vedette, progress, experiment_id, scorers, asked)
    _report(vedette.url, console, experiment_id, scorers, traces)


def _register(url: str) -> tuple[str, list[str]]:
    """The experiment's id, and the names of the scorers at work on it."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # A proxy of the environment must not come between us and our own machine.
    os.environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST]))
    mlflow.set_tracking_uri(url)
    experiment = mlflow.set_experiment(EXPERIMENT)
    started = example("register_scorers").register_and_start()
    return experiment.experiment_id, [scorer.name for scorer in started]


def _talk(vedette: Instance, progress: Progress, version: str, questions: int, at_once: int) -> int:
    """Have customers ask one version of the agent; returns how many questions it was asked."""
    import mlflow

    customers = example("customers")
    agent = example("support_agent").SupportAgent(version)
    talks = customers.conversations(questions, seed=VERSIONS.index(version) + 1)
    task = progress.add_task(f"Customers talk to agent {version}", total=questions)
    for failure in customers.talk(agent.answer, talks, at_once):
        # Its order service times out now and then, as meant: such a trace has the status ERROR.
        if failure is not None and not isinstance(failure, TimeoutError):
            raise DemoFailed(f"the agent failed unexpectedly: {failure!r}") from failure
        vedette.require_alive()
        progress.advance(task)
    mlflow.flush_trace_async_logging()
    return questions


def _await_scores(
    vedette: Instance, progress: Progress, experiment_id: str, scorers: Sequence[str], asked: int
) -> list[TraceInfo]:
    """The experiment's traces, once each question has made one and each of them has its scores."""
    import mlflow

    from vedette.demo.outcome import count_scored

    task = progress.add_task("Traces with all their scores", total=asked)
    deadline = time.monotonic() + _SCORED_SECONDS
    while True:
        vedette.require_alive()
        found = mlflow.search_traces(
            locations=[experiment_id],
            max_results=asked + 1,  # one too many would be found out
            include_spans=False,
            return_type="list",
        )
        traces = [trace.info for trace in found]
        scored = count_scored(traces, scorers)
        progress.update(task, completed=scored)
        if len(traces) == scored == asked:
            return traces
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"{_SCORED_SECONDS:.0f} s after the last of {asked} questions there are "
                f"{len(traces)} traces, {scored} of them with all their scores."
                f"{vedette.last_words()}"
            )
        time.sleep(1.0)


def _report(
    url: str,
    console: Console,
    experiment_id: str,
    scorers: Sequence[str],
    traces: Sequence[TraceInfo],
) -> None:
    from vedette.demo.outcome import failing_trace, seconds_to_score, table, tally

    console.print()
    console.print(table(tally(traces, scorers), scorers))
    console.print("In parentheses: the 95 % interval of the pass rate (Wilson).")
    console.print(
        f"A score comes {seconds_to_score(traces, scorers):.1f} s (median) after a trace."
    )
    pages = f"{url}/#/experiments/{experiment_id}"
    links = {
        "All traces": f"{pages}/traces",
        "Conversations": f"{pages}/traces?groupBy=session",
        "Charts": f"{pages}/overview/quality",
        "Quality": f"{url}/monitor/?experiment_id={experiment_id}&range=1h",
    }
    if failing := failing_trace(traces, scorers):
        links["A failing trace"] = f"{pages}/traces/{failing.trace_id}"
    console.print()
    for name, link in links.items():
        console.print(f"  {name:16} {link}", soft_wrap=True)


def _serve(vedette: Instance, console: Console) -> None:
    console.print("\nServing until you press Ctrl-C.")
    try:
        while True:
            vedette.require_alive()
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("Stopping.")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:30}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _require_empty(directory: Path) -> None:
    if directory.exists() and any(directory.iterdir()):
        raise DemoFailed(f"{directory} is not empty; name a directory that is, or none")


@contextmanager
def _interruptible() -> Iterator[None]:
    """While the block runs, SIGTERM ends it as Ctrl-C does, so that nothing is left running."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
