"""Judges that a manifest can write down, as MLflow's scorers and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

_MODEL = re.compile(r"[A-Za-z0-9_.-]+:/\S+")
_CONTEXT = "\n\nThe request: {{ inputs }}\n\nThe response: {{ outputs }}"


class JudgeError(ValueError):
    """A judge can't be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A judge.

    Attributes:
        kind: ``guidelines`` or ``question``.
        texts: the guidelines; of a question: one.
        model: None: MLflow's default.
    """

    name: str
    kind: str
    texts: tuple[str, ...]
    model: str | None = None

    def scorer(self) -> Any:
        """MLflow's scorer.

        Raises:
            JudgeError: MLflow refuses it.
        """
        from mlflow.genai.judges import make_judge
        from mlflow.genai.scorers import Guidelines

        try:
            if self.kind == "guidelines":
                texts = list(self.texts) if len(self.texts) > 1 else self.texts[0]
                return Guidelines(name=self.name, guidelines=texts, model=self.model)
            return make_judge(
                name=self.name,
                instructions=self._asked()[0],
                model=self.model,
                feedback_value_type=bool,
            )
        except (MlflowException, ValueError) as error:
            raise JudgeError(f"the judge {self.name} can't be made: {error}") from error

    def is_in(self, stored: Mapping[str, Any]) -> bool:
        """Whether a stored definition is this judge; of any model, if this one names none."""
        found = judge_of(self.name, stored)
        if found is None or found.kind != self.kind:
            return False
        return found._asked() == self._asked() and self.model in (None, found.model)

    def _asked(self) -> tuple[str, ...]:
        """The guidelines, or the question with what it is about."""
        if self.kind == "guidelines" or "{{" in self.texts[0]:
            return self.texts
        return (self.texts[0] + _CONTEXT,)


def require_judge(judge: Judge) -> None:
    """Refuse what MLflow makes no scorer of, or has no model for.

    Raises:
        JudgeError: it says why.
    """
    if judge.model is not None and not _MODEL.fullmatch(judge.model):
        told = f"the model {judge.model!r:.100} of {judge.name} is none"
        raise JudgeError(f"{told}: write provider:/model, such as openai:/gpt-4.1-mini")
    judge.scorer()


def judge_of(name: str, stored: Mapping[str, Any]) -> Judge | None:
    """The judge that a stored definition is; None: a manifest has no words for it.

    Args:
        stored: MLflow's ``SerializedScorer`` as a dict.
    """
    if stored.get("builtin_scorer_class") == "Guidelines":
        data = stored.get("builtin_scorer_pydantic_data") or {}
        texts = data.get("guidelines")
        listed = tuple(texts) if isinstance(texts, list) else (texts,)
        return Judge(name, "guidelines", listed, data.get("model"))
    data = stored.get("instructions_judge_pydantic_data")
    if data is None or not data.keys() <= {"instructions", "model", "feedback_value_type"}:
        return None
    if (data.get("feedback_value_type") or {}).get("type") != "boolean":
        return None
    return Judge(name, "question", (data["instructions"],), data.get("model"))
