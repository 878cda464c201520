"""Who is told, how often, and that each change of state is told once whatever is killed."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from alerts_support import HOUR, MINUTE, Receiver, alert_store, found
from running import free_port
from vedette.alerts.channels import ChannelError, require_channel, send, shown
from vedette.alerts.control import AlertsUnavailable
from vedette.alerts.delivery import Deliveries
from vedette.alerts.rules import checked_rule
from vedette.alerts.silences import EVERY
from vedette.alerts.store import AlertStore
from vedette.alerts.templates import text_for
from vedette.alerts.webhook import DeliveryFailed, Secret

RULE = "liveness_zero_traces_15m"
NOW = int(time.time() * 1000)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def store(tmp_path: Path) -> AlertStore:
    return alert_store(tmp_path)


def add(store: AlertStore, **body: Any) -> None:
    store.put(checked_rule("1", RULE, body, None))


def look(store: AlertStore, met: bool, at_ms: int = NOW, **finding: Any) -> str:
    return store.record(store.rule("1", RULE), found(met, **finding), at_ms)


def told(store: AlertStore) -> list[str]:
    return [one["message"]["event"] for one in reversed(store.outbox.of_rule("1", RULE, 1000))]


def all_due(tmp_path: Path) -> None:
    """Time passes: what waits for its next attempt is due."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'control.db'}")
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "UPDATE vedette_alert_deliveries SET next_ms = 0 WHERE next_ms IS NOT NULL"
            )
        )
    engine.dispose()


def deliver(store: AlertStore, tmp_path: Path) -> None:
    deliveries = Deliveries(store.outbox, Secret(tmp_path / "webhook-secret"))
    while deliveries.tick():
        pass


def test_a_signed_webhook_is_sent_once_for_each_change(
    store: AlertStore, receiver: Receiver, tmp_path: Path
) -> None:
    add(store, notify=[receiver.url], severity="critical")
    for met in (True, True, False, False, True):
        look(store, met)
    deliver(store, tmp_path)
    deliver(store, tmp_path)
    assert [one["event"] for one in receiver.messages] == ["firing", "resolved", "firing"]
    assert len(set(receiver.ids)) == 3
    message = receiver.messages[0]
    assert (message["rule"], message["severity"], message["why"]) == (RULE, "critical", "so")
    headers, content = receiver.received[0]
    secret = (tmp_path / "webhook-secret").read_text().strip()
    key = b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    expected = b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert (tmp_path / "webhook-secret").stat().st_mode & 0o077 == 0


def test_a_channel_that_is_down_gets_everything_in_order_when_it_is_back(
    store: AlertStore, receiver: Receiver, tmp_path: Path
) -> None:
    down = f"http://127.0.0.1:{free_port()}/hook"
    add(store, notify=[receiver.url, down])
    receiver.status = 503
    for hour, met in enumerate((True, False, True, False)):
        look(store, met, NOW + hour * HOUR)
        deliver(store, tmp_path)
        all_due(tmp_path)
    assert receiver.received == []
    waiting = store.outbox.of_rule("1", RULE)
    assert {one["delivered_ms"] for one in waiting} == {None}
    errors = {one["error"] for one in waiting if one["attempts"]}
    assert errors == {"127.0.0.1 answered 503", "127.0.0.1 can't be reached: ConnectionError"}
    receiver.status = 200
    for _ in range(4):
        all_due(tmp_path)
        deliver(store, tmp_path)
    assert [one["event"] for one in receiver.messages] == ["firing", "resolved"] * 2
    assert len(set(receiver.ids)) == 4


def test_it_is_told_again_while_it_fires_and_not_once_acknowledged(store: AlertStore) -> None:
    add(store, notify=["https://example.org/hook"], renotify="1h")
    with pytest.raises(ValueError, match="only what fires"):
        store.acknowledge("1", RULE, "me")
    for minute in (0, 1, 59, 60, 61, 125):
        look(store, True, NOW + minute * MINUTE)
    assert told(store) == ["firing", "again", "again"]
    store.acknowledge("1", RULE, "me")
    look(store, True, NOW + 300 * MINUTE)
    assert told(store) == ["firing", "again", "again"]
    look(store, False, NOW + 301 * MINUTE)
    assert told(store)[-1] == "resolved"
    assert store.rule("1", RULE).acknowledged_by is None
    events = [one["event"] for one in store.history("1", RULE)]
    assert events == ["resolved", "acknowledged", "firing"]


@pytest.mark.parametrize("name", [RULE, EVERY])
def test_a_maintenance_window_is_silent_and_what_still_fires_then_is_told(
    store: AlertStore, name: str
) -> None:
    add(store, notify=["https://example.org/hook"])
    store.silences.add("1", name, NOW + HOUR, NOW + 2 * HOUR, "me", "deployment")
    for minute, met in ((61, True), (70, False), (80, True), (110, True)):
        look(store, met, NOW + minute * MINUTE)
    assert told(store) == []
    look(store, True, NOW + 121 * MINUTE)
    look(store, True, NOW + 122 * MINUTE)
    assert told(store) == ["firing"]
    states = [one["event"] for one in reversed(store.history("1", RULE))]
    assert states == ["firing", "resolved", "firing"]
    assert store.silences.end("1", name) == 1
    assert store.silences.current("1") == []


def test_a_rollback_is_called_when_it_fires_and_then_alone(
    store: AlertStore, receiver: Receiver, tmp_path: Path
) -> None:
    add(store, rollback=receiver.url)
    for met in (True, True, False):
        look(store, met)
    deliver(store, tmp_path)
    assert [one["event"] for one in receiver.messages] == ["rollback"]


def test_what_is_not_known_neither_fires_nor_resolves(store: AlertStore) -> None:
    add(store)
    look(store, True)
    assert look(store, False, complete=False) == "firing"
    assert look(store, False, has_data=False) == "firing"
    assert look(store, False) == "resolved"
    assert look(store, False, NOW + 20 * MINUTE) == "ok"
    assert look(store, False, NOW + 21 * MINUTE, leaning=True) == "pending"
    assert look(store, False, NOW + 22 * MINUTE, complete=False) == "not_yet_complete"
    assert look(store, False, NOW + 23 * MINUTE, has_data=False) == "no_data"


def test_a_look_at_a_rule_that_was_changed_meanwhile_changes_nothing(store: AlertStore) -> None:
    add(store)
    before = store.rule("1", RULE)
    add(store, severity="critical")
    store.record(before, found(True), NOW)
    assert store.rule("1", RULE).state == "no_data"
    look(store, True)
    add(store, severity="info")  # the same thing is watched: what is known stays
    assert store.rule("1", RULE).state == "firing"
    store.put(checked_rule("1", RULE, {"condition": "liveness_zero_traces_30m"}, None))
    assert store.rule("1", RULE).state == "no_data"


def test_two_looks_at_once_tell_once(store: AlertStore) -> None:
    add(store, notify=["https://example.org/hook"])
    before = store.rule("1", RULE)
    store.record(before, found(True), NOW)
    store.record(before, found(True), NOW + 1)
    assert told(store) == ["firing"]


def test_a_control_database_that_is_away_says_so(tmp_path: Path) -> None:
    from vedette.scoring.active import control_engine

    store = AlertStore(control_engine(f"sqlite:///{tmp_path / 'none.db'}"), "")
    with pytest.raises(AlertsUnavailable, match="control database"):
        store.rules()


SCRIPT = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from alerts_support import alert_store, found
from vedette.alerts.control import AlertsUnavailable
from vedette.alerts.delivery import Deliveries
from vedette.alerts.webhook import Secret

directory = Path({directory!r})
store = alert_store(directory)
deliveries = Deliveries(store.outbox, Secret(directory / "webhook-secret"))

def send():
    while True:
        if not deliveries.tick():
            time.sleep(0.001)

threading.Thread(target=send, daemon=True).start()
print("ready", flush=True)
while True:
    rule = store.rule("1", {rule!r})
    store.record(rule, found(rule.state != "firing"), int(time.time() * 1000))
    time.sleep(0.003)
"""


def test_each_change_is_told_once_across_kills(
    store: AlertStore, receiver: Receiver, tmp_path: Path
) -> None:
    """A receiver that goes by ``webhook-id`` counts every change of state exactly once."""
    add(store, notify=[receiver.url])
    tests = str(Path(__file__).parent)
    script = SCRIPT.format(tests=tests, directory=str(tmp_path), rule=RULE)
    pause = random.Random(7)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        enough = len(receiver.received) + pause.randint(6, 20)
        deadline = time.monotonic() + 60
        while len(receiver.received) < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(pause.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    all_due(tmp_path)
    deliver(store, tmp_path)
    changes = [one["event"] for one in reversed(store.history("1", RULE, 1000))]
    assert len(changes) > 20
    unique = dict(zip(reversed(receiver.ids), reversed(receiver.messages), strict=True))
    assert [one["event"] for one in reversed(unique.values())] == changes
    assert len(receiver.ids) - len(unique) <= 4  # a kill between answer and note: one at most


def test_apprise_sends_what_is_no_webhook(receiver: Receiver) -> None:
    message: dict[str, Any] = {
        "event": "firing",
        "severity": "warning",
        "rule": RULE,
        "why": "no trace has arrived for 15m",
        "evidence": {"estimate": 0.0, "examples": ["tr-1"]},
        "experiment_id": "1",
        "at_ms": NOW,
        "url": "http://127.0.0.1:5000",
    }
    secret = Secret(Path("unused"))
    url = receiver.url.replace("http://", "json://")
    receiver.status = 500
    with pytest.raises(DeliveryFailed, match="json"):
        send(url, "1", message, secret)
    receiver.status = 200
    # No webhook-id: apprise's own
    send(url, "1", message, secret)
    body = json.loads(receiver.received[0][1])
    assert body["title"] == f"[FIRING] warning: {RULE}"
    assert "no trace has arrived" in body["message"]
    assert "/monitor/trace/tr-1" in body["message"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://example.org",
        "https://",
        "syslog://",
        "slack://",
        "http://[",
        3,
        "workflows://host/a/b?template=/etc/passwd",
    ],
)
def test_what_is_no_channel_is_refused_with_what_to_write(url: Any) -> None:
    with pytest.raises(ChannelError, match=r"https://|URL|a file of the server"):
        require_channel(url)


def test_tokens_are_not_shown() -> None:
    assert shown("slack://T0KEN/A/B") == "slack://..."
    assert shown("https://user:pw@example.org/T0KEN?key=T0KEN") == "https://example.org/..."
    require_channel("slack://TOKEN0001/TOKEN0001/TOKEN00000000000000000001")


MESSAGE: dict[str, Any] = {
    "event": "firing",
    "severity": "critical",
    "rule": "doc_below_0_80_24h",
    "why": "doc is 0.71 (between 0.66 and 0.76) in the last 24h; it must be at least 0.8",
    "evidence": {
        "estimate": 0.71,
        "low": 0.66,
        "high": 0.76,
        "e_value": 23.0,
        "examples": [f"tr-{number}" for number in range(5)],
    },
    "slice": "tags.team = 'support'",
    "experiment_id": "7",
    "at_ms": NOW,
    "url": "http://127.0.0.1:5000",
}


@pytest.mark.parametrize(
    ("scheme", "links", "told"),
    [
        ("slack", 3, "evidence: 23 (20 is enough)"),
        ("workflows", 3, "slice: `tags.team = 'support'`"),
        ("mailto", 5, "vedette alerts ack doc_below_0_80_24h --experiment 7"),
        ("pagerduty", 1, "it must be at least 0.8"),
    ],
)
def test_each_kind_of_channel_has_its_text(scheme: str, links: int, told: str) -> None:
    text = text_for(scheme, MESSAGE)
    assert text.title == "[FIRING] critical: doc_below_0_80_24h"
    assert text.body.count("/monitor/trace/tr-") == links
    assert told in text.body
    assert MESSAGE["why"] in text.body


def test_pagerduty_has_one_incident_of_a_rule_that_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the requests that apprise makes: there is no PagerDuty here."""
    events: list[dict[str, Any]] = []

    class Answer:
        status_code = 202
        content = b""

    def post(url: str, data: bytes | str, **_: Any) -> Answer:
        events.append(json.loads(data))
        return Answer()

    monkeypatch.setattr("requests.post", post)
    url = "pagerduty://INTEGRATIONKEY@APIKEY"
    for event in ("firing", "firing", "again", "resolved"):  # one of them after a kill
        send(url, "1", {**MESSAGE, "event": event}, Secret(Path("unused")))
    assert [one["event_action"] for one in events] == ["trigger"] * 3 + ["resolve"]
    assert len({one["dedup_key"] for one in events}) == 1
    send(url, "1", {**MESSAGE, "rule": "another"}, Secret(Path("unused")))
    assert events[-1]["dedup_key"] != events[0]["dedup_key"]


def test_what_was_told_before_a_silence_is_told_when_it_is_resolved(store: AlertStore) -> None:
    add(store, notify=["https://example.org/hook"], rollback="https://example.org/back")
    look(store, True)
    store.silences.add("1", RULE, NOW + MINUTE, NOW + HOUR, "me", "")
    look(store, False, NOW + 2 * MINUTE)
    look(store, True, NOW + 3 * MINUTE)
    assert told(store) == ["firing", "rollback", "resolved"]
    look(store, True, NOW + HOUR)
    assert told(store) == ["firing", "rollback", "resolved", "firing", "rollback"]
