"""Alerts as the API, the command line and the pages have them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_STATE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)

from vedette.alerts.channels import shown
from vedette.alerts.control import AlertsUnavailable
from vedette.alerts.grammar import AlertIdError, format_window, parse_window
from vedette.alerts.rules import Rule, RuleError, checked_rule
from vedette.alerts.silences import EVERY
from vedette.alerts.store import AlertStore, UnknownRule, Watched
from vedette.mlflow_app.plane import TracePlane
from vedette.scoring.active import control_engine

_LONGEST_AUTHOR, _LONGEST_COMMENT = 200, 2000


class Alerts:
    """Use from any thread. An experiment may be given by its id or its name.

    Raises (every method):
        MlflowException: it says what is wrong; nothing was changed.
    """

    def __init__(self, plane: TracePlane) -> None:
        self._control = plane.control
        settings = plane.settings
        self._store = AlertStore(control_engine(settings.control_uri), settings.url)

    def rules(self, experiment: str | None = None) -> list[dict[str, Any]]:
        """All rules with their states; of one experiment, or of all."""
        with _told():
            found = self._store.rules(experiment and self.experiment(experiment))
            return [self._document(one) for one in found]

    def show(self, experiment: str, name: str) -> dict[str, Any]:
        """A rule with its state, the last that happened, and what was sent."""
        with _told(name):
            experiment_id = self.experiment(experiment)
            found = self._document(self._store.rule(experiment_id, name))
            found["history"] = self._store.history(experiment_id, name, limit=10)
            found["deliveries"] = self._deliveries(experiment_id, name)
            return found

    def put(
        self, experiment: str, name: str, body: Any, *, keep_channels: bool = False
    ) -> dict[str, Any]:
        """Add a rule, or put it in the place of the one of its name.

        Args:
            body: as in `vedette.alerts.rules.checked_rule`.
            keep_channels: whom a rule tells, and its rollback, stay where the body leaves them out:
                they hold tokens, which nobody is told.
        """
        with _told(name):
            experiment_id = self.experiment(experiment)
            scorers = {one.scorer_name for one in self._control.list_scorers(experiment_id)}
            rule = self._wanted(experiment_id, name, body, scorers, keep_channels)
            self._store.put(rule)
            return self._document(self._store.rule(experiment_id, name))

    def changes(
        self, experiment: str, name: str, body: Any, *, keep_channels: bool = False
    ) -> list[str]:
        """What `put` would change, as names of fields; "alert": there is no such rule yet. Scorers
        that aren't registered are not asked for: they may be by then."""
        with _told(name):
            experiment_id = self.experiment(experiment)
            rule = self._wanted(experiment_id, name, body, None, keep_channels)
            try:
                before = self._store.rule(experiment_id, name).rule.document()
            except UnknownRule:
                return ["alert"]
            return [field for field, value in rule.document().items() if before[field] != value]

    def _wanted(
        self,
        experiment_id: str,
        name: str,
        body: Any,
        scorers: Collection[str] | None,
        keep_channels: bool,
    ) -> Rule:
        if keep_channels and isinstance(body, Mapping):
            try:
                known = self._store.rule(experiment_id, name).rule
                body = {"notify": list(known.notify), "rollback": known.rollback, **body}
            except UnknownRule:
                pass
        return checked_rule(experiment_id, name, body, scorers)

    def remove(self, experiment: str, name: str) -> None:
        """Remove a rule."""
        with _told(name):
            self._store.remove(self.experiment(experiment), name)

    def acknowledge(self, experiment: str, name: str, body: Any) -> None:
        """``{"by": ...}``: somebody takes care."""
        with _told(name):
            by = _text(_object(body), "by", _LONGEST_AUTHOR) or "somebody"
            self._store.acknowledge(self.experiment(experiment), name, by)

    def silence(self, experiment: str, name: str, body: Any) -> dict[str, Any]:
        """``{"for": "2h", "from": ISO time, "by": ..., "comment": ...}``; ``"for": null`` ends it.

        Name ``*``: every rule of the experiment.
        """
        with _told(name):
            experiment_id, given = self.experiment(experiment), _object(body)
            if given.get("for") is None:
                return {"ended": self._store.silences.end(experiment_id, name)}
            seconds = parse_window(_text(given, "for", 20), "for")
            from_ms = _moment(given.get("from"))
            until_ms = from_ms + seconds * 1000
            by = _text(given, "by", _LONGEST_AUTHOR) or "somebody"
            comment = _text(given, "comment", _LONGEST_COMMENT)
            if name != EVERY:
                self._store.rule(experiment_id, name)
            found = self._store.silences.add(experiment_id, name, from_ms, until_ms, by, comment)
            return {"id": found, "from_ms": from_ms, "until_ms": until_ms}

    def silences(self, experiment: str) -> list[dict[str, Any]]:
        """Silences that are not over."""
        with _told():
            return self._store.silences.current(self.experiment(experiment))

    def history(self, experiment: str, name: str | None, limit: int) -> list[dict[str, Any]]:
        """What happened, newest first; of one rule, or of all there were."""
        with _told():
            return self._store.history(self.experiment(experiment), name, limit)

    def test(self, experiment: str, name: str) -> list[str]:
        """Send a test to the rule's channels; the deliveries' ids."""
        with _told(name):
            experiment_id = self.experiment(experiment)
            if not self._store.rule(experiment_id, name).rule.notify:
                raise MlflowException.invalid_parameter_value(
                    f"{name} tells nobody: give it a channel, such as --notify https://..."
                )
            return self._store.test(experiment_id, name)

    def experiment(self, given: str) -> str:
        """The id of the experiment with this id; if there is none, with this name."""
        if given.isascii() and given.isdigit() and len(given) < 19:
            with suppress(MlflowException):
                return str(self._control.get_experiment(given).experiment_id)
        found = self._control.get_experiment_by_name(given)
        if found is None:
            raise MlflowException(
                f"there is no experiment with the id or name {given[:200]!r}",
                RESOURCE_DOES_NOT_EXIST,
            )
        return str(found.experiment_id)

    def _document(self, one: Watched) -> dict[str, Any]:
        rule = one.rule
        until = [
            silence["until_ms"]
            for silence in self._store.silences.current(rule.experiment_id)
            if silence["name"] in (rule.name, EVERY) and silence["from_ms"] <= time.time() * 1000
        ]
        document = rule.document()
        seconds = document.pop("renotify_seconds")
        return {
            "experiment_id": rule.experiment_id,
            "name": rule.name,
            **document,
            "notify": [shown(url) for url in rule.notify],
            "rollback": rule.rollback and shown(rule.rollback),
            "renotify": format_window(seconds) if seconds else "never",
            "state": one.state,
            "since_ms": one.since_ms,
            "why": one.why,
            "evidence": one.evidence,
            "evaluated_ms": one.evaluated_ms,
            "told_ms": one.told_ms,
            "acknowledged_ms": one.acknowledged_ms,
            "acknowledged_by": one.acknowledged_by,
            "silenced_until_ms": max(until, default=None),
        }

    def _deliveries(self, experiment_id: str, name: str) -> list[dict[str, Any]]:
        names = ("id", "created_ms", "attempts", "next_ms", "delivered_ms", "error")
        return [
            {
                "event": one["message"]["event"],
                "channel": shown(one["channel"]),
                **{key: one[key] for key in names},
            }
            for one in self._store.outbox.of_rule(experiment_id, name)
        ]


@contextmanager
def _told(name: str = "") -> Iterator[None]:
    """What goes wrong, as MLflow says it."""
    try:
        yield
    except (RuleError, AlertIdError) as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
    except UnknownRule as error:
        message = f"there is no alert {name!r} in the experiment; see `vedette alerts list`"
        raise MlflowException(message, RESOURCE_DOES_NOT_EXIST) from error
    except AlertsUnavailable as error:
        raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
    except ValueError as error:
        raise MlflowException(str(error), INVALID_STATE) from error


def _object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise RuleError(f"the body must be a JSON object, not {body!r:.100}")
    return body


def _text(given: Mapping[str, Any], key: str, longest: int) -> str:
    value = given.get(key) or ""
    if not isinstance(value, str) or len(value) > longest:
        raise RuleError(f"{key} must be text of {longest} characters at most")
    return value


def _moment(value: Any) -> int:
    """Milliseconds since the epoch of an ISO time; now for None."""
    if value is None:
        return int(time.time() * 1000)
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError) as error:
        raise RuleError(
            f"from must be a time such as 2026-11-22T20:00:00+01:00, not {value!r:.100}"
        ) from error
