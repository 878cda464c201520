"""The short form of a trace's request or response that lists show."""

from __future__ import annotations

from typing import Any

from vedette.intake.values import dump, loaded

PREVIEW_LENGTH = 1000  # characters


def preview(value: Any, role: str) -> str:
    """The last message of ``role`` in a chat request or response, else the value's JSON; cut off.

    Knows the same forms as MLflow (OpenAI's chat completions and responses, ResponsesAgent).

    Args:
        value: the root span's inputs or outputs, as sent.
        role: ``user`` for requests, ``assistant`` for responses.
    """
    read = loaded(value)
    messages = _messages(read)
    text = _text(_last(messages, role)) if messages else None
    if not text:  # MLflow shows the JSON it stores: the value itself if it was JSON already
        text = value if isinstance(value, str) and read is not value else dump(value)
    return text if len(text) <= PREVIEW_LENGTH else text[: PREVIEW_LENGTH - 3] + "..."


def _messages(value: Any) -> list[dict[str, Any]] | None:
    while isinstance(value, dict):
        if (messages := value.get("messages")) and isinstance(messages, list):
            return [item for item in messages if _is_message(item)]
        choices = value.get("choices")
        if choices and isinstance(choices, list) and isinstance(choices[0], dict):
            message = choices[0].get("message")
            if message and _is_message(message):
                return [message]
        for key in ("input", "output"):
            if (items := value.get(key)) and isinstance(items, list):
                return [item for item in items if _is_message(item)]
        value = value.get("request")
    return None


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item and "content" in item


def _last(messages: list[dict[str, Any]], role: str) -> dict[str, Any]:
    return next((m for m in reversed(messages) if m["role"] == role), messages[-1])


def _text(message: dict[str, Any]) -> str | None:
    content = message["content"]
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                return part
            if isinstance(part, dict) and part.get("type") in ("text", "output_text"):
                text = part.get("text")
                return text if isinstance(text, str) else None
    return None
