"""Where in a filter string the clause is that is refused. MLflow's parser doesn't say."""

from __future__ import annotations

import re

import sqlparse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from sqlparse import sql
from sqlparse.tokens import Keyword

from vedette.traces.filters import compile_filter

_BARE_TRUTH = re.compile(r"[\w.`]+\s*!?=\s*(true|false)\b", re.IGNORECASE)


def require_filter(filter_string: str) -> None:
    """Compile a filter, as scoring will.

    Raises:
        MlflowException: INVALID_PARAMETER_VALUE, with the position (from 1) of what is wrong.
    """
    try:
        compile_filter(filter_string, None)
    except MlflowException as error:
        position = _position(filter_string)
        rest = filter_string[position:]
        bare = _BARE_TRUTH.match(rest)
        hint = f" Write the value in quotes: '{bare[1]}'." if bare else ""
        raise MlflowException(
            f"filter_string is refused at character {position + 1}, at "
            f"{_excerpt(rest)}: {error.message}{hint}",
            INVALID_PARAMETER_VALUE,
        ) from error


def _position(filter_string: str) -> int:
    """The first clause that is refused alone, and in it the first token that is no comparison."""
    statements = sqlparse.parse(filter_string)
    tokens = list(statements[0].tokens) if statements else []
    position = 0
    clause: list[tuple[int, sql.Token]] = []
    for token in [*tokens, None]:
        if token is None or token.match(Keyword, "AND"):
            text = "".join(str(one) for _, one in clause)
            if text.strip() and not _is_accepted(text):
                break
            clause = []
        else:
            clause.append((position, token))
        position += len(str(token))
    words = [(at, token) for at, token in clause if not token.is_whitespace]
    if not words:
        return 0
    others = [at for at, token in words if not isinstance(token, sql.Comparison)]
    return others[0] if others else words[0][0]


def _is_accepted(clause: str) -> bool:
    try:
        compile_filter(clause, None)
    except MlflowException:
        return False
    return True


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
