"""Every setting of Vedette: one typed class, and where each value came from.

A value is taken from the first place that names it: a command-line flag (``--port``), an
environment variable (``VEDETTE_PORT``), the file (``vedette.toml``, or the one given with
``--config``), the default. `load_settings` does that and remembers the place; ``vedette config``
prints it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

ENV_PREFIX = "VEDETTE_"
DEFAULT_FILE = Path("vedette.toml")
_MIB = 1024 * 1024


class SettingsError(ValueError):
    """A setting is wrong. The message names the flag, variable or file key and what is accepted."""


LAKE_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "file")

# MLflow's name for it, which users may have set already
SESSION_BUFFER_VARIABLE = "MLFLOW_ONLINE_SCORING_DEFAULT_SESSION_COMPLETION_BUFFER_SECONDS"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _lake(place: str) -> str:
    scheme, found, _ = place.partition("://")
    if found and scheme not in LAKE_SCHEMES:
        raise ValueError(f"{scheme}:// is none of {', '.join(LAKE_SCHEMES)}, nor a directory")
    return place


class Settings(BaseSettings):
    """How one Vedette runs. Sizes are bytes (``512MiB`` is understood), times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    data: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("./vedette-data"),
        validate_default=True,
        description="Directory of the journal, the read model and, unless set elsewhere, the rest.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address the server listens on.")
    port: int = Field(5000, ge=1, le=65535, description="Port the server listens on.")
    backend_store_uri: str | None = Field(
        None,
        description="Database of experiments, runs and scorers, e.g. postgresql://...  "
        "[default: control.db in the data directory]",
    )
    lake: Annotated[str, AfterValidator(_lake)] | None = Field(
        None,
        description="Where the Delta tables are: a directory, s3://, gs:// or az://.  "
        "[default: lake/ in the data directory]",
    )
    max_body_bytes: ByteSize = Field(
        ByteSize(64 * _MIB), gt=0, description="Largest request body accepted, after decompression."
    )
    journal_max_bytes: ByteSize = Field(
        ByteSize(4096 * _MIB),
        gt=0,
        description="Journal size at which writes are refused with 503 until the lake catches up.",
    )
    segment_seconds: float | None = Field(
        None,
        gt=0,
        description="A journal segment is sealed, to become one Delta commit, at this age.  "
        "[default: 1, or 5 where the lake is in an object store]",
    )
    segment_bytes: ByteSize = Field(
        ByteSize(8 * _MIB), gt=0, description="... or at this size, whichever comes first."
    )
    erasure_grace: float = Field(
        600.0,
        ge=0,
        description="Files that `vedette delete` has replaced stay this long, for queries that "
        "still read them.",
    )
    trace_completion_buffer: float = Field(
        10.0,
        ge=0,
        description="A trace is scored when its root has ended and nothing came for this long.",
    )
    max_trace_age: float = Field(
        3600.0,
        gt=0,
        description="A trace without a root that ended is given up, as incomplete, at this age.",
    )
    session_completion_buffer: float = Field(
        300.0,
        ge=0,
        description="A session is scored when no trace of it came for this long. Also read from "
        f"{SESSION_BUFFER_VARIABLE}.",
    )
    workers: int = Field(
        min(2, os.cpu_count() or 1), ge=1, le=256, description="Worker processes per scorer."
    )
    scorer_timeout: float = Field(
        300.0, gt=0, description="A scorer that takes longer than this on one trace is stopped."
    )
    judge_concurrency: int = Field(
        32, ge=1, le=1024, description="Calls of judges that may be under way to one model."
    )
    prices: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None,
        description="JSON file with prices of models, for what judges cost.  "
        "[default: the table that comes with MLflow]",
    )
    budget_calls_per_minute: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Calls of all judges together; near it their rates are lowered.",
    )
    budget_dollars_per_day: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Cost of all judges together (UTC days); near it their rates are lowered.",
    )
    max_active_scorers: int = Field(
        20, ge=1, description="Scorers of one experiment that may be started at the same time."
    )

    sandbox: Literal["none", "process", "container"] | None = Field(
        None,
        description="What keeps scorers from the machine: container (no network, no files of "
        "others), process (limits only) or none.  [default: container where the system allows it]",
    )

    @property
    def control_uri(self) -> str:
        """SQLAlchemy URI of the control database."""
        return self.backend_store_uri or f"sqlite:///{self.data / 'control.db'}"

    @property
    def lake_uri(self) -> str:
        """Root of the lake: an absolute path, or a URI with a scheme."""
        if self.lake is None:
            return str(self.data / "lake")
        return self.lake if "://" in self.lake else str(_absolute(Path(self.lake)))

    @property
    def commit_seconds(self) -> float:
        """Age at which a journal segment is sealed: requests to an object store cost money."""
        if self.segment_seconds is not None:
            return self.segment_seconds
        return 5.0 if "://" in self.lake_uri and not self.lake_uri.startswith("file:") else 1.0

    @property
    def server_journal(self) -> Path:
        """Directory of the journal that the server writes."""
        return self.data / "journal" / "server"

    @property
    def engine_journal(self) -> Path:
        """Directory of the journal that the engine writes."""
        return self.data / "journal" / "engine"

    @property
    def index_path(self) -> Path:
        """The read model, a SQLite database."""
        return self.data / "index.db"

    @property
    def lake_state(self) -> Path:
        """The engine's notes on the lake's tables."""
        return self.data / "lake.state"

    @property
    def archive_state(self) -> Path:
        """Where each row of the archives is: copies of what their files say."""
        return self.data / "archives"

    @property
    def scratch(self) -> Path:
        """Room for work on files; what is left there is removed."""
        return self.data / "scratch"

    @property
    def metrics_path(self) -> Path:
        """The columnar mirror of the read model, a DuckDB database."""
        return self.data / "metrics.duckdb"

    @property
    def webhook_secret(self) -> Path:
        """What the webhooks of alerts are signed with."""
        return self.data / "webhook-secret"

    @property
    def artifacts(self) -> Path:
        """Root of MLflow's artifacts."""
        return self.data / "artifacts"

    @property
    def run_dir(self) -> Path:
        """Lock and state files of the running processes."""
        return self.data / "run"

    @property
    def url(self) -> str:
        """Where a process on this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


class LoadedSettings(NamedTuple):
    """Settings and, for each field, where its value came from."""

    settings: Settings
    origins: dict[str, str]


def flag_name(field: str) -> str:
    """``max_body_bytes`` -> ``--max-body-bytes``."""
    return "--" + field.replace("_", "-")


def env_name(field: str) -> str:
    """``max_body_bytes`` -> ``VEDETTE_MAX_BODY_BYTES``."""
    return ENV_PREFIX + field.upper()


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> LoadedSettings:
    """Settings from flags, environment, file and defaults, in this order of precedence.

    Args:
        flags: field name -> value; None means that the flag was not given.
        config: the file; without it ``vedette.toml`` is read if the working directory has one.

    Raises:
        SettingsError: a value is not acceptable, the file is missing, not TOML or has unknown keys.
    """
    places = (
        ("flag", {name: value for name, value in flags.items() if value is not None}),
        ("environment", _read_environment()),
        ("file", _read_file(config)),
    )
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    file = config or DEFAULT_FILE
    for place, given in reversed(places):
        for name, value in given.items():
            values[name] = value
            origins[name] = {
                "flag": f"flag {flag_name(name)}",
                "environment": f"environment {env_name(name)}",
                "file": f"file {file}, key {name}",
            }[place]
    try:
        return LoadedSettings(Settings(**values), origins)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error


def _read_environment() -> dict[str, Any]:
    for name in os.environ.keys() - map(env_name, Settings.model_fields):
        # Others may have variables with this prefix; a near miss is a mistake
        field = name.removeprefix(ENV_PREFIX).lower()
        near = difflib.get_close_matches(field, Settings.model_fields, n=1, cutoff=0.85)
        if near and name.startswith(ENV_PREFIX):
            raise SettingsError(f"environment {name}: no such setting; {env_name(near[0])}?")
    values = EnvSettingsSource(Settings)()
    if buffer := os.environ.get(SESSION_BUFFER_VARIABLE):
        values.setdefault("session_completion_buffer", buffer)
    return values


def _read_file(config: Path | None) -> dict[str, Any]:
    path = config or DEFAULT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if config is None:
            return {}
        raise SettingsError(f"--config: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    known = list(Settings.model_fields)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise SettingsError(f"{path}: unknown key {key}; {hint}")
    return values


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0])
        message = problem["msg"][0].lower() + problem["msg"][1:]
        lines.append(f"{origins.get(name, name)}: {problem['input']!r}: {message}")
    return "\n".join(lines)
