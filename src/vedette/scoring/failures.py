"""What to do about a judge that failed: try again, wait for somebody, or say so on the trace.

The calls it made tell most: a status and the provider's words. Where no call was made, or none that
could be seen, the exceptions do, by their kind and, failing that, by their words. All of it is
looked up in one table, `_RULES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vedette.scoring.outcomes import Hold, Retry
from vedette.scoring.provider_calls import ProviderCall

_MESSAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Permanent:
    """Trying again would not help this unit: it gets an error."""

    code: str
    """CONTENT_FILTERED, CONTEXT_TOO_LONG, BAD_ANSWER, REFUSED or PROVIDER_REFUSED."""
    message: str
    """For people."""


Failure = Retry | Hold | Permanent


def classify(
    error: BaseException | None, text: str, calls: Sequence[ProviderCall], model: str
) -> Failure | None:
    """What a judge's failure comes to; None if it is not one of the provider's.

    Args:
        error: what the judge raised, None if it returned a feedback with an error.
        text: the error in words.
        calls: what it asked of the provider, in order.
        model: `provider:/model`.
    """
    if passing := will_pass(calls, model):
        return passing
    if calls and (failure := _of_call(calls[-1], model)):
        return failure
    return _of_exception(error, text, model, asked=bool(calls))


def will_pass(calls: Sequence[ProviderCall], model: str) -> Retry | Hold | None:
    """What a judge's calls failed of, if that is not for good.

    A judge may go on after a failed call: some of MLflow's do without what they asked for, and an
    ensemble without one of its judges. Its score would be another than it should be, so this
    decides, whatever the judge says.
    """
    for call in reversed(calls):
        if isinstance(failure := _of_call(call, model), (Retry, Hold)):
            return failure
    return None


def _of_call(call: ProviderCall, model: str) -> Failure | None:
    if call.problem is None:
        return None if call.finish is None else _look_up("finish", call.finish, model)
    if call.status is None:
        happened = "timeout" if call.timed_out else "unreachable"
    else:
        happened = str(call.status)
    return _look_up(happened, call.problem, model, call.after_seconds)


def _of_exception(
    error: BaseException | None, text: str, model: str, *, asked: bool
) -> Failure | None:
    chain = list(_chain(error))
    for cause in chain:
        # A provider's own library: its status is as good as one that was seen
        status = getattr(cause, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return _look_up(str(status), str(cause), model)
        if not asked and isinstance(cause, (TimeoutError, ConnectionError)):
            happened = "timeout" if isinstance(cause, TimeoutError) else "unreachable"
            return _look_up(happened, str(cause), model)
    said = " | ".join([text, *(f"{type(cause).__name__}: {cause}" for cause in chain)])
    return _look_up("asked" if asked else "not asked", said, model)


class _Rule(NamedTuple):
    """If `happened` is this and the words contain that, it is this kind of failure."""

    happened: str  # a pattern of the whole: 429, timeout, unreachable, finish, asked or not asked
    words: str  # a pattern of what was said
    kind: type[Retry] | type[Hold] | type[Permanent]
    code: str
    text: str  # {model}, {happened}, {key}: the variable of the key; what was said is added


_MODEL_MISSING = (
    "The provider has no model {model}, or none at the configured address. Register the scorer "
    "with another model, or mend the address."
)
_LIBRARY_MISSING = (
    "A library is missing to ask {model} (many providers need litellm). Install it where the "
    "engine runs, and restart it."
)
_KEY_MISSING = "There is no API key for {model}. Set {key} for the engine and restart it."
_NO_CREDIT = (
    "The account behind {model} has no credit left. Add some, or register the scorer with another "
    "model."
)
_FILTER_WORDS = (
    r"content_?filter|content[ _](management )?policy|responsible ?ai"
    r"|\b(safety|blocklist|prohibited_content|recitation|guardrail_intervened)\b"
)

# The first that fits
_RULES = (
    _Rule("timeout", "", Retry, "TIMEOUT", "{model} gave no answer in time."),
    _Rule("unreachable", "", Retry, "CONNECTION", "{model} can't be reached."),
    _Rule(
        "429|400|403",
        "insufficient_quota|credit balance is too low|insufficient (balance|credits|funds)",
        *(Hold, "NO_CREDIT", _NO_CREDIT),
    ),
    _Rule("402", "", Hold, "NO_CREDIT", _NO_CREDIT),
    _Rule("429", "", Retry, "RATE_LIMITED", "{model} asks to slow down."),
    _Rule("408", "", Retry, "TIMEOUT", "{model} gave no answer in time."),
    _Rule("425|5..", "", Retry, "UNAVAILABLE", "{model} answered {happened}."),
    _Rule(
        "401|403|400",
        "api[ _]key not valid|invalid (api|x-api)[ -_]key",
        *(Hold, "NOT_AUTHORIZED", "The provider of {model} refused the API key: set {key}."),
    ),
    _Rule(
        "401|403",
        "",
        *(Hold, "NOT_AUTHORIZED", "The provider of {model} refused the API key: set {key}."),
    ),
    _Rule("404", "", Hold, "UNKNOWN_MODEL", _MODEL_MISSING),
    _Rule(
        "4..",
        "model_not_found|(unknown|invalid|no such) model|not a valid model"
        r"|\bmodel\b[^.]{0,80}(does not exist|doesn't exist|not found|is invalid)",
        *(Hold, "UNKNOWN_MODEL", _MODEL_MISSING),
    ),
    _Rule("4..", _FILTER_WORDS, Permanent, "CONTENT_FILTERED", "{model} filtered the content."),
    _Rule("413", "", Permanent, "CONTEXT_TOO_LONG", "This is too long for {model}."),
    _Rule(
        "4..",
        "context[ _](length|window)|too many tokens|maximum context"
        "|(prompt|input|request) is too (long|large)|exceeds? the (maximum|limit|model's)",
        *(Permanent, "CONTEXT_TOO_LONG", "This is too long for {model}."),
    ),
    _Rule("4..", "", Permanent, "PROVIDER_REFUSED", "{model} answered {happened}."),
    _Rule("finish", "^refusal", Permanent, "REFUSED", "{model} refused to judge this."),
    _Rule(
        "finish",
        "^(length|max_tokens|model_length)",
        *(Permanent, "BAD_ANSWER", "{model} ran out of tokens before its answer was done."),
    ),
    _Rule("finish", _FILTER_WORDS, Permanent, "CONTENT_FILTERED", "{model} filtered the content."),
    _Rule("finish", "^malformed|^error", Permanent, "BAD_ANSWER", "{model} gave no usable answer."),
    _Rule(
        "asked|not asked",
        r"\b(ImportError|ModuleNotFoundError)\b|no suitable adapter|pip install|No module named"
        "|is not (natively )?supported for evaluation",
        *(Hold, "NO_PROVIDER_LIBRARY", _LIBRARY_MISSING),
    ),
    _Rule(
        "not asked",
        r"api[ _]key( provided)? (is )?(not|missing|required)|_API_KEY\b.{0,30}must be set"
        r"|(set|missing|no) .{0,40}(api[ _]key|_API_KEY\b)|AWSIdAndKey|default credentials"
        "|unable to locate credentials|(NoCredentials|CredentialRetrieval)Error",
        *(Hold, "NO_API_KEY", _KEY_MISSING),
    ),
    _Rule(
        "not asked",
        "malformed model uri|gateway provider requires",
        *(Hold, "UNKNOWN_MODEL", "There is no way to ask {model}."),
    ),
    _Rule(
        "not asked",
        "(MissingSchema|InvalidSchema|InvalidURL|LocationParseError)",
        *(Hold, "BAD_ADDRESS", "The address configured for {model} is none."),
    ),
    _Rule(
        "asked",
        "failed to parse|JSONDecodeError|Expecting value|empty choices|did not return any"
        r"|KeyError: '(result|choices|message|content|usage)'|ValidationError|NoneType"
        "|does not match expected schema|list (index|indices)|failed to invoke the judge model",
        *(Permanent, "BAD_ANSWER", "{model} gave no answer that can be read as a score."),
    ),
)


def _look_up(
    happened: str, said: str, model: str, after_seconds: float | None = None
) -> Failure | None:
    said = " ".join(said.split())
    for rule in _RULES:
        if re.fullmatch(rule.happened, happened) and re.search(rule.words, said, re.IGNORECASE):
            text = rule.text.format(model=model, happened=happened, key=_key_variable(model))
            if len(said) > _MESSAGE_LIMIT:
                said = f"{said[:_MESSAGE_LIMIT]}..."
            message = text if happened == "finish" else f"{text} It was said: {said}"
            if rule.kind is Retry:
                return Retry(rule.code, message, after_seconds)
            return rule.kind(rule.code, message)  # type: ignore[call-arg]
    return None


def _key_variable(model: str) -> str:
    provider = model.partition(":/")[0]
    return {
        "bedrock": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "amazon-bedrock": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "vertex_ai": "VERTEX_CREDENTIALS or GOOGLE_APPLICATION_CREDENTIALS",
        "databricks": "DATABRICKS_HOST and DATABRICKS_TOKEN",
    }.get(provider, f"{provider.upper().replace('-', '_')}_API_KEY")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(20):  # a chain may be a ring
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
