"""Tokens, cost and the reason to stop, as the providers' answers tell them."""

from __future__ import annotations

from typing import Any

# Our name, and where answers have it: OpenAI and what is compatible, Anthropic, Gemini, Bedrock
_USAGE = {
    "input_tokens": ("prompt_tokens", "input_tokens", "promptTokenCount", "inputTokens"),
    "output_tokens": (
        "completion_tokens",
        "output_tokens",
        "candidatesTokenCount",
        "outputTokens",
    ),
}
# Why a model stops when it is done, or wants a tool
_DONE = {"stop", "end_turn", "tool_calls", "tool_use", "function_call", "stop_sequence", "eos"}


def token_usage(body: dict[str, Any]) -> dict[str, int]:
    """Tokens of one answer, by MLflow's names; empty if it doesn't tell. Input tokens include
    cached ones.

    Args:
        body: the JSON of a provider's answer.
    """
    usage = _dict(body, "usage") or _dict(body, "usageMetadata")
    found: dict[str, int] = {}
    for name, keys in _USAGE.items():
        for key in keys:
            if (count := _count(usage, key)) is not None:
                found[name] = count
                break
    if (thoughts := _count(usage, "thoughtsTokenCount")) and "output_tokens" in found:
        found["output_tokens"] += thoughts
    if cached := _count(_dict(usage, "prompt_tokens_details"), "cached_tokens"):
        found["cache_read_input_tokens"] = cached
    for key in ("cache_read_input_tokens", "cache_creation_input_tokens"):
        if (count := _count(usage, key)) and "input_tokens" in found:
            found[key] = count
            found["input_tokens"] += count  # Anthropic counts them apart
    return found


def told_cost(body: dict[str, Any]) -> float | None:
    """US dollars of one answer, where the provider tells (OpenRouter does)."""
    cost = _dict(body, "usage").get("cost")
    return float(cost) if isinstance(cost, (int, float)) and cost >= 0 else None


def why_finished(body: dict[str, Any]) -> str | None:
    """Why the model stopped, in lower case; None if it was done, or doesn't say."""
    choices = body.get("choices") or body.get("candidates")
    choice = choices[0] if isinstance(choices, list) and choices else body
    if not isinstance(choice, dict):
        return None
    if _dict(choice, "message").get("refusal"):
        return "refusal"
    reason = choice.get("finish_reason") or choice.get("finishReason") or choice.get("stop_reason")
    if not isinstance(reason, str) or reason.lower() in _DONE:
        return None
    return reason.lower()


def _dict(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _count(usage: dict[str, Any], key: str) -> int | None:
    value = usage.get(key)
    return value if type(value) is int and 0 <= value < 2**53 else None
