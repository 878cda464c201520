"""A manifest of what a server has."""

from __future__ import annotations

from typing import Any

import yaml

from vedette.manifest.judges import judge_of
from vedette.manifest.server import Found, Registered

_DEFAULTS = {"severity": "warning", "minimum_effect": 0.0, "renotify": "24h"}


def manifest_of(experiment: str, found: Found) -> str:
    """The YAML that declares an experiment as it is; applied there it changes nothing.

    Channels are not in it, as they hold tokens: those that are left out stay. Scorers that were
    made in Python are declared by their names.
    """
    document: dict[str, Any] = {"experiment": experiment}
    if found.scorers:
        document["scorers"] = [_scorer(name, one) for name, one in sorted(found.scorers.items())]
    if found.archival is not None:
        setting = found.archival
        document["archival"] = {"table": str(setting.table)}
        if setting.retention_days is not None:
            document["archival"]["retention_days"] = setting.retention_days
        if not setting.optimize:
            document["archival"]["optimize"] = False
    if found.alerts:
        document["alerts"] = [_alert(one) for _, one in sorted(found.alerts.items())]
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    told = [
        f"# {name!r} tells {', '.join(one['notify'])}: say notify to change that\n"
        for name, one in sorted(found.alerts.items())
        if one["notify"]
    ]
    return "".join(["# See docs/manifest.md\n", *told, text])


def _scorer(name: str, scorer: Registered) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    judge = judge_of(name, scorer.stored)
    if judge is not None:
        one = len(judge.texts) == 1
        found[judge.kind] = judge.texts[0] if one else list(judge.texts)
        if judge.model is not None:
            found["model"] = judge.model
    found["sampling"] = scorer.sampling
    if scorer.filter is not None and scorer.sampling:
        found["filter"] = scorer.filter
    if scorer.strata:
        found["strata"] = [{"filter": text, "sampling": rate} for text, rate in scorer.strata]
    if scorer.budget:
        found["budget"] = dict(scorer.budget)
    return found


def _alert(alert: Any) -> Any:
    found: dict[str, Any] = {"id": alert["condition"]}
    if alert["name"] != alert["condition"]:
        found["name"] = alert["name"]
    if alert["slice"]:
        found["slice"] = alert["slice"]
    if alert["bounds"] != [0.0, 1.0]:
        found["bounds"] = alert["bounds"]
    found |= {key: alert[key] for key, default in _DEFAULTS.items() if alert[key] != default}
    return found["id"] if len(found) == 1 else found
