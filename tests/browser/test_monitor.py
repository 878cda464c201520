"""The monitor in a browser: over a Vedette at work, on a desk and on a phone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from running import RunningVedette

from .conftest import Filled, Visit

DESK, PHONE = (1440, 900), (390, 844)
PATIENCE = 45_000  # milliseconds for a trace to be scored, for MLflow's UI to load


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def monitor(visit: Visit, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A page of that size; whatever the console says against it is noted too."""
    width, height = request.param
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.watch_console()
    yield visit
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    assert visit.page.evaluate(overflow) <= 0, "the page is wider than the window"


def shown(visit: Visit) -> str:
    """Names of screenshots tell the size."""
    size = visit.page.viewport_size
    assert size is not None
    return str(size["width"])


def figure(visit: Visit, scorer: str, heading: str) -> Locator:
    """A figure in a scorer's row."""
    row = visit.page.locator("table.scorers tr", has_text=scorer)
    return row.locator(f'td[data-label="{heading}"]')


def test_the_scorers_of_an_experiment(monitor: Visit, filled: Filled) -> None:
    monitor.open(f"{filled.url}/monitor/scorers?experiment_id={filled.experiment_id}")
    for scorer in ("cites_source", "right_page"):
        expect(figure(monitor, scorer, "State")).to_contain_text("running")
        for heading, text in (
            ("Version", "1"),
            ("Rate", "100 %"),
            ("Epoch", "1"),
            ("Units", "40"),
            ("Selected", "40"),
            ("Scored", "40"),
            ("Waiting", "0"),
            ("Retrying", "0"),
            ("Failed", "0"),
            ("Lag", "0 s"),
            ("Cost today", "$0.00"),
        ):
            expect(figure(monitor, scorer, heading)).to_have_text(text)
    monitor.see("As of 20")
    monitor.shoot(f"monitor-scorers-{shown(monitor)}")


def test_a_trace_tells_what_its_scorers_did(monitor: Visit, filled: Filled) -> None:
    monitor.open(
        f"{filled.url}/monitor/trace/{filled.judged}",
        filled.judged,
        filled.question,
        f"Session {filled.session}",
        "this trace",
    )
    for scorer in ("cites_source", "right_page"):
        section = monitor.page.get_by_label(scorer)
        for text in ("scored by version 1", "Probability", "u=0.", "pid ", "Decided at", "live"):
            expect(section).to_contain_text(text)
    monitor.shoot(f"monitor-trace-{shown(monitor)}")
    others = monitor.page.locator("ol.session a")
    other = others.first.inner_text()
    others.first.click()
    expect(monitor.page.locator(".subject")).to_have_text(other)


def test_a_trace_leads_to_mlflows_pages(visit: Visit, filled: Filled) -> None:
    address = f"{filled.url}/monitor/trace/{filled.judged}"
    visit.open(address)
    visit.page.get_by_role("link", name="the trace").click()
    expect(visit.page.get_by_text("write_answer").first).to_be_visible(timeout=PATIENCE)
    visit.open(address)
    visit.page.get_by_role("link", name="its session").click()
    expect(visit.page.get_by_text("Turn 2").first).to_be_visible(timeout=PATIENCE)


def test_a_trace_is_found_by_keyboard(monitor: Visit, filled: Filled) -> None:
    monitor.open(f"{filled.url}/monitor", "Scorers")
    monitor.page.keyboard.press("Tab")
    expect(monitor.page.get_by_text("Skip to main content")).to_be_focused()
    for _ in range(10):
        monitor.page.keyboard.press("Tab")
        if monitor.page.evaluate("document.activeElement.ariaLabel") == "Trace id":
            break
    monitor.page.keyboard.type(filled.page(f"traces/{filled.judged}"))
    monitor.page.keyboard.press("Enter")
    monitor.see(filled.judged, "scored by version 1")


def test_an_unknown_trace(monitor: Visit, filled: Filled) -> None:
    address = f"{filled.url}/monitor/trace/tr-nobody"
    monitor.open(address, "There is no trace tr-nobody.", "flush_trace_async_logging")
    monitor.shoot(f"monitor-unknown-{shown(monitor)}")
    monitor.page.get_by_label("Trace id").fill("http://elsewhere/a?b#c")
    monitor.page.get_by_role("button", name="Look up the trace").click()
    monitor.see("There is no trace http://elsewhere/a?b#c.")
    not_found = [wrong for wrong in monitor.wrong if "404" in wrong]
    assert len(not_found) == 4  # each answer, and what the console says of it
    monitor.wrong[:] = [wrong for wrong in monitor.wrong if wrong not in not_found]


def test_the_colours_that_were_chosen_stay(monitor: Visit, filled: Filled) -> None:
    body = monitor.page.locator("body")
    monitor.open(f"{filled.url}/monitor", "Scorers")
    expect(body).to_contain_class("body--light")
    monitor.page.get_by_role("button", name="Colours: automatic").click()
    monitor.page.get_by_role("button", name="Colours: dark").wait_for()
    monitor.page.reload()
    monitor.page.get_by_role("button", name="Colours: dark").wait_for()
    expect(body).to_contain_class("body--dark")
    monitor.page.get_by_role("button", name="Colours: dark").click()
    monitor.page.get_by_role("button", name="Colours: light").click()
    monitor.page.get_by_role("button", name="Colours: automatic").wait_for()


@pytest.fixture
def developer(filled: Filled) -> Iterator[Callable[[str], str]]:
    """Runs a step of `live.py`; the first answer is the experiment's id."""
    script = Path(__file__).with_name("live.py")
    with subprocess.Popen(
        [sys.executable, str(script), filled.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def step(command: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            if command:
                process.stdin.write(f"{command}\n")
                process.stdin.flush()
            return process.stdout.readline().strip()

        yield step
        process.stdin.close()


def test_the_page_follows_a_scorer_from_nothing_to_its_end(
    visit: Visit, filled: Filled, developer: Callable[[str], str]
) -> None:
    visit.watch_console()
    experiment_id = developer("")
    visit.open(
        f"{filled.url}/monitor/scorers?experiment_id={experiment_id}",
        "No scorer is registered in this experiment",
        f'mlflow.set_tracking_uri("{filled.url}")',
        'mlflow.set_experiment("live")',
    )
    visit.shoot("monitor-nothing")
    visit.page.evaluate("window.same_page = true")
    state = figure(visit, "is_short", "State")
    for command, word in (("register", "not started"), ("start", "running")):
        developer(command)
        expect(state).to_contain_text(word, timeout=PATIENCE)
    developer("ask")
    developer("ask")
    expect(figure(visit, "is_short", "Scored")).to_have_text("2", timeout=PATIENCE)
    developer("stop")
    expect(state).to_contain_text("stopped", timeout=PATIENCE)
    assert visit.page.evaluate("window.same_page")


def test_vedette_stops_in_time_while_its_pages_are_open(
    window: BrowserContext, fresh_vedette: Callable[..., RunningVedette]
) -> None:
    vedette: Any = fresh_vedette()
    tabs = [window.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(f"{vedette.url}/monitor")
        tab.get_by_text("As of").wait_for()
    started = time.monotonic()
    assert vedette.stop() == 0
    assert time.monotonic() - started < 10
    expect(tabs[0].get_by_text("Connection lost")).to_be_visible()
    for tab in tabs:
        tab.close()
    log = vedette.log.read_text()
    for trouble in ("Traceback", "killed", "Task was destroyed", "ERROR"):
        assert trouble not in log
    assert not (vedette.data / ".nicegui").exists()
