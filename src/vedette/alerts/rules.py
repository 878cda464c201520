"""Alert rules, checked as they come in from people: the API, the command line, a manifest."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException

from vedette.alerts.channels import ChannelError, require_channel
from vedette.alerts.grammar import (
    AlertIdError,
    Condition,
    parse_alert_id,
    parse_window,
    require_scorer,
)
from vedette.traces.filters import compile_filter

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
OF_TRACES = ("drift", "below", "error_rate", "latency_p95")  # these can look at a slice
_LONGEST_NAME = 200


class RuleError(ValueError):
    """A rule can't be used; the message says what is wrong and what to write."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What to watch, when to tell, and whom.

    Attributes:
        experiment_id: whose traces.
        name: unique in the experiment; the alert id unless another was given.
        condition: metric, limit and window.
        slice: a filter of ``mlflow.search_traces``: only the traces that match; None: all.
        severity: for who is told.
        minimum_effect: by how much the estimate must be beyond the limit, in the metric's unit.
        lowest, highest: between which the scorer's values lie.
        notify: where to: ``http(s)://`` for the signed webhook, else an apprise URL.
        rollback: URL of a webhook that is called when it fires; None: none.
        renotify_seconds: tell again while it fires; 0: never.
    """

    experiment_id: str
    name: str
    condition: Condition
    slice: str | None = None
    severity: Severity = "warning"
    minimum_effect: float = 0.0
    lowest: float = 0.0
    highest: float = 1.0
    notify: tuple[str, ...] = ()
    rollback: str | None = None
    renotify_seconds: int = 86_400

    def document(self) -> dict[str, Any]:
        """As JSON; `checked_rule` reads it back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["condition"] = self.condition.id
        values["notify"] = list(self.notify)
        values["bounds"] = [values.pop("lowest"), values.pop("highest")]
        return values


_FIELDS = (
    "condition",
    "slice",
    "severity",
    "minimum_effect",
    "bounds",
    "notify",
    "rollback",
    "renotify",
)


def checked_rule(experiment_id: str, name: str, body: Any, scorers: Collection[str] | None) -> Rule:
    """A rule from what somebody wrote.

    Args:
        name: of the rule.
        body: ``condition`` (an alert id; left out, the name is one), ``slice``, ``severity``,
            ``minimum_effect``, ``bounds`` ([lowest, highest]), ``notify`` (URLs), ``rollback`` (a
            URL), ``renotify`` (a window such as 4h, or "never"); all may be left out.
        scorers: the names of those registered in the experiment; None: not asked for.

    Raises:
        RuleError: it says which field is wrong, and what to write.
    """
    if not isinstance(body, Mapping):
        raise RuleError(f"a rule is an object with {', '.join(_FIELDS)}, not {body!r:.100}")
    for key in body:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_FIELDS)}"
            raise RuleError(f"a rule has no {str(key)[:100]!r}; {hint}")
    if not 0 < len(name) <= _LONGEST_NAME or name == "*":
        raise RuleError(f"a rule's name has 1 to {_LONGEST_NAME} characters, and is not '*'")
    given = {key: value for key, value in body.items() if value is not None}
    try:
        condition = parse_alert_id(_text(given, "condition", name))
        if scorers is not None:
            require_scorer(condition, scorers)
        lowest, highest = _bounds(given.get("bounds", (0.0, 1.0)))
        rule = Rule(
            experiment_id=experiment_id,
            name=name,
            condition=condition,
            slice=_slice(given, condition),
            severity=_severity(given),
            minimum_effect=_number(given, "minimum_effect"),
            lowest=lowest,
            highest=highest,
            notify=_notify(given.get("notify", ())),
            rollback=_rollback(given),
            renotify_seconds=_renotify(given),
        )
    except (AlertIdError, ChannelError) as error:
        raise RuleError(str(error)) from error
    _require_sense(rule)
    return rule


def stored_rule(experiment_id: str, name: str, document: Mapping[str, Any]) -> Rule:
    """The inverse of `Rule.document`."""
    lowest, highest = document["bounds"]
    return Rule(
        experiment_id=experiment_id,
        name=name,
        condition=parse_alert_id(document["condition"]),
        slice=document["slice"],
        severity=document["severity"],
        minimum_effect=document["minimum_effect"],
        lowest=lowest,
        highest=highest,
        notify=tuple(document["notify"]),
        rollback=document["rollback"],
        renotify_seconds=document["renotify_seconds"],
    )


def _require_sense(rule: Rule) -> None:
    condition, extent = rule.condition, rule.highest - rule.lowest
    if condition.kind == "below" and not rule.lowest < condition.number < rule.highest:
        raise RuleError(
            f"{condition.id}: the limit {condition.number:g} is not between the bounds of the"
            f" scores, {rule.lowest:g} and {rule.highest:g}; set bounds, such as [1, 5], for"
            " scores that are no shares"
        )
    if condition.kind == "drift" and not condition.number < extent:
        raise RuleError(
            f"{condition.id}: scores between {rule.lowest:g} and {rule.highest:g} can't fall by"
            f" {condition.number:g}; set bounds, such as [1, 5]"
        )


def _text(given: Mapping[str, Any], key: str, default: str) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise RuleError(f"{key} must be text, not {value!r:.100}")
    return value


def _number(given: Mapping[str, Any], key: str) -> float:
    value = given.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(f"{key} must be a number, not {value!r:.100}")
    if not (math.isfinite(value) and value >= 0):
        raise RuleError(f"{key} must be 0 or more, not {value:g}")
    return float(value)


def _bounds(value: Any) -> tuple[float, float]:
    match value:
        case [int() | float() as lowest, int() | float() as highest] if (
            math.isfinite(lowest) and math.isfinite(highest) and lowest < highest
        ):
            return float(lowest), float(highest)
    raise RuleError(f"bounds must be [lowest, highest], such as [1, 5], not {value!r:.100}")


def _severity(given: Mapping[str, Any]) -> Severity:
    value = given.get("severity", "warning")
    if value not in SEVERITIES:
        raise RuleError(f"severity must be one of {', '.join(SEVERITIES)}, not {value!r:.100}")
    return cast(Severity, value)


def _slice(given: Mapping[str, Any], condition: Condition) -> str | None:
    text = _text(given, "slice", "")
    if not text:
        return None
    if condition.kind not in OF_TRACES:
        raise RuleError(
            f"{condition.id} can't look at a slice; alerts on scorers, errors and latency can"
        )
    try:
        compiled = compile_filter(text, None)
    except MlflowException as error:
        raise RuleError(f"the slice {text[:200]!r} can't be used: {error.message}") from error
    if compiled.spans is not None:
        raise RuleError(
            f"the slice {text[:200]!r} compares the content of spans, which takes too long for"
            " every minute; compare tags, metadata or attributes instead"
        )
    return text


def _notify(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise RuleError(f"notify must be a list of URLs, not {value!r:.60}")
    for url in value:
        require_channel(url)
    return tuple(dict.fromkeys(value))


def _rollback(given: Mapping[str, Any]) -> str | None:
    url = _text(given, "rollback", "")
    if not url:
        return None
    if urlsplit(url).scheme not in ("http", "https"):
        raise RuleError("rollback must be the http:// or https:// URL of a webhook")
    require_channel(url)
    return url


def _renotify(given: Mapping[str, Any]) -> int:
    value = _text(given, "renotify", "24h")
    return 0 if value == "never" else parse_window(value, "renotify")
