"""A registered scorer that a client can steer but not run: custom code, or a missing library."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from mlflow.exceptions import MlflowException
from mlflow.genai.scorers.base import Scorer, ScorerKind
from pydantic import PrivateAttr


class StoredScorer(Scorer):
    """A handle: it can be started, updated, stopped, registered again; calling it is refused.

    MLflow would make a function of the stored source with ``exec()``: code that anybody who can
    register a scorer has written.
    """

    _is_session_level: bool = PrivateAttr(default=False)
    _reason: str | None = PrivateAttr(default=None)

    @classmethod
    def from_serialized(cls, data: dict[str, Any], *, reason: str | None = None) -> StoredScorer:
        """The handle for a serialized scorer (MLflow's ``SerializedScorer`` as a dict).

        Args:
            data: what is stored.
            reason: why this process can't make the scorer, if it is no custom code.
        """
        common = ("name", "description", "aggregations", "timeout")
        handle = cls(**{field: data[field] for field in common})
        handle._is_session_level = data["is_session_level_scorer"]
        handle._cached_dump = data
        handle._reason = reason
        return handle

    @property
    def kind(self) -> ScorerKind:
        return ScorerKind.DECORATOR

    @property
    def is_session_level_scorer(self) -> bool:
        return self._is_session_level

    @property
    def source(self) -> str:
        """The registered source code, to read; what is stored, if it is no function."""
        dump = self._cached_dump or {}
        if dump.get("call_source") is None:
            return json.dumps(dump, indent=2)
        body = "\n".join(f"    {line}" for line in str(dump["call_source"]).split("\n"))
        return f"def {dump['original_func_name']}{dump['call_signature']}:\n{body}\n"

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        if self._reason is not None:
            raise MlflowException.invalid_parameter_value(
                f"Scorer '{self.name}' can be started and stopped here, but not run: {self._reason}"
            )
        raise MlflowException.invalid_parameter_value(
            f"Scorer '{self.name}' was loaded from the server, which hands out its source but does "
            "not run it here. Call or evaluate with the @scorer function it was registered from; "
            "`.source` shows it."
        )
