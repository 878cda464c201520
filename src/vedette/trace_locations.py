"""The trace locations that the control database knows, remembered in the data directory."""

from __future__ import annotations

import logging

import sqlalchemy
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from vedette.lake.locations import LOCATION_TAG, Binding, Locations
from vedette.named_sql import statements
from vedette.scoring.active import ControlUnavailable, control_engine, is_missing
from vedette.settings import Settings

logger = logging.getLogger(__name__)

_SQL = statements("vedette", "trace_locations")


def learn_locations(settings: Settings, locations: Locations) -> None:
    """Note every experiment's location. Servers that share a control database learn so what others
    were told, and one whose data directory is lost finds its tables again.

    Raises:
        ControlUnavailable: the database can't be read now.
    """
    engine = control_engine(settings.control_uri)
    try:
        with engine.connect() as connection:
            query = sqlalchemy.text(_SQL["locations"])
            rows = connection.execute(query, {"tag": LOCATION_TAG}).all()
    except SQLAlchemyError as error:
        if is_missing(engine):  # nobody can have said anything
            return
        reason = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise ControlUnavailable(
            f"can't read the trace locations from the control database: {reason}"
        ) from error
    finally:
        engine.dispose()
    for experiment_id, text in rows:
        learn(str(experiment_id), text, locations)


def learn(experiment_id: str, tag: str, locations: Locations) -> None:
    """Note an experiment's location as its tag says it."""
    try:
        locations.note(experiment_id, Binding.of(tag))
    except ValueError as error:  # only who writes into the database itself can do that
        logger.warning("the tag %s of experiment %s: %s", LOCATION_TAG, experiment_id, error)
