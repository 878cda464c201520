"""Places in the order of arrivals: what says in any read model how far a scorer has come.

Positions in the order of completion are of one read model. But units become complete in the order
in which the last of them arrived, and that is the same in every one made of the same records.
"""

from __future__ import annotations

from vedette.named_sql import statements
from vedette.scoring.sample import draw
from vedette.traces.index import TraceIndex

_SQL = statements("vedette.scoring", "arrival_order")
DRAW_BITS = 20  # of a place; the rest is milliseconds


def arrival(at_ms: int, unit_id: str) -> int:
    """The place in the order of arrivals of a unit of which something came last at ``at_ms``
    (milliseconds since the epoch). Those of one millisecond come in the order of their draws."""
    return (at_ms << DRAW_BITS) + int(draw(unit_id) * (1 << DRAW_BITS))


def at_ms(arrived_until: int) -> int:
    """When the unit at this `arrival` came, in milliseconds since the epoch."""
    return arrived_until >> DRAW_BITS


def arrived_until(index: TraceIndex, position: int, *, of_sessions: bool) -> int:
    """Up to which `arrival` every trace, or session, is at this position or before it."""
    name = "session_arrival" if of_sessions else "trace_arrival"
    row = index.connection().execute(_SQL[name], {"position": position}).fetchone()
    return max(1, int(row[0])) if row else 1  # not 0, which says that there is no cursor


def position_of(index: TraceIndex, arrived_until: int, *, of_sessions: bool) -> int | None:
    """The last position up to this `arrival`, in a read model that has been made anew: there,
    positions of traces, and those of sessions, are in that order."""
    name = "session_position" if of_sessions else "trace_position"
    row = index.connection().execute(_SQL[name], {"arrival": arrived_until}).fetchone()
    return None if row is None else int(row[0])
