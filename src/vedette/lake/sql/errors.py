"""Why a query got no answer, by who can do something about it."""

from __future__ import annotations


class QueryRefused(ValueError):
    """The query can't be run as it is; the message says what is wrong with it."""


class SqlBusy(Exception):
    """Too many queries are running; the same one may succeed a moment later."""
