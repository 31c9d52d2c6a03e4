"""What is peculiar to SQS, against moto."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from botocore.stub import Stubber

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.destinations._contract import Batch, Event, Item, Outcome
from wearable_pipeline.destinations._messages import Message
from wearable_pipeline.destinations.history import backfill
from wearable_pipeline.destinations.sqs import SqsSender, SqsSettings, open_sqs
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.batches import batch_of, kinds
from wearable_pipeline_tests.destinations.bench import BODY, TODAY, Bench, body_row
from wearable_pipeline_tests.destinations.counterpart_objects import paths, storage_of
from wearable_pipeline_tests.destinations.counterpart_sqs import Queue
from wearable_pipeline_tests.destinations.deliverer import A, B, deliver_and_die, send_filtered
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
from wearable_pipeline_tests.destinations.faulty import silent_server
from wearable_pipeline_tests.destinations.test_events import hold, workspace_of
from wearable_pipeline_tests.destinations.test_targets import FromFile, from_file
from wearable_pipeline_tests.servers.fixtures import MOTO_KEY, MOTO_SECRET, MakeProxy, Place
from wearable_pipeline_tests.servers.processes import find_free_port

__all__ = ["from_file"]

TYPES = sorted({name for name, _, _ in EXPECTED})


@pytest.fixture
def fifo(moto_endpoint: str) -> Queue:
    return Queue(moto_endpoint)


@pytest.fixture(params=["fifo", "standard"])
def queue(request: pytest.FixtureRequest, moto_endpoint: str) -> Queue:
    return Queue(moto_endpoint, is_fifo=request.param == "fifo")


def deliver(queue: Queue, *batches: Batch, **more: Any) -> list[Outcome]:
    with queue.target(**more).open() as sender:
        return [outcome for batch in batches for outcome in sender.deliver(batch)]


def payloads_at(place: Place, **more: Any) -> dict[str, Any]:
    return {
        "payloads": {
            "url": place.url,
            "endpoint": place.settings.lake_endpoint,
            "access_key_id": MOTO_KEY,
            "secret_access_key": MOTO_SECRET,
        },
        **more,
    }


def attributes(message: Mapping[str, Any]) -> dict[str, str]:
    return {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}


def large(readings: int) -> Batch:
    batch = batch_of(1)
    return replace(batch, rows=body_row(batch.items[0].user.user_id, [100.0] * readings))


# What arrives.


def test_a_row_of_every_type_arrives_as_the_json_clients_know(queue: Queue) -> None:
    assert kinds(deliver(queue, *(batch_of_type(name) for name in TYPES))) == {"delivered": 6}
    found = queue.read()
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path


def test_what_stands_beside_a_message(fifo: Queue) -> None:
    deliver(fifo, batch_of_type("activity"))
    (message,) = fifo.take()
    assert attributes(message) == {
        "type": "activity",
        "user_id": USER_ID,
        "row_key": "løb/1 50%",
        "trace_id": "trace-activity",
        "ordering_timestamp": "1795176000000",
        "is_deleted": "false",
    }
    assert message["Attributes"]["MessageGroupId"] == USER_ID
    event = msgspec.json.decode(message["Body"])
    assert list(event) == ["user", "data", "type", "version"]


def test_what_was_sent_a_moment_ago_is_dropped_by_the_queue(fifo: Queue) -> None:
    assert kinds(deliver(fifo, batch_of(3), batch_of(3))) == {"delivered": 6}
    assert len(list(fifo.take())) == 3


def test_a_content_that_was_there_left_and_came_back_is_not_dropped(fifo: Queue) -> None:
    def batch(content: str, value: float, ordering: int) -> Batch:
        item = Item("body", USER, "2026-11-20", DAY, content, f"trace-{ordering}", ordering)
        return Batch(BODY, (item,), body_row(USER_ID, [value]))

    deliver(fifo, batch("a", 100, 1), batch("b", 90, 2), batch("a", 100, 3))
    samples = fifo.read()[USER_ID, "body", "2026-11-20"]["glucose_data"]["blood_glucose_samples"]
    assert samples[0]["blood_glucose_mg_per_dL"] == 100
    assert fifo.known.orderings[USER_ID, "body", "2026-11-20"] == 3


def test_a_withdrawn_row_travels_as_an_event_without_data(queue: Queue) -> None:
    gone = batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1)
    deliver(queue, batch_of_type("sleep"))
    assert len(queue.read()) == 1
    deliver(queue, gone)
    (message,) = queue.take()
    assert attributes(message)["is_deleted"] == "true"
    event = msgspec.json.decode(message["Body"])
    assert event["data"] == []
    assert event["deleted"] == [{"row_key": "nat|2026.11.20", "date": "2026-11-20"}]
    queue.known.take(attributes(message), event)
    assert queue.read() == {}
    deliver(queue, batch_of_type("sleep"))
    assert queue.read() == {}


def test_messages_go_in_batches_of_ten(fifo: Queue, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(fifo.endpoint)
    url = fifo.url.replace(fifo.endpoint, proxy.url)
    assert kinds(deliver(fifo, batch_of(25), queue_url=url)) == {"delivered": 25}
    assert proxy.seen == ["POST"] * 3
    assert len(fifo.read()) == 25


def test_a_batch_holds_no_more_than_the_limit(fifo: Queue) -> None:
    # Ten of these rows are more than 20 kB, five are not.
    with open_sqs(fifo.settings(max_bytes=20_000), "sqs") as sender:
        messages = [made for made in sender._maker.make(batch_of(10)) if isinstance(made, Message)]
        packs = list(sender._pack(messages))
    assert [one for pack in packs for one in pack] == messages
    assert 1 < len(packs) < 10
    assert all(sum(len(one.body) for one in pack) <= 20_000 for pack in packs)
    assert kinds(deliver(fifo, batch_of(10), max_bytes=20_000)) == {"delivered": 10}


def test_characters_sqs_does_not_take_arrive_all_the_same(fifo: Queue) -> None:
    batch = batch_of_type("activity")
    named = batch.rows.with_columns(metadata_name=batch.rows["metadata_name"] + "\uffff\ufffe\x01")
    assert kinds(deliver(fifo, replace(batch, rows=named))) == {"delivered": 1}
    (row,) = fifo.read().values()
    assert row["metadata"]["name"] == 'Søndagsløb "let" 🏃\uffff\ufffe\x01'


def test_events_about_connections_arrive_in_their_order(fifo: Queue) -> None:
    happened = [
        Event(Item(kind, USER, f"e{n}", DAY, "hash", f"trace-{n}", ORDERING + n), {"type": kind})
        for n, kind in enumerate(["auth", "permission_change", "deauth"] * 5)
    ]
    with fifo.target().open() as sender:
        assert kinds(list(sender.deliver_events(happened))) == {"delivered": 15}  # type: ignore[attr-defined]
    told = [msgspec.json.decode(message["Body"])["type"] for message in fifo.take()]
    assert told == ["auth", "permission_change", "deauth"] * 5


# What does not fit.


def test_a_row_that_does_not_fit_goes_as_a_link(fifo: Queue, moto_place: Place) -> None:
    small, big = batch_of_type("body"), large(2_000)
    settings = payloads_at(moto_place, max_bytes=100_000)
    assert kinds(deliver(fifo, small, big, **settings)) == {"delivered": 2}
    (path,) = paths(moto_place)
    inline, linked = fifo.take()
    assert "data" in msgspec.json.decode(inline["Body"])
    event = msgspec.json.decode(linked["Body"])
    assert list(event) == ["user", "type", "version", "object", "url", "expires_in"]
    assert event["object"] == f"{moto_place.url}/{path}"
    assert event["expires_in"] == 600
    fifo.known.take(attributes(linked), event)
    (row,) = fifo.known.rows.values()
    assert len(row["glucose_data"]["blood_glucose_samples"]) == 2_000


def test_links_may_be_addresses_alone(fifo: Queue, moto_place: Place) -> None:
    settings = payloads_at(moto_place, always_link=True, link="address")
    deliver(fifo, batch_of_type("sleep"), **settings)
    (message,) = fifo.take()
    event = msgspec.json.decode(message["Body"])
    assert list(event) == ["user", "type", "version", "object"]
    (path,) = paths(moto_place)
    assert event["object"] == f"{moto_place.url}/{path}"


def test_the_payload_of_a_withdrawn_row_is_emptied_before_the_message(
    fifo: Queue, moto_place: Place
) -> None:
    settings = payloads_at(moto_place, always_link=True)
    gone = [
        batch_of_type(name, is_deleted=True, ordering=ORDERING + 1) for name in ("body", "sleep")
    ]
    deliver(fifo, batch_of_type("body"), batch_of_type("sleep"), *gone, **settings)
    contents = [storage_of(moto_place).read(path) for path in paths(moto_place)]
    assert [msgspec.json.decode(content)["data"] for content in contents] == [[]]
    assert fifo.read() == {}


def test_without_a_place_for_payloads_a_large_row_is_parked_and_the_others_go(fifo: Queue) -> None:
    both = [
        Item("body", USER, day.isoformat(), day, "hash", f"trace-{day}", ORDERING)
        for day in (TODAY, TODAY - timedelta(days=1))
    ]
    rows = [body_row(USER_ID, [100.0] * 2_000), body_row(USER_ID, [100.0], both[1].date)]
    batch = Batch(BODY, tuple(both), rows[0].vstack(rows[1]))
    outcomes = deliver(fifo, batch, max_bytes=100_000)
    assert {outcome.item.date: outcome.kind for outcome in outcomes} == {
        TODAY: "permanent",
        TODAY - timedelta(days=1): "delivered",
    }
    (parked,) = [outcome for outcome in outcomes if outcome.kind == "permanent"]
    assert "does not fit a message; set sqs.payloads" in parked.message
    assert len(fifo.read()) == 1


def test_a_place_for_payloads_that_is_down_holds_up_only_what_needs_it(
    fifo: Queue, moto_place: Place
) -> None:
    settings = payloads_at(moto_place, max_bytes=100_000)
    settings["payloads"]["endpoint"] = f"http://127.0.0.1:{find_free_port()}"
    outcomes = deliver(fifo, batch_of_type("body"), large(2_000), **settings)
    assert [outcome.kind for outcome in outcomes] == ["delivered", "transient"]
    assert outcomes[1].message.startswith("sqs.payloads: no answer from")


# What goes wrong.


def test_a_queue_that_cannot_be_reached_costs_no_row(fifo: Queue) -> None:
    away = fifo.url.replace(fifo.endpoint, f"http://127.0.0.1:{find_free_port()}")
    outcomes = deliver(fifo, batch_of(60), queue_url=away, concurrency=1)
    assert kinds(outcomes) == {"transient": 20, "untried": 40}
    assert outcomes[0].message == "sqs: cannot be reached (EndpointConnectionError)"
    assert kinds(deliver(fifo, batch_of(60))) == {"delivered": 60}
    assert len(fifo.read()) == 60


def test_a_queue_that_takes_everything_and_never_answers_is_waited_for_as_long_as_said(
    fifo: Queue,
) -> None:
    with silent_server() as address:
        began = time.monotonic()
        outcomes = deliver(
            fifo, batch_of(40), queue_url=f"{address}/1/q.fifo", timeout_seconds=1, concurrency=2
        )
        waited = time.monotonic() - began
    # Two batches of ten wait, each asked twice; between their ends a third one may begin.
    found = kinds(outcomes)
    assert found["transient"] in (20, 30)
    assert found["transient"] + found["untried"] == 40
    assert outcomes[0].message == "sqs: cannot be reached (ReadTimeoutError)"
    assert 2 <= waited < 8


def test_a_batch_that_fails_leaves_the_others(fifo: Queue, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(fifo.endpoint)
    proxy.commit("POST", 503, 503)
    url = fifo.url.replace(fifo.endpoint, proxy.url)
    outcomes = deliver(fifo, batch_of(20), queue_url=url, concurrency=1)
    assert [outcome.kind for outcome in outcomes] == ["transient"] * 10 + ["delivered"] * 10
    assert len(fifo.read()) == 10


def stubbed() -> tuple[SqsSender, Stubber]:
    client = boto3.client(
        "sqs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    settings = SqsSettings(queue_url="https://sqs.us-east-1.amazonaws.com/1/q", concurrency=1)
    return SqsSender(client, settings, "sqs"), Stubber(client)


def test_of_a_batch_only_the_entries_the_queue_refused_are_not_delivered() -> None:
    taken = [{"Id": str(n), "MessageId": "m", "MD5OfMessageBody": "x"} for n in (0, 2)]
    refused = [
        {"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents"},
        {"Id": "3", "SenderFault": False, "Code": "InternalError"},
        {"Id": "4", "SenderFault": True, "Code": "ThrottlingException"},
    ]
    sender, stub = stubbed()
    stub.add_response("send_message_batch", {"Successful": taken, "Failed": refused})
    with stub, sender:
        outcomes = list(sender.deliver(batch_of(6)))
    assert [outcome.kind for outcome in outcomes] == [
        "delivered",
        "permanent",
        "delivered",
        "transient",
        "transient",
        "transient",  # the queue said nothing about it
    ]
    assert outcomes[1].message == "sqs: the queue refused the message (InvalidMessageContents)"


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDenied", 403, "permanent"),
        ("InvalidClientTokenId", 403, "permanent"),
        ("SignatureDoesNotMatch", 403, "permanent"),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, "permanent"),
        ("RequestThrottled", 400, "transient"),
        ("ServiceUnavailable", 503, "transient"),
    ],
)
def test_what_the_queue_answers_decides_whether_trying_again_can_help(
    code: str, status: int, kind: str
) -> None:
    sender, stub = stubbed()
    for _ in range(3):
        stub.add_client_error("send_message_batch", code, "hush-hush", status)
    with stub, sender:
        outcomes = list(sender.deliver(batch_of(30)))
    assert kinds(outcomes) == {kind: 30}
    assert code.rpartition(".")[2] in outcomes[0].message
    assert "hush" not in outcomes[0].message


def test_a_queue_that_is_not_there_parks_the_rows(fifo: Queue) -> None:
    outcomes = deliver(fifo, batch_of(3), queue_url=f"{fifo.endpoint}/123456789012/none.fifo")
    assert kinds(outcomes) == {"permanent": 3}
    assert "check sqs.queue_url, the credentials" in outcomes[0].message


def test_no_credentials_anywhere_are_said(
    fifo: Queue, no_cloud_variables: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    outcomes = deliver(fifo, batch_of(2), access_key_id=None, secret_access_key=None)
    assert kinds(outcomes) == {"permanent": 2}
    assert outcomes[0].message.startswith("sqs: no credentials: set sqs.access_key_id")


def test_a_killed_process_and_another_try_are_as_once(queue: Queue, tmp_path: Path) -> None:
    deliver_and_die(tmp_path, describe(queue), "orders", rows=30, after=1)
    assert kinds(deliver(queue, batch_of(30))) == {"delivered": 30}
    days = {(TODAY - timedelta(days=n)).isoformat() for n in range(30)}
    assert {day for _, _, day in queue.read()} == days


def describe(queue: Queue) -> str:
    """The queue as a target `orders` of a TOML file."""
    return (
        f"[orders]\nkind = 'sqs'\nqueue_url = '{queue.url}'\naccess_key_id = '{MOTO_KEY}'\n"
        f"secret_access_key = '{MOTO_SECRET}'\nconcurrency = 1\n"
    )


def test_a_filter_lets_only_its_users_through(bench: Bench, fifo: Queue, tmp_path: Path) -> None:
    send_filtered(bench, tmp_path, f"{describe(fifo)}users = ['{B}']\n")
    assert set(fifo.read()) == {(B, "body", "2026-11-20")}


def test_a_large_request_is_not_announced_for_its_rows_come_one_by_one(
    bench: Bench, fifo: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "destinations.toml"
    file.write_text(describe(fifo))
    bench.settings = bench.settings.model_copy(update={"destinations_file": file})
    bench.add_user(A)
    hold(bench, A, 33)
    report = backfill(workspace_of(bench), "orders", user_ids=[A])
    assert (report.rows, report.references) == (33, {})
    bench.target = get_target(bench.settings, "orders")
    assert bench.deliver().delivered == 33
    assert len(fifo.read()) == 33


# Settings.


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("queue_url = 'q'", "orders.queue_url must look like https://host/account/queue"),
        ("queue_url = 'http://sqs.example/1/q'", "orders.queue_url must use https://"),
        ("queue_url = 'https://vpce-1.amazonaws.com/1/q'", "orders.region is not set"),
        ("", "queue_url is not set"),
        ("queue_url = 'https://a.example/q'\nsecret_access_key = 'x'", "go together"),
        ("queue_url = 'https://a.example/q'\nalways_link = true", "always_link needs payloads"),
        (
            "queue_url = 'https://a.example/q'\n[orders.payloads]\nurl = 'file:///x'",
            "orders.payloads.url must be s3://",
        ),
        (
            "queue_url = 'https://a.example/q'\n[orders.payloads]\nurll = 'x'",
            r"payloads.urll is no setting of sqs",
        ),
    ],
)
def test_a_mistake_is_said_in_one_line(from_file: FromFile, lines: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        get_target(from_file(f"[orders]\nkind = 'sqs'\n{lines}"), "orders").open()
    assert "\n" not in str(caught.value)


def test_the_region_is_taken_from_the_address(from_file: FromFile) -> None:
    url = "https://sqs.eu-central-1.amazonaws.com/1234/wearables.fifo"
    with get_target(
        from_file(f"[orders]\nkind = 'sqs'\nqueue_url = '{url}'"), "orders"
    ).open() as sender:
        assert sender._client.meta.region_name == "eu-central-1"  # type: ignore[attr-defined]


def test_secrets_show_in_no_representation(from_file: FromFile) -> None:
    text = (
        "[orders]\nkind = 'sqs'\nqueue_url = 'https://a.example/q'\naccess_key_id = 'AKIA'\n"
        "secret_access_key = 'hush-1'\n[orders.payloads]\nurl = 's3://b'\nregion = 'eu-central-1'\n"
        "access_key_id = 'AKIA'\nsecret_access_key = 'hush-2'\n"
    )
    target = configured(from_file(text))["orders"]
    assert "hush" not in repr(target) + repr(target.settings)


def test_without_the_client_the_way_to_get_it_is_said(
    from_file: FromFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    target = get_target(
        from_file("[orders]\nkind = 'sqs'\nqueue_url = 'https://a.example/q'"), "orders"
    )
    with pytest.raises(
        UsageError, match=r"orders needs boto3: pip install 'wearable-pipeline\[sqs\]'"
    ):
        target.open()
