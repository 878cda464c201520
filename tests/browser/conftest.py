"""A browser looking at a Vedette that holds the example agent's traffic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Error, Page, Response, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the MLflow UI shows a newcomer once, over the page: seen already.
NO_GREETINGS = """
localStorage.setItem("mlflow.detectIssues.guidanceShown_v1", "true");
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
# Stock MLflow's server has no users and answers 404 here too; its UI takes that for "no log-in".
ANSWERS_404 = "/ajax-api/2.0/mlflow/users/current"

PATIENCE = 15_000  # milliseconds for something to appear


@dataclass
class Filled:
    """What `fill.py` made, and where to see it."""

    url: str
    experiment_id: str
    judged: str
    question: str
    session: str
    dataset_id: str

    def page(self, path: str) -> str:
        """The address of one of the experiment's pages."""
        return f"{self.url}/#/experiments/{self.experiment_id}/{path}"


@pytest.fixture(scope="session")
def filled(request: pytest.FixtureRequest) -> Filled:
    """The example agent's traffic, once all of it is scored."""
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser: {CHROMIUM} is not installed")
    vedette = request.getfixturevalue("vedette")
    script = Path(__file__).with_name("fill.py")
    command = [sys.executable, str(script), vedette.url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return Filled(vedette.url, **json.loads(done.stdout.splitlines()[-1]))


# Not for the session: its event loop would be running in all tests that follow
@pytest.fixture(scope="module")
def window(filled: Filled) -> Iterator[BrowserContext]:
    """A window of Debian's chromium: playwright's own would have to be downloaded."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = chromium.new_context(viewport={"width": 1680, "height": 950})
        context.add_init_script(NO_GREETINGS)
        expect.set_options(timeout=PATIENCE)
        context.set_default_timeout(PATIENCE)
        yield context
        chromium.close()


@dataclass
class Visit:
    """A page, and whatever went wrong on it."""

    page: Page
    server: str
    shots: Path
    wrong: list[str] = field(default_factory=list)

    def open(self, address: str, *texts: str) -> None:
        """Open the address; every one of the texts must become visible."""
        self.page.goto(address)
        self.see(*texts)

    def see(self, *texts: str) -> None:
        """Every one of the texts must be visible on the page, or become so."""
        for text in texts:
            expect(self.page.get_by_text(text).filter(visible=True).first).to_be_visible()

    def shoot(self, name: str) -> None:
        """Save a screenshot, once the charts have stopped moving."""
        self.page.wait_for_timeout(1000)
        self.page.screenshot(path=self.shots / f"{name}.png")

    def on_response(self, response: Response) -> None:
        if response.status >= 400 and not response.url.endswith(ANSWERS_404):
            self.wrong.append(f"{response.status} {response.request.method} {response.url}")

    def watch(self) -> None:
        """Note failed answers, broken connections, errors in scripts, and calls to elsewhere."""
        self.page.on("response", self.on_response)
        self.page.on("pageerror", self.on_script_error)
        self.page.on(
            "requestfailed",
            lambda request: (
                request.failure == "net::ERR_ABORTED"  # the page went on without it
                or self.wrong.append(f"{request.failure} {request.url}")
            ),
        )
        self.page.on(
            "request",
            lambda request: (
                request.url.startswith((self.server, "data:", "blob:"))
                or self.wrong.append(f"goes elsewhere: {request.url}")
            ),
        )

    def watch_console(self) -> None:
        """Note what the console says against the page too, and live connections to elsewhere."""
        self.page.on(
            "console",
            lambda message: (
                message.type != "error" or self.wrong.append(f"console: {message.text}")
            ),
        )
        live = self.server.replace("http", "ws", 1)
        self.page.on(
            "websocket",
            lambda socket: (
                socket.url.startswith(live) or self.wrong.append(f"goes elsewhere: {socket.url}")
            ),
        )

    def on_script_error(self, error: Error) -> None:
        if "ResizeObserver loop" not in str(error):  # Chromium's notice of a slow frame
            self.wrong.append(f"script error: {error}")


@pytest.fixture
def visit(
    window: BrowserContext, filled: Filled, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visit]:
    """A new page. The test fails if anything went wrong while it was open."""
    shots = tmp_path_factory.getbasetemp() / "screenshots"
    shots.mkdir(exist_ok=True)
    visit = Visit(window.new_page(), filled.url, shots)
    visit.watch()
    yield visit
    visit.page.close()
    assert visit.wrong == []
