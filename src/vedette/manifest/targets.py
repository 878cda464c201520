"""Targets: where a manifest is applied, and what names are called there."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vedette.archive.names import TableName
from vedette.archive.setting import ArchiveSetting

_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Target:
    """A place.

    Attributes:
        url: of the server; None: the one that is asked without a target.
        name_prefix: put before experiments' names. ``{user}`` is who applies it.
        schema_prefix: put before the schema of archives' tables; likewise.

    Raises:
        ValueError: a prefix has another place to fill than ``{user}``.
    """

    name: str
    url: str | None = None
    name_prefix: str = ""
    schema_prefix: str = ""
    default: bool = False

    def __post_init__(self) -> None:
        for prefix in (self.name_prefix, self.schema_prefix):
            for place in _PLACE.findall(prefix):
                if place != "user":
                    raise ValueError(
                        f"{prefix!r} of the target {self.name} has {{{place}}}: "
                        "only {user} is known"
                    )

    def experiment(self, name: str) -> str:
        """What an experiment is called there."""
        return _filled(self.name_prefix) + name

    def archive(self, setting: ArchiveSetting) -> ArchiveSetting:
        """The archive with the schema that it has there.

        Raises:
            ValueError: the name can't be a table's.
        """
        if not self.schema_prefix:
            return setting
        # A user's name may have signs that no schema's has
        prefix = re.sub(r"[^A-Za-z0-9_-]", "_", _filled(self.schema_prefix))
        table = setting.table._replace(schema=prefix + setting.table.schema)
        return replace(setting, table=TableName.parse(str(table)))


def choose(targets: Mapping[str, Target], name: str | None) -> Target:
    """The target of that name; without one the default, or the only one.

    Raises:
        ValueError: there is no such target, or it isn't clear which is meant.
    """
    if name is not None:
        if name in targets:
            return targets[name]
        known = ", ".join(targets) or "none"
        raise ValueError(f"the manifest has no target {name!r}; there are: {known}")
    if not targets:
        return Target("")
    defaults = [one for one in targets.values() if one.default]
    if len(targets) == 1 or defaults:
        return (defaults or list(targets.values()))[0]
    raise ValueError(f"which target? Write -t and one of {', '.join(targets)}, or mark a default")


def _filled(prefix: str) -> str:
    return prefix.replace("{user}", getpass.getuser()) if "{user}" in prefix else prefix
