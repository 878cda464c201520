"""Tables of the control database that hold rules, their states and what is to be sent."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text

_METADATA = MetaData()
_NAME = 255
_BIG = BigInteger().with_variant(Integer, "sqlite")  # only so does SQLite count up by itself


def _of_rule(primary: bool) -> list[Column[str]]:
    return [
        Column("experiment_id", String(32), primary_key=primary, nullable=False),
        Column("name", String(_NAME), primary_key=primary, nullable=False),
    ]


# Times are ms since the epoch; `document`, `memory`, `evidence` and `message` are JSON.
RULES = Table(
    "vedette_alert_rules",
    _METADATA,
    *_of_rule(True),
    Column("document", Text, nullable=False),
    Column("edition", String(32), nullable=False),  # another one each time that the rule is put
    Column("state", String(32), nullable=False),
    Column("since_ms", _BIG, nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("memory", Text),
    Column("evaluated_ms", _BIG),
    Column("told_ms", _BIG),  # while it fires: when people were told last
    Column("acknowledged_ms", _BIG),
    Column("acknowledged_by", String(_NAME)),
)
HISTORY = Table(
    "vedette_alert_history",
    _METADATA,
    Column("id", _BIG, primary_key=True, autoincrement=True),
    *_of_rule(False),
    Column("at_ms", _BIG, nullable=False),
    Column("event", String(32), nullable=False),  # a state, or acknowledged
    Column("previous", String(32), nullable=False),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Index("vedette_alert_history_of_rule", "experiment_id", "name", "id"),
)
SILENCES = Table(
    "vedette_alert_silences",
    _METADATA,
    Column("id", String(32), primary_key=True),
    *_of_rule(False),  # name '*': every rule of the experiment
    Column("from_ms", _BIG, nullable=False),
    Column("until_ms", _BIG, nullable=False),
    Column("author", String(_NAME), nullable=False),
    Column("comment", Text, nullable=False),
)
DELIVERIES = Table(
    "vedette_alert_deliveries",
    _METADATA,
    Column("number", _BIG, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    *_of_rule(False),
    Column("channel", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_ms", _BIG, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_ms", _BIG),  # None: delivered, or given up
    Column("delivered_ms", _BIG),
    Column("error", Text),
    Index("vedette_alert_deliveries_due", "next_ms"),
    Index("vedette_alert_deliveries_of_rule", "experiment_id", "name", "number"),
)


def make_alert_tables(uri: str) -> None:
    """Make what is missing of them in the control database, which exists."""
    engine = sqlalchemy.create_engine(uri)
    try:
        _METADATA.create_all(engine)
    finally:
        engine.dispose()
