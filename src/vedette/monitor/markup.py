"""HTML elements with text and attributes: NiceGUI has widgets, and pages here are mostly text."""

from __future__ import annotations

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from vedette.monitor.status import Status


def tag(name: str, text: str = "", classes: str = "", **attributes: str) -> TextElement:
    """An HTML element; use it as a context manager to fill it.

    Args:
        attributes: ``aria_label`` stands for ``aria-label``.
    """
    made = TextElement(tag=name, text=text).classes(classes)
    for attribute, value in attributes.items():
        made.props[attribute.replace("_", "-")] = value
    return made


class StatusMark:
    """A state: shape, colour and words. It can be changed in place."""

    def __init__(self, status: Status) -> None:
        with tag("span", classes="status") as self._mark:
            self._icon = ui.icon(status.icon)
            with tag("span"):
                self._word = tag("span", classes="word")
                self._reason = tag("span")
        self._tone = ""
        self.show(status)

    def show(self, status: Status) -> None:
        """Change it."""
        self._mark.classes(add=status.tone, remove=self._tone if self._tone != status.tone else "")
        self._tone = status.tone
        self._icon.name = status.icon
        self._word.text = status.word
        self._reason.text = f": {status.reason}" if status.reason else ""


def notice(text: str, tone: str, icon: str) -> None:
    """A line that people should see, above what it is about."""
    with tag("div", classes=f"notice {tone}"):
        ui.icon(icon)
        tag("span", text)
