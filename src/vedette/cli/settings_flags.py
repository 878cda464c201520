"""The settings as flags of a command, and as people read them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import ByteSize

from vedette.settings import Settings, flag_name, load_settings


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag per field of `Settings`, and ``--config``.

    The command's first parameter receives the `LoadedSettings`. Values stay text here, so that a
    wrong one is reported alike whether it came from a flag, the environment or the file.
    """

    @wraps(command)
    def with_settings(*, config: Path | None, **given: Any) -> None:
        flags = {name: given.pop(name) for name in Settings.model_fields}
        command(load_settings(flags, config), **given)

    resolved = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=resolved[parameter.name])
        for parameter in list(inspect.signature(command).parameters.values())[1:]
    ]
    options = [_settings_option(name) for name in Settings.model_fields]
    file = typer.Option(
        "--config",
        metavar="FILE",
        rich_help_panel="Settings",
        help="TOML file of settings. [default: vedette.toml, if there is one]",
    )
    options.append(_option("config", Annotated[Path | None, file]))
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *options)]
    with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_settings


_METAVARS: dict[Any, str] = {Path: "DIR", ByteSize: "BYTES", float: "SECONDS", int: "N"}


def _settings_option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    default = "" if field.default is None else f" [default: {shown(field.default)}]"
    option = typer.Option(
        flag_name(name),
        help=f"{field.description}{default}",
        metavar=_METAVARS.get(field.annotation, "TEXT"),
        rich_help_panel="Settings",
    )
    return _option(name, Annotated[str | None, option])


def _option(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def shown(value: Any) -> str:
    """A setting as people read it: sizes with their unit, passwords hidden."""
    if isinstance(value, ByteSize):
        return value.human_readable()
    return re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", str(value))
