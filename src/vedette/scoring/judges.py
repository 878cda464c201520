"""What a registered scorer's definition says of it: whether it asks an LLM, which, and where it may
run. Nothing is deserialised here, so nothing is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_MODEL_VARIABLE = "MLFLOW_GENAI_JUDGE_DEFAULT_MODEL"
_DEFAULT_MODEL = "openai:/gpt-4.1-mini"  # as MLflow has it, where the variable is not set

# MLflow's built-in scorers that compute and don't ask anybody
_WITHOUT_MODEL = {"PIIDetection", "RegexMatch", "ResponseLength"}

# Where definitions keep what goes into the call of a model as it is, and what may: how it generates
# its answer. Much else is litellm's to interpret, addresses that it sends the engine's keys to.
_CALL_SETTINGS = {"inference_params", "model_kwargs", "generation_kwargs", "completion_kwargs"}
_GENERATION = {
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "stop", "verbosity"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias"),
    *("logprobs", "top_logprobs", "reasoning", "reasoning_effort", "thinking", "service_tier"),
}
# What libraries of third-party scorers may be told beside that, under any name but these
_ADDRESSES = {
    *("api_base", "api_key", "api_version", "base_url", "custom_llm_provider", "endpoint"),
    *("default_headers", "extra_body", "extra_headers", "headers", "model_list", "url"),
}


def asks_model(definition: Mapping[str, Any]) -> bool:
    """Whether the scorer, or one of an ensemble's, asks an LLM: then it runs in the judge host."""
    return any(map(_is_judge, _parts(definition)))


def functions(definition: Any) -> Iterator[dict[str, Any]]:
    """The ``@scorer`` functions, anywhere in the definition: an ensemble has several."""
    return (one for one in _objects(definition) if one.get("call_source") is not None)


def has_code(definition: Any) -> bool:
    """Whether there is source code anywhere in the definition."""
    return any(True for _ in functions(definition))


def refusal(definition: Mapping[str, Any]) -> str | None:
    """Why the scorer is not run at all, in words for its author; None if it is.

    Source code runs in processes without credentials and network; a judge needs both.
    """
    if objection := call_objection(definition):
        return objection
    if not (has_code(definition) and asks_model(definition)):
        return None
    names = [
        repr(part.get("name")) for part in _parts(definition) if part.get("call_source") is not None
    ]
    return (
        f"The ensemble {definition.get('name')!r} has judges and source code ({', '.join(names)}) "
        "in one. Source code is run without network and credentials, which judges need: register "
        "the @scorer functions and the judges as scorers of their own."
    )


def call_objection(definition: Mapping[str, Any]) -> str | None:
    """What is wrong with how the scorer would call models, in words for its author: it must not
    have the engine's keys sent to an address of its own. None if nothing is."""
    found = list(dict.fromkeys(_beyond_generation(definition)))
    if not found:
        return None
    return (
        f"Scorer {definition.get('name')!r} sets {', '.join(found)} for its model. A judge may set "
        f"how the model generates ({', '.join(sorted(_GENERATION))}); where it is asked, and with "
        "which key, comes from the environment of Vedette's engine."
    )


def models(definition: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """The models the scorer asks, as `provider:/model`, without repetition; empty if it asks none.

    Args:
        environment: of the judges, which may name the model of those that name none.
    """
    default = environment.get(DEFAULT_MODEL_VARIABLE) or _DEFAULT_MODEL
    found = [_model(part) or default for part in _parts(definition) if _is_judge(part)]
    return list(dict.fromkeys(found))


def _beyond_generation(definition: Any) -> Iterator[str]:
    """The settings of model calls that are none of generation, wherever they are."""
    if isinstance(definition, list):
        for value in definition:
            yield from _beyond_generation(value)
    if not isinstance(definition, dict):
        return
    for key, value in definition.items():
        if key in _CALL_SETTINGS and value is not None:
            names = map(str, value) if isinstance(value, dict) else [f"{key}: {value!r:.100}"]
            yield from (repr(name) for name in names if name not in _GENERATION)
        elif key == "kwargs":
            for settings in _objects(value):
                yield from (repr(name) for name in settings if name in _ADDRESSES)
            yield from _beyond_generation(value)
        elif isinstance(value, str) and (key == "model" or key.endswith(("_model", "_lm"))):
            # Some providers of litellm take the name of a model for its address
            if "://" in value.partition(":/")[2]:
                yield f"the address {value!r:.200}"
        else:
            yield from _beyond_generation(value)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in the value, itself included, outer ones first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _objects(part)


def _parts(definition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The scorer, or those of an ensemble, or the judge that memory has been added to."""
    nested: list[Any] = []
    if ensemble := _data(definition, "ensemble_scorer_data"):
        scorers = ensemble.get("scorers")
        nested = scorers if isinstance(scorers, list) else []
    elif memory := _data(definition, "memory_augmented_judge_data"):
        nested = [memory.get("base_judge")]
    parts = [part for part in nested if isinstance(part, dict)]
    if not parts:
        yield definition
    for part in parts:
        yield from _parts(part)


def _is_judge(part: Mapping[str, Any]) -> bool:
    return (
        part.get("call_source") is None and part.get("builtin_scorer_class") not in _WITHOUT_MODEL
    )


def _model(part: Mapping[str, Any]) -> str | None:
    for kind in (
        "instructions_judge_pydantic_data",
        "builtin_scorer_pydantic_data",
        "third_party_scorer_data",
    ):
        model = _data(part, kind).get("model")
        if isinstance(model, str) and model:
            return model
    return None


def _data(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = part.get(key)
    return value if isinstance(value, dict) else {}
