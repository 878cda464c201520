"""What to do where there is nothing yet: code to copy."""

from __future__ import annotations

import json

from nicegui import ui

from vedette.monitor.markup import tag


def server_address() -> str:
    """The address by which the page's reader reaches the server."""
    base = str(ui.context.client.request.base_url)
    return base.removesuffix("/").removesuffix("/monitor")


def code(text: str) -> None:
    """Code with a button that copies it."""
    with tag("div", classes="code"):
        tag("pre", text, tabindex="0")
        button = tag("button", "Copy", type="button", classes="copy")
        button.on("click", js_handler=f"() => copyCode(getHtmlElement({button.id}))")


def first_trace(experiment: str) -> None:
    """How to send traces."""
    tag("p", "Point an agent at this server; its traces appear here as they arrive:")
    code(
        f"""\
import mlflow

mlflow.set_tracking_uri({json.dumps(server_address())})
mlflow.set_experiment({json.dumps(experiment)})


@mlflow.trace
def answer(question: str) -> str:
    return f"You asked: {{question}}"


answer("Where is my order?")
mlflow.flush_trace_async_logging()
"""
    )


def first_scorer(experiment: str) -> None:
    """How to register and start a scorer."""
    code(
        f"""\
import mlflow
from mlflow.genai.scorers import ScorerSamplingConfig, scorer

mlflow.set_tracking_uri({json.dumps(server_address())})
mlflow.set_experiment({json.dumps(experiment)})


@scorer
def is_short(outputs) -> bool:
    return len(str(outputs)) <= 500


is_short.register(name="is_short").start(
    sampling_config=ScorerSamplingConfig(sample_rate=1.0)
)
"""
    )
    tag("p", "It scores every trace that becomes complete from then on, and appears here.")
