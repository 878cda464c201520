"""Simulated days for alerts: a read model that is filled directly, and a clock that is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from vedette.alerts.rules import checked_rule
from vedette.alerts.states import Finding
from vedette.alerts.store import AlertStore, Watched
from vedette.alerts.tables import make_alert_tables
from vedette.alerts.watch import Watch
from vedette.scoring.active import control_engine
from vedette.traces.index import TraceIndex

T0 = 1_800_000_000_000  # milliseconds since the epoch; a whole minute
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def alert_store(directory: Path) -> AlertStore:
    uri = f"sqlite:///{directory / 'control.db'}"
    make_alert_tables(uri)
    return AlertStore(control_engine(uri), "http://127.0.0.1:5000")


@dataclass
class Days:
    """An experiment whose scores come when the test says so, and its alerts."""

    directory: Path
    store: AlertStore = field(init=False)
    index: TraceIndex = field(init=False)
    watch: Watch = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.store = alert_store(self.directory)
        self.restart()

    def restart(self) -> None:
        """Another engine takes over."""
        self.index = TraceIndex(self.directory / "index.db")
        self.watch = Watch(self.store, self.index, [])

    def add(self, name: str, **body: Any) -> None:
        self.store.put(checked_rule("1", name, body, None))

    def start(self, scorer: str = "polite", *, rates: Sequence[float] = (1.0,)) -> None:
        """A scorer with one epoch for each rate."""
        with self.index.transaction() as connection:
            for epoch, rate in enumerate(rates, 1):
                connection.execute(
                    "INSERT INTO scorer_epochs VALUES (?, ?, 0, 0, 1, ?, NULL, '[]', 'started', 0)",
                    (f"1/{scorer}", epoch, rate),
                )
            connection.execute("INSERT INTO scorer_cursors VALUES (?, 0)", (f"1/{scorer}",))

    def traces(
        self,
        at_ms: Sequence[int],
        values: Sequence[Any] | None = None,
        *,
        scorer: str = "polite",
        rate: float = 1.0,
        epoch: int = 1,
        session: str | None = None,
        statuses: Sequence[str] | None = None,
        milliseconds: Sequence[int] | None = None,
        decided: bool = True,
    ) -> list[str]:
        """Traces that arrived, were complete and were scored; value None: not selected."""
        names = []
        with self.index.transaction() as connection:
            for number, at in enumerate(at_ms):
                self.count += 1
                names.append(f"tr-{self.count:032x}")
                row = connection.execute(
                    "INSERT INTO traces (trace_id, experiment_id, timestamp_ms, execution_time_ms,"
                    " status, finalized, has_root, span_count, first_received_ms, last_received_ms,"
                    " completed_ms, session_id) VALUES (?, 1, ?, ?, ?, 1, 1, 1, ?, ?, ?, ?)",
                    (
                        names[-1],
                        at,
                        100 if milliseconds is None else milliseconds[number],
                        "OK" if statuses is None else statuses[number],
                        *(at, at, at),
                        session,
                    ),
                ).lastrowid
                connection.execute(
                    "INSERT INTO completed (reason, trace, experiment_id, arrival, completed_ms)"
                    " VALUES ('complete', ?, 1, ?, ?)",
                    (row, (at << 20) + self.count % (1 << 20), at),
                )
                if values is not None and values[number] is not None:
                    self._decide(
                        connection, names[-1], values[number], scorer, rate, epoch, int(at)
                    )
            if session is not None:
                connection.execute(
                    "INSERT INTO completed (reason, trace, experiment_id, session_id, arrival,"
                    " completed_ms) VALUES ('session', ?, 1, ?, ?, ?)",
                    (row, session, int(at_ms[-1]) << 20, int(at_ms[-1])),
                )
            if decided:
                connection.execute(
                    "UPDATE scorer_cursors SET position ="
                    " (SELECT seq FROM sqlite_sequence WHERE name = 'completed')"
                )
        return names

    def _decide(
        self, connection: Any, trace: str, value: Any, scorer: str, rate: float, epoch: int, at: int
    ) -> None:
        score = [{"assessment_id": f"a-{trace}", "name": scorer, "value": value}]
        connection.execute(
            "INSERT INTO decisions (scorer, unit_id, revision, unit_type, trace_id, version, epoch,"
            " stratum, inclusion_probability, draw, decision, scores, attempts, calls,"
            " completed_ms, decided_ms, origin) VALUES"
            " (?, ?, 0, 'trace', ?, 1, ?, -1, ?, 0.0, 'scored', ?, 1, 0, ?, ?, 'live')",
            (f"1/{scorer}", trace, trace, epoch, rate, json.dumps(score), at, at),
        )

    def look(self, at_ms: int, folded_ms: int | None = -1) -> None:
        """The minute's look, when that is the time."""
        for one in self.store.rules():
            self.watch.look(one, at_ms if folded_ms == -1 else folded_ms, at_ms)

    def rule(self, name: str) -> Watched:
        return self.store.rule("1", name)

    def run(
        self,
        name: str,
        passed: Any,
        *,
        start: int = T0,
        every: int = MINUTE,
        look: int = 1,
        **to: Any,
    ) -> int | None:
        """Scores, one after another, with a look after so many; how many there were when the rule
        fired, or None."""
        values = [bool(one) for one in np.asarray(passed)]
        for first in range(0, len(values), look):
            part = values[first : first + look]
            times = [start + (first + number) * every for number in range(len(part))]
            self.traces(times, part, **to)
            self.look(times[-1] + 1)
            if self.rule(name).state == "firing":
                return first + len(part)
        return None

    def events(self, name: str) -> list[str]:
        """What happened, oldest first."""
        return [one["event"] for one in reversed(self.store.history("1", name))]

    def sent(self, name: str) -> list[str]:
        """What people were told, or are to be, oldest first."""
        return [
            one["message"]["event"] for one in reversed(self.store.outbox.of_rule("1", name, 1000))
        ]


def found(met: bool, **other: Any) -> Finding:
    """A look's finding: the condition holds, or is over."""
    values = {"cleared": not met, "leaning": False, "has_data": True, "complete": True, "why": "so"}
    return Finding(met=met, **{**values, **other})


class Receiver:
    """A webhook's receiver on loopback, which answers with `status`."""

    def __init__(self, port: int = 0) -> None:
        received: list[tuple[dict[str, str], bytes]] = []
        self.received = received
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                if receiver.status == 200:
                    received.append(({k.lower(): v for k, v in self.headers.items()}, content))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(content) for _, content in self.received]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.received]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
