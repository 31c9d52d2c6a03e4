"""What is peculiar to Kafka, against librdkafka's cluster in memory, which knows no logins."""

import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Batch, Event, Item, Outcome
from wearable_pipeline.destinations.kafka import KafkaSettings
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.batches import USER as SOMEBODY
from wearable_pipeline_tests.destinations.batches import batch_of, kinds
from wearable_pipeline_tests.destinations.bench import BODY, TODAY, Bench, body_row
from wearable_pipeline_tests.destinations.counterpart_kafka import Topic
from wearable_pipeline_tests.destinations.counterpart_objects import paths
from wearable_pipeline_tests.destinations.deliverer import B, deliver_and_die, send_filtered
from wearable_pipeline_tests.destinations.every_type import (
    DAY,
    EXPECTED,
    ORDERING,
    USER,
    USER_ID,
    at_path,
    batch_of_type,
    key_of,
)
from wearable_pipeline_tests.destinations.test_sqs import large, payloads_at
from wearable_pipeline_tests.destinations.test_targets import FromFile, from_file
from wearable_pipeline_tests.servers.fixtures import Place
from wearable_pipeline_tests.servers.processes import find_free_port

__all__ = ["from_file"]

TYPES = sorted({name for name, _, _ in EXPECTED})


@pytest.fixture
def topic(kafka_brokers: str) -> Topic:
    return Topic(kafka_brokers)


def deliver(topic: Topic, *batches: Batch, **more: Any) -> list[Outcome]:
    with topic.target(**more).open() as sender:
        return [outcome for batch in batches for outcome in sender.deliver(batch)]


# What arrives.


def test_a_row_of_every_type_arrives_as_the_json_clients_know(topic: Topic) -> None:
    assert kinds(deliver(topic, *(batch_of_type(name) for name in TYPES))) == {"delivered": 6}
    found = topic.read()
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path


def test_a_record_bears_its_user_as_key_and_the_rest_as_headers(topic: Topic) -> None:
    deliver(topic, batch_of_type("activity"))
    (record,) = topic.records()
    assert record.key() == USER_ID.encode()
    assert dict(record.headers()) == {
        "type": b"activity",
        "user_id": USER_ID.encode(),
        "row_key": "løb/1 50%".encode(),
        "trace_id": b"trace-activity",
        "ordering_timestamp": b"1795176000000",
        "is_deleted": b"false",
    }
    assert list(msgspec.json.decode(record.value())) == ["user", "data", "type", "version"]


def test_what_happens_to_a_user_stays_in_one_partition_in_order(topic: Topic) -> None:
    def batch(ordering: int) -> Batch:
        items = tuple(
            replace(item, ordering_timestamp=ordering, trace_id=f"{item.trace_id}-{ordering}")
            for item in batch_of(20).items
        )
        return replace(batch_of(20), items=items)

    assert kinds(deliver(topic, batch(1), batch(2), batch(3))) == {"delivered": 60}
    records = list(topic.records())
    assert len({record.partition() for record in records}) == 1
    orderings = [int(dict(record.headers())["ordering_timestamp"]) for record in records]
    assert orderings == [1] * 20 + [2] * 20 + [3] * 20


def test_each_of_a_thousand_rows_is_reported_once(topic: Topic) -> None:
    batch = batch_of(1_000)
    outcomes = deliver(topic, batch)
    assert {outcome.item for outcome in outcomes} == set(batch.items)
    assert kinds(outcomes) == {"delivered": 1_000}
    assert len(topic.read()) == 1_000


def test_a_withdrawn_row_travels_as_an_event_without_data(topic: Topic) -> None:
    gone = batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1)
    deliver(topic, batch_of_type("sleep"), gone)
    *_, record = topic.records()
    event = msgspec.json.decode(record.value())
    assert event["data"] == []
    assert event["deleted"] == [{"row_key": "nat|2026.11.20", "date": "2026-11-20"}]
    assert topic.read() == {}
    deliver(topic, batch_of_type("sleep"))
    assert topic.read() == {}


def test_events_about_connections_arrive_in_their_order(topic: Topic) -> None:
    happened = [
        Event(Item(kind, USER, f"e{n}", DAY, "hash", f"t-{n}", ORDERING + n), {"type": kind})
        for n, kind in enumerate(["auth", "deauth"] * 10)
    ]
    with topic.target().open() as sender:
        assert kinds(list(sender.deliver_events(happened))) == {"delivered": 20}  # type: ignore[attr-defined]
    told = [msgspec.json.decode(record.value())["type"] for record in topic.records()]
    assert told == ["auth", "deauth"] * 10


def test_a_row_that_does_not_fit_goes_as_a_link(topic: Topic, moto_place: Place) -> None:
    settings = payloads_at(moto_place, max_bytes=100_000)
    assert kinds(deliver(topic, batch_of_type("body"), large(2_000), **settings)) == {
        "delivered": 2
    }
    (path,) = paths(moto_place)
    found = topic.read()
    samples = found[SOMEBODY.user_id, "body", "2026-11-20"]["glucose_data"]["blood_glucose_samples"]
    assert len(samples) == 2_000
    (linked,) = [
        event
        for event in (msgspec.json.decode(record.value()) for record in topic.records())
        if "data" not in event
    ]
    assert linked["object"] == f"{moto_place.url}/{path}"


def test_without_a_place_for_payloads_a_large_row_is_parked_and_the_others_go(
    topic: Topic,
) -> None:
    outcomes = deliver(topic, batch_of_type("body"), large(2_000), max_bytes=100_000)
    assert [outcome.kind for outcome in outcomes] == ["delivered", "permanent"]
    assert "does not fit a message; set kafka.payloads" in outcomes[1].message
    assert len(topic.read()) == 1


# What goes wrong.


def test_brokers_that_are_down_cost_no_row(topic: Topic) -> None:
    away = f"127.0.0.1:{find_free_port()}"
    began = time.monotonic()
    outcomes = deliver(topic, batch_of(10), batch_of(10), brokers=away, timeout_seconds=2)
    assert time.monotonic() - began < 10
    assert kinds(outcomes) == {"transient": 10, "untried": 10}
    assert outcomes[-1].message == "kafka: no broker answered within 2 s"
    assert kinds(deliver(topic, batch_of(10))) == {"delivered": 10}
    assert len(topic.read()) == 10


def describe(topic: Topic) -> str:
    """The topic as a target `stream` of a TOML file."""
    return f"[stream]\nkind = 'kafka'\nbrokers = '{topic.brokers}'\ntopic = '{topic.name}'\n"


def test_a_filter_lets_only_its_users_through(bench: Bench, topic: Topic, tmp_path: Path) -> None:
    send_filtered(bench, tmp_path, f"{describe(topic)}users = ['{B}']\n")
    assert set(topic.read()) == {(B, "body", "2026-11-20")}


def test_a_killed_process_and_another_try_are_as_once(topic: Topic, tmp_path: Path) -> None:
    deliver_and_die(tmp_path, describe(topic), "stream", rows=30, after=1)
    assert kinds(deliver(topic, batch_of(30))) == {"delivered": 30}
    days = {(TODAY - timedelta(days=n)).isoformat() for n in range(30)}
    assert {day for _, _, day in topic.read()} == days


def test_leaving_early_ends_soon_and_the_next_sender_goes_on(topic: Topic) -> None:
    began = time.monotonic()
    with topic.target().open() as sender:
        outcomes = sender.deliver(batch_of(50))
        assert next(outcomes).kind == "delivered"
        outcomes.close()  # type: ignore[attr-defined]
        assert kinds(list(sender.deliver(batch_of(50)))) == {"delivered": 50}
    assert time.monotonic() - began < 10
    assert len(topic.read()) == 50


@contextmanager
def refusing_broker() -> Iterator[int]:
    """A broker that lets nobody in: ApiVersions, SaslHandshake, and to SaslAuthenticate error 58."""
    listener = socket.create_server(("127.0.0.1", 0))

    def exactly(connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def serve(connection: socket.socket) -> None:
        with connection:
            while True:
                (size,) = struct.unpack(">i", exactly(connection, 4))
                request = exactly(connection, size)
                kind, version, correlation = struct.unpack(">hhi", request[:8])
                if kind == 18:  # ApiVersions, in its oldest form
                    known = [(0, 0, 7), (1, 0, 11), (3, 0, 4), (17, 0, 1), (18, 0, 0), (36, 0, 0)]
                    error = 35 if version else 0
                    body = struct.pack(">hi", error, len(known)) + b"".join(
                        struct.pack(">hhh", *one) for one in known
                    )
                elif kind == 17:  # SaslHandshake
                    body = struct.pack(">hih", 0, 1, 5) + b"PLAIN"
                else:
                    said = b"Authentication failed: hush-hush"
                    body = struct.pack(">hh", 58, len(said)) + said + struct.pack(">i", 0)
                connection.sendall(struct.pack(">ii", len(body) + 4, correlation) + body)

    def run(connection: socket.socket) -> None:
        try:
            serve(connection)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def test_a_wrong_password_parks_the_rows_soon_and_is_not_repeated(topic: Topic) -> None:
    began = time.monotonic()
    with refusing_broker() as port:
        outcomes = deliver(
            topic,
            batch_of(3),
            brokers=f"127.0.0.1:{port}",
            username="pipeline",
            password="wrong-password",
        )
    assert time.monotonic() - began < 10
    assert kinds(outcomes) == {"permanent": 3}
    (message,) = {outcome.message for outcome in outcomes}
    assert message == (
        "kafka: the brokers refuse (_AUTHENTICATION); check kafka.username, kafka.password and the"
        f" right to write to {topic.name}"
    )


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "permanent", "the right to write"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "permanent", "lower kafka.max_bytes"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "permanent", "there is no topic"),
        (KafkaError.NOT_ENOUGH_REPLICAS, "transient", "NOT_ENOUGH_REPLICAS"),
        (KafkaError.THROTTLING_QUOTA_EXCEEDED, "transient", "THROTTLING_QUOTA_EXCEEDED"),
    ],
)
def test_the_delivery_report_decides_whether_trying_again_can_help(
    topic: Topic, code: int, kind: str, said: str
) -> None:
    with topic.target().open() as sender:
        (item,) = batch_of(1).items
        sender._report(item, None, None)  # type: ignore[attr-defined]
        sender._report(item, KafkaError(code, "hush-hush"), None)  # type: ignore[attr-defined]
        good, bad = sender._collect()  # type: ignore[attr-defined]
    assert good.kind == "delivered"
    assert bad.kind == kind
    assert said in bad.message
    assert "hush" not in bad.message


# Settings.


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("topic = 't'", "brokers is not set"),
        ("brokers = 'b.example'\ntopic = 't'", "stream.brokers must look like host:9092"),
        ("brokers = 'b.example:9092'\ntopic = ''", "stream.topic is not set"),
        ("brokers = 'b.example:9092'\ntopic = 't'\nusername = 'u'", "go together"),
        (
            "brokers = 'b.example:9092'\ntopic = 't'\nusername = 'u'\npassword = 'hush'\ntls = false",
            "would send the password in the clear",
        ),
        (
            "brokers = 'b.example:9092'\ntopic = 't'\nca_file = '/none.pem'",
            "brokers, tls, ca_file and login do not fit together",
        ),
    ],
)
def test_a_mistake_is_said_in_one_line(from_file: FromFile, lines: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        get_target(from_file(f"[stream]\nkind = 'kafka'\n{lines}"), "stream").open()
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_connections_are_encrypted_except_to_this_machine() -> None:
    def encrypted(**values: Any) -> bool:
        return KafkaSettings(topic="t", **values).is_encrypted

    assert encrypted(brokers="a.example:9093, 127.0.0.1:9092")
    assert not encrypted(brokers="127.0.0.1:9092, localhost:9093, [::1]:9094")
    assert not encrypted(brokers="a.example:9092", tls=False)


def test_the_password_shows_in_no_representation() -> None:
    settings = KafkaSettings(
        brokers="a.example:9093",
        topic="t",
        username="u",
        password="hush",  # type: ignore[arg-type]
    )
    assert "hush" not in repr(settings)


def test_without_the_client_the_way_to_get_it_is_said(
    from_file: FromFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    text = "[stream]\nkind = 'kafka'\nbrokers = 'a.example:9093'\ntopic = 't'"
    said = r"stream needs confluent-kafka: pip install 'wearable-pipeline\[kafka\]'"
    with pytest.raises(UsageError, match=said):
        get_target(from_file(text), "stream").open()


def test_a_row_of_a_batch_that_is_too_old_changes_nothing_at_a_reader(topic: Topic) -> None:
    newer = Item("body", USER, "2026-11-20", DAY, "new", "trace-new", 2)
    older = replace(newer, content_hash="old", trace_id="trace-old", ordering_timestamp=1)
    deliver(
        topic,
        Batch(BODY, (newer,), body_row(USER_ID, [120])),
        Batch(BODY, (older,), body_row(USER_ID, [100])),
    )
    (row,) = topic.read().values()
    assert row["glucose_data"]["blood_glucose_samples"][0]["blood_glucose_mg_per_dL"] == 120
