"""What all pages have: header, navigation, choice of experiment, search, colours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote

from nicegui import ui

from vedette.monitor.data import Experiment
from vedette.monitor.markup import tag
from vedette.monitor.view import View
from vedette.monitor.words import trace_id_in

# Name and path of each page that the navigation offers
PAGES = (("Overview", "/"), ("Scorers", "/scorers"))

_THEME_COOKIE = "vedette-theme"
_YEAR_SECONDS = 365 * 86_400
# The theme's name: whether it is dark, icon, name of the next
_THEMES: dict[str, tuple[bool | None, str, str]] = {
    "automatic": (None, "brightness_auto", "dark"),
    "dark": (True, "dark_mode", "light"),
    "light": (False, "light_mode", "automatic"),
}


@contextmanager
def frame(
    title: str, experiments: Sequence[Experiment], chosen: str | None, view: View | None = None
) -> Iterator[None]:
    """Put the block's elements into the page's main part.

    Args:
        title: of the page; also the name of the navigation entry that is marked.
        experiments: to choose from.
        chosen: the experiment's id.
        view: what the page looks at; other pages are then shown of the same.
    """
    ui.page_title(f"{title} · Vedette")
    with ui.header(fixed=False):
        ui.link("Vedette", "/").classes("brand")
        with tag("nav", aria_label="Pages"):
            for name, path in PAGES:
                link = ui.link(name, _path_of(path, chosen, view))
                if name == title:
                    link.props["aria-current"] = "page"
        _experiment_choice(experiments, chosen, view)
        _trace_search()
        mlflow = "/#/experiments" if chosen is None else f"/#/experiments/{chosen}/traces"
        tag("a", "MLflow UI", href=mlflow)
        _theme_button()
    with tag("div", classes="page") as content:
        tag("h1", title)
        yield
    ui.skip_link(target=content)


def experiment_path(experiment_id: str) -> str:
    """The Overview of an experiment."""
    return _with_experiment("/", experiment_id)


def trace_path(trace_id: str) -> str:
    """The page of a trace."""
    return f"/trace/{quote(trace_id, safe='')}"


def _with_experiment(path: str, experiment_id: str | None) -> str:
    return path if experiment_id is None else f"{path}?experiment_id={quote(experiment_id)}"


def _path_of(path: str, chosen: str | None, view: View | None) -> str:
    return view.at(path) if view is not None and chosen else _with_experiment(path, chosen)


def _experiment_choice(
    experiments: Sequence[Experiment], chosen: str | None, view: View | None
) -> None:
    def choose(experiment_id: str) -> None:
        if view is None:
            ui.navigate.to(experiment_path(experiment_id))
            return
        other = next(one for one in experiments if one.experiment_id == experiment_id)
        # A page of one scorer is not for another experiment
        path = "/" if view.more else view.path
        ui.navigate.to(replace(view, experiment=other, path=path, more=()).address)

    names = {one.experiment_id: one.name for one in experiments}
    choice = ui.select(
        names,
        value=chosen if chosen in names else None,
        label="Experiment",
        with_input=True,
        on_change=lambda event: choose(event.value),
    )
    choice.props("dense outlined").classes("experiment")


def _trace_search() -> None:
    def search() -> None:
        if wanted := trace_id_in(box.value or ""):
            ui.navigate.to(trace_path(wanted))

    with tag("div", classes="search", role="search"):
        box = ui.input("Trace id").props("dense outlined clearable spellcheck=false")
        box.on("keydown.enter", search)
        button = ui.button(icon="search", on_click=search, color=None).props("flat round")
        button.props["aria-label"] = "Look up the trace"


def _theme_button() -> None:
    """The theme is kept in a cookie, so that the page comes in the right colours at once."""
    kept = ui.context.client.request.cookies.get(_THEME_COOKIE, "")
    theme = kept if kept in _THEMES else "automatic"
    mode = ui.dark_mode(_THEMES[theme][0])

    def label() -> str:
        return f"Colours: {theme}"

    def change() -> None:
        nonlocal theme
        theme = _THEMES[theme][2]
        mode.value, button.icon, _ = _THEMES[theme]
        button.props["aria-label"] = hint.text = label()
        cookie = f"{_THEME_COOKIE}={theme};path=/;max-age={_YEAR_SECONDS};samesite=lax"
        ui.run_javascript(f"document.cookie = {json.dumps(cookie)}")

    button = ui.button(icon=_THEMES[theme][1], on_click=change, color=None)
    button.props("flat round")
    button.props["aria-label"] = label()
    with button:
        hint = ui.tooltip(label())
