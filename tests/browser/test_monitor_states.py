"""The monitor's pages in every state they can show, over made-up data."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from running import free_port

from .conftest import ARGUMENTS, CHROMIUM, PATIENCE, Visit

SIZES = {"desk": (1440, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """The address of `monitor_pages.py`."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: {CHROMIUM} is not installed")
    port = free_port()
    script = Path(__file__).with_name("monitor_pages.py")
    process = subprocess.Popen([sys.executable, str(script), str(port)])
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(timeout=15) in (0, -15)


@pytest.fixture(scope="module")
def tab(pages: str) -> Iterator[Page]:
    """A tab that waits for the server."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = chromium.new_context().new_page()
        expect.set_options(timeout=PATIENCE)
        tab.set_default_timeout(PATIENCE)
        for _ in range(100):
            try:
                tab.goto(f"{pages}/monitor")
                break
            except Exception:
                tab.wait_for_timeout(300)
        yield tab
        chromium.close()


LOOKS = [f"{size}-{theme}" for size in SIZES for theme in ("light", "dark")]
BOTH_SIZES = pytest.mark.parametrize("look", ["desk-light", "phone-dark"], indirect=True)


@pytest.fixture(params=LOOKS)
def look(
    tab: Page,
    pages: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Visit]:
    """The tab in one of its sizes and themes; screenshots are named after them."""
    size, _, theme = request.param.partition("-")
    width, height = SIZES[size]
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(color_scheme=theme)
    shots = tmp_path_factory.getbasetemp() / "screenshots" / request.param
    shots.mkdir(parents=True, exist_ok=True)
    visit = Visit(tab, pages, shots)
    yield visit
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_every_state_of_a_scorer(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/scorers", "Experiment support <b>agent</b>")
    for text in (
        "running",
        "deleted",
        "starting: the engine takes it up in a moment",
        "not started: start it with .start(...)",
        "waits: OPENAI_API_KEY is not set: set it where the engine runs",
        "stopped: start it again with .start(...)",
    ):
        expect(look.page.locator(".status", has_text=text).first).to_be_visible()
    look.see("1,234,5", "25 %", "$12.50", "14 s", "scorer 1/safety waits")
    look.shoot("scorers")


def test_every_decision_of_a_trace(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/trace/tr-1", "tr-1", "over budget", "filtered out", "and 238 more")
    for text in ("WORKER_DIED", "Next attempt", "2026-09-21 14:14:20 UTC", "$0.0004"):
        look.see(text)
    assert look.page.title() == "Trace · Vedette"
    session = "/#/experiments/1/chat-sessions/chat%201%2F2"
    expect(look.page.get_by_role("link", name="its session")).to_have_attribute("href", session)
    look.shoot("trace")


@BOTH_SIZES
def test_an_experiment_is_chosen(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/scorers", "Experiment support")
    choice = look.page.get_by_role("combobox", name="Experiment")
    choice.focus()
    choice.press("ArrowDown")
    look.page.get_by_role("option", name="quiet").click()
    look.see("Experiment quiet", "No scorer is registered in this experiment")
    assert look.page.url == f"{pages}/monitor/scorers?experiment_id=2&range=24h"
    look.shoot("nothing")


@BOTH_SIZES
def test_an_experiment_that_is_not_there(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/scorers?experiment_id=77", "There is no experiment 77")


@BOTH_SIZES
def test_a_page_says_that_its_figures_are_old_and_keeps_the_focus(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/scorers", "1,234,5")
    summary = look.page.get_by_text("What the columns say")
    summary.focus()
    before = look.page.locator('td[data-label="Units"]').first.inner_text()
    expect(look.page.locator('td[data-label="Units"]').first).not_to_have_text(before)
    try:
        urllib.request.urlopen(f"{pages}/broken", data=b"").close()
        look.see("These figures are old, the server can't tell them now: the disk is full")
        look.shoot("old")
        other = look.page.context.new_page()
        other.goto(f"{pages}/monitor/trace/tr-1")
        expect(other.get_by_text("The trace can't be shown now: the disk is full")).to_be_visible()
        other.goto(f"{pages}/monitor/scorers")
        expect(other.get_by_text("can't be told now: the disk is full")).to_be_visible()
        other.close()
    finally:
        urllib.request.urlopen(f"{pages}/works", data=b"").close()
    expect(look.page.get_by_text("These figures are old")).to_have_count(0)
    expect(summary).to_be_focused()


def test_the_overview_of_a_bad_afternoon(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor?range=24h", "1 alert fires", "answers_the_question_drift_neg")
    look.see(
        "41,233",
        "12 % more than before",
        "down 6 points, between 4 and 8",
        "no change that the data can show",
        "too few scores yet: 7",
        "scored 10 % of 41,233 traces, 12 waiting",
        "share of “refund”",
        "version 2, 3, before 3",
    )
    for title in ("Traces", "Error rate", "Latency", "Tokens and cost"):
        tile = look.page.get_by_label(title, exact=True)
        expect(tile.locator(".chart svg")).to_be_visible()
    bar = look.page.get_by_role("img", name="87.1 %, interval 85.2 to 88.8 %")
    expect(bar).to_be_visible()
    look.shoot("overview")
    look.page.screenshot(path=look.shots / "overview-all.png", full_page=True)


@BOTH_SIZES
def test_another_time_is_chosen_by_keyboard_and_kept_in_the_address(
    look: Visit, pages: str
) -> None:
    look.open(f"{pages}/monitor/?experiment_id=1", "The last 24 hours")
    link = look.page.get_by_role("link", name="7d")
    link.focus()
    link.press("Enter")
    look.see("The last 7 days")
    assert "range=7d" in look.page.url
    expect(look.page.get_by_role("link", name="7d")).to_have_attribute("aria-current", "true")
    look.page.get_by_role("link", name="Keep this time").click()
    look.see("Show the newest", "beside the 7 days before")
    assert "until=" in look.page.url
    look.page.get_by_role("link", name="Scorers", exact=True).click()
    look.see("What the columns say")
    assert "range=7d" in look.page.url


@BOTH_SIZES
def test_an_overview_of_nothing_tells_how_to_begin(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/?experiment_id=2", "No trace began in this time", "No alert rules")
    look.see("flush_trace_async_logging", f'mlflow.set_tracking_uri("{pages}")', "is_short")
    look.page.get_by_role("button", name="Copy").first.click()
    expect(look.page.get_by_role("button", name="Cop").first).not_to_have_text("Copy")
    look.shoot("overview-nothing")


@BOTH_SIZES
def test_a_time_that_is_none(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/?range=2h", "one of 1h, 24h, 7d, 30d")
    look.open(f"{pages}/monitor/?until=noon", "milliseconds since the epoch")


@BOTH_SIZES
def test_a_chart_is_taken_along(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/", "41,233")
    tile = look.page.get_by_label("Error rate", exact=True)
    expect(tile.locator(".chart svg")).to_be_visible()
    with look.page.expect_download() as table:
        tile.get_by_role("link", name="Error rate as CSV").click()
    assert table.value.suggested_filename == "traffic.csv"
    assert "error_rate_low" in table.value.path().read_text()
    with look.page.expect_download() as picture:
        tile.get_by_role("button", name="Error rate as PNG").click()
    assert picture.value.suggested_filename == "Error rate.png"
    picture.value.save_as(look.shots / "taken.png")
    assert (look.shots / "taken.png").read_bytes().startswith(b"\x89PNG")


@BOTH_SIZES
def test_the_overview_moves_without_a_reload(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/", "As of")
    look.page.evaluate("window.same_page = true")
    asof = look.page.locator(".asof")
    before = asof.inner_text()
    expect(asof).not_to_have_text(before)
    assert look.page.evaluate("window.same_page")
    try:
        urllib.request.urlopen(f"{pages}/broken", data=b"").close()
        look.see("These figures are old, the server can't tell them now: the disk is full")
    finally:
        urllib.request.urlopen(f"{pages}/works", data=b"").close()
    expect(look.page.get_by_text("These figures are old")).to_have_count(0)


def test_a_scorer_over_time(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/?experiment_id=1", "41,233")
    look.page.get_by_role("link", name="answers_the_question").click()
    look.see("down 6 points, between 4 and 8", "4,123 scores", "How the traffic spreads")
    assert "name=answers_the_question" in look.page.url
    look.see("version 3, rate 0.5", "v2", "v3")  # beside the lines
    look.see("How long does <b>delivery</b>", "but not how long delivery takes", "36,900")
    expect(look.page.locator(".low a").first).to_have_attribute("href", "/monitor/trace/tr-1")
    look.shoot("scorer")
    look.page.screenshot(path=look.shots / "scorer-all.png", full_page=True)


@BOTH_SIZES
def test_a_scorer_of_several_scores_and_one_of_labels(look: Visit, pages: str) -> None:
    look.open(f"{pages}/monitor/scorer?name=safety&range=24h", "severity", "Lowest")
    expect(look.page.locator(".chart svg")).to_have_count(2)
    look.open(f"{pages}/monitor/scorer?name=stopped_one", "refund", "no change that the data")
    expect(look.page.get_by_label("Lowest")).to_be_hidden()
    look.page.get_by_role("link", name="7d").click()
    look.see("The last 7 days", "refund")
    with look.page.expect_download() as table:
        look.page.get_by_role("link", name="stopped_one as CSV").click()
    assert "stopped_one" in table.value.path().read_text()


@BOTH_SIZES
def test_a_scorer_that_nobody_knows(look: Visit, pages: str) -> None:
    name = "<script>document.title='gone'</script>"
    look.open(f"{pages}/monitor/scorer?name={name}", "It gave no score in this time", name)
    assert look.page.title() == f"{name} · Vedette"
