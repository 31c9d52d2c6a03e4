import hashlib
import hmac
import socket
import threading
import time
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from terra.core.unchecked_base_model import construct_type
from terra.types.body import Body
from terra.types.body_event import BodyEvent
from terra.types.no_data_returned import NoDataReturned
from terra.utils.verify_signature import (
    WebhookVerificationError,
    verify_terra_webhook_signature,
)

from wearable_pipeline.destinations import configured, get_target, wanting, webhook
from wearable_pipeline.destinations._addresses import AddressGuard
from wearable_pipeline.destinations._contract import Batch
from wearable_pipeline.destinations.webhook import (
    FIRST_CONCURRENCY,
    OUTAGE_AFTER,
    WebhookSender,
    encode_data,
    plan_posts,
    sign,
)
from wearable_pipeline.errors import UsageError
from wearable_pipeline.sandbox.receiver import Answer, Receiver, verify
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of
from wearable_pipeline_tests.destinations.bench import SECRET, Bench, body_row

HERE = AddressGuard(frozenset({"loopback"}))


def sender_to(
    receiver: Receiver,
    *,
    timeout: float = 8.0,
    unix_time: Callable[[], float] = time.time,
    secrets: tuple[str, ...] = (SECRET,),
) -> WebhookSender:
    return WebhookSender(receiver.url, secrets, HERE, timeout=timeout, unix_time=unix_time)


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request's head and leaves the rest to the test."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    finally:
        listener.close()


# What arrives.


def test_terras_own_client_accepts_signature_and_body(bench: Bench, receiver: Receiver) -> None:
    user_id = bench.add_user("11111111-1111-4111-8111-111111111111", "person-1")
    bench.note(body_row(user_id, [100, 110.4]))
    bench.deliver()
    (post,) = receiver.posts()
    body = post.body.decode()
    for header in ("terra-signature", "x-terra-signature"):
        assert verify_terra_webhook_signature(body, post.headers[header], SECRET)
        with pytest.raises(WebhookVerificationError):
            verify_terra_webhook_signature(body + " ", post.headers[header], SECRET)
    assert post.is_signed
    BodyEvent.model_validate_json(post.body)
    # What the client does with an answer: names undone, the first type that validates.
    event = construct_type(
        type_=typing.Union[BodyEvent, NoDataReturned],  # type: ignore[arg-type] # noqa: UP007
        object_=msgspec.json.decode(post.body),
    )
    assert type(event) is BodyEvent
    assert event.type == "body"
    assert event.version == "2022-03-16"
    assert event.user.user_id == user_id
    assert event.user.reference_id == "person-1"
    assert event.user.active is True
    assert event.user.provider.isupper()
    assert event.user.last_webhook_update == "2026-11-20T12:00:00.000000+00:00"
    (row,) = event.data
    assert type(row) is Body
    assert row.metadata.start_time == "2026-11-20T00:00:00.000000+01:00"
    assert row.metadata.end_time == "2026-11-21T00:00:00.000000+01:00"
    assert row.glucose_data is not None
    samples = row.glucose_data.blood_glucose_samples
    assert samples is not None
    assert [sample.blood_glucose_mg_per_d_l for sample in samples] == [100, 110]
    assert samples[1].timestamp == "2026-11-20T11:05:00.000000+01:00"


def test_the_headers_are_those_clients_read(receiver: Receiver) -> None:
    with sender_to(receiver) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "delivered"
    (post,) = receiver.posts()
    assert (post.method, post.path) == ("POST", "/hook")
    assert post.headers["content-type"] == "application/json"
    assert post.headers["x-terra-trace-id"] == "trace-0"
    assert post.headers["terra-reference"] == "trace-0"
    assert post.headers["x-terra-ordering-timestamp"] == "1795176000000"
    assert "cookie" not in post.headers
    assert set(msgspec.json.decode(post.body)) == {"user", "data", "type", "version"}


def test_a_signature_is_the_hmac_of_time_and_body() -> None:
    expected = hmac.new(b"key", b'1795176000.{"a":1}', hashlib.sha256).hexdigest()
    assert sign(["key"], 1_795_176_000, b'{"a":1}') == f"t=1795176000,v1={expected}"


def test_two_secrets_at_once_satisfy_receivers_that_know_either(
    receiver: Receiver, tmp_path: Path
) -> None:
    settings = make_settings(
        tmp_path, webhook_url=receiver.url, webhook_secret=f"the-new-one, {SECRET}"
    )
    with get_target(settings, "webhook").open() as sender:
        list(sender.deliver(batch_of(1)))
    (post,) = receiver.posts()
    header, body = post.headers["terra-signature"], post.body.decode()
    assert header == post.headers["x-terra-signature"]
    stamp, newest, oldest = header.split(",")
    assert stamp.startswith("t=")
    assert newest.startswith("v1=")
    assert oldest.startswith("v1=")
    # The client's own check looks through all `v1`, and so does the receiver's.
    for secret in ("the-new-one", SECRET):
        assert verify_terra_webhook_signature(body, header, secret)
        assert verify(secret, header, post.body, time.time())
    with pytest.raises(WebhookVerificationError):
        verify_terra_webhook_signature(body, header, "another")
    expected = hmac.new(b"the-new-one", f"{stamp[2:]}.{body}".encode(), hashlib.sha256).hexdigest()
    assert newest == f"v1={expected}"


def test_a_secret_of_nothing_but_commas_is_none(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, webhook_url="https://example.com/hook", webhook_secret=" , ")
    with pytest.raises(UsageError, match="WEARABLE_WEBHOOK_SECRET"):
        get_target(settings, "webhook").open()


def chunked(batch: Batch, *chunks: int) -> Batch:
    items = tuple(
        replace(item, reference="ref-1", chunk=chunk)
        for item, chunk in zip(batch.items, chunks, strict=True)
    )
    return replace(batch, items=items)


def test_rows_of_a_chunk_travel_together_and_no_others(receiver: Receiver) -> None:
    with sender_to(receiver) as sender:
        outcomes = list(sender.deliver(chunked(batch_of(5), 0, 0, 1, 1, 1)))
    assert [outcome.kind for outcome in outcomes] == ["delivered"] * 5
    events = [msgspec.json.decode(post.body) for post in receiver.posts()]
    assert sorted(len(event["data"]) for event in events) == [2, 3]
    assert {post.headers["terra-reference"] for post in receiver.posts()} == {"ref-1"}
    for event in events:
        BodyEvent.model_validate(event)


def test_a_chunk_that_is_refused_fails_all_of_its_rows(receiver: Receiver) -> None:
    receiver.answer(then=Answer(413))
    with sender_to(receiver) as sender:
        outcomes = list(sender.deliver(chunked(batch_of(3), 0, 0, 0)))
    assert [outcome.kind for outcome in outcomes] == ["transient"] * 3
    assert len(receiver.posts()) == 1


def test_the_trace_of_a_chunk_stands_for_exactly_its_contents() -> None:
    (whole,) = plan_posts(chunked(batch_of(3), 0, 0, 0))
    (again,) = plan_posts(chunked(batch_of(3), 0, 0, 0))
    (part,) = plan_posts(chunked(batch_of(2), 0, 0))
    assert whole.trace_id == again.trace_id != part.trace_id
    assert whole.trace_id.endswith(":chunk:0")


def test_a_chunk_is_cut_at_ten_rows_at_the_size_and_at_another_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sizes(batch: Batch) -> list[int]:
        return [len(post.items) for post in plan_posts(batch)]

    assert sizes(chunked(batch_of(12), *[0] * 12)) == [10, 2]
    mixed = chunked(batch_of(3), 0, 0, 0)
    older = replace(mixed.items[2], ordering_timestamp=mixed.items[2].ordering_timestamp - 1)
    assert sizes(replace(mixed, items=(*mixed.items[:2], older))) == [2, 1]
    two = chunked(batch_of(2), 0, 0)
    limit = sum(map(len, two.texts))
    monkeypatch.setattr(webhook, "CHUNK_BYTES", limit)
    assert sizes(chunked(batch_of(2), 0, 0)) == [2]
    monkeypatch.setattr(webhook, "CHUNK_BYTES", limit - 1)
    assert sizes(chunked(batch_of(2), 0, 0)) == [1, 1]


def test_every_try_is_signed_anew_over_the_same_bytes(receiver: Receiver) -> None:
    now = time.time()
    ticks = iter([now - 200, now])
    receiver.answer([Answer(500)])
    with sender_to(receiver, unix_time=lambda: next(ticks)) as sender:
        (first,) = sender.deliver(batch_of(1))
        (second,) = sender.deliver(batch_of(1))
    assert (first.kind, second.kind) == ("transient", "delivered")
    before, after = receiver.posts()
    assert before.body == after.body
    assert before.trace_id == after.trace_id
    assert before.headers["terra-signature"].startswith(f"t={int(now - 200)},v1=")
    assert after.headers["terra-signature"].startswith(f"t={int(now)},v1=")
    assert before.is_signed
    assert after.is_signed


def test_the_body_depends_on_nothing_but_item_and_row() -> None:
    batch, again = batch_of(1), batch_of(1)
    first = encode_data(batch.items, batch.texts)
    assert encode_data(again.items, again.texts) == first
    assert msgspec.json.decode(first)["data"] == batch.payloads


def test_the_receiver_refuses_what_clients_refuse() -> None:
    body = b'{"type":"body"}'
    good = sign([SECRET], 1000, body)
    assert verify(SECRET, good, body, 1300)
    assert not verify(SECRET, good, body, 1301)
    assert not verify(SECRET, good, body, 699)
    assert not verify("another", good, body, 1000)
    assert not verify(SECRET, good, body + b" ", 1000)
    assert not verify(SECRET, good.replace("v1=", "v0="), body, 1000)
    assert not verify(SECRET, "", body, 1000)


# What an answer means.


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(receiver: Receiver, status: int) -> None:
    receiver.answer([Answer(status, body="" if status == 204 else "ok")])
    with sender_to(receiver) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "delivered"


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 425, 429, 500, 502, 503, 504])
def test_refusals_and_server_trouble_are_tried_again_without_repeating_the_answer(
    receiver: Receiver, status: int
) -> None:
    receiver.answer([Answer(status, body="glucose 123.456 of Example Person")])
    with sender_to(receiver) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "transient"
    assert outcome.message == f"webhook: refused (HTTP {status})"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(receiver: Receiver, status: int) -> None:
    target = f"http://127.0.0.1:{receiver.port}/elsewhere"
    receiver.answer([Answer(status, headers={"location": target})])
    with sender_to(receiver) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "transient"
    assert [post.path for post in receiver.posts()] == ["/hook"]


def test_410_is_final(receiver: Receiver) -> None:
    receiver.answer([Answer(410)])
    with sender_to(receiver) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "permanent"


def test_retry_after_is_read_in_seconds_and_stops_the_pass(receiver: Receiver) -> None:
    receiver.answer([Answer(503, headers={"retry-after": "120"})])
    with sender_to(receiver) as sender:
        kinds = Counter(outcome.kind for outcome in sender.deliver(batch_of(20)))
    assert kinds["transient"] == 1
    assert kinds["delivered"] <= FIRST_CONCURRENCY + 16
    assert kinds["untried"] == 19 - kinds["delivered"] > 0


def test_a_slow_receiver_is_given_up_on(receiver: Receiver) -> None:
    receiver.answer([Answer(200, delay_seconds=2)])
    began = time.monotonic()
    with sender_to(receiver, timeout=0.3) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert time.monotonic() - began < 1.5
    assert (outcome.kind, outcome.message) == ("transient", "webhook: no answer within 0.3 s")


def test_a_receiver_that_drips_its_headers_is_given_up_on() -> None:
    def drip(connection: socket.socket) -> None:
        try:
            for character in b"HTTP/1.1 200 OK\r\nx: y":
                connection.sendall(bytes([character]))
                time.sleep(0.05)
        except OSError:
            return

    began = time.monotonic()
    with raw_server(drip) as url, WebhookSender(url, [SECRET], HERE, timeout=0.4) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "transient"
    assert time.monotonic() - began < 1.5


def test_an_endless_answer_body_does_not_hold_the_sender_up() -> None:
    def flood(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            return

    with raw_server(flood) as url, WebhookSender(url, [SECRET], HERE) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "delivered"


def test_a_connection_that_breaks_off_is_tried_again() -> None:
    with (
        raw_server(lambda connection: None) as url,
        WebhookSender(url, [SECRET], HERE, timeout=2) as sender,
    ):
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "transient"
    assert outcome.message.startswith("webhook: cannot be reached (")


def test_after_enough_failures_to_connect_the_rest_is_left_for_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with WebhookSender(f"http://127.0.0.1:{port}/", [SECRET], HERE, timeout=2) as sender:
        kinds = Counter(outcome.kind for outcome in sender.deliver(batch_of(40)))
    assert OUTAGE_AFTER <= kinds["transient"] <= OUTAGE_AFTER + FIRST_CONCURRENCY
    assert kinds["untried"] == 40 - kinds["transient"]


def test_many_rows_at_once_are_no_outage(receiver: Receiver) -> None:
    with sender_to(receiver) as sender:
        kinds = Counter(outcome.kind for outcome in sender.deliver(batch_of(200)))
    assert kinds == {"delivered": 200}


def test_every_item_has_exactly_one_outcome(receiver: Receiver) -> None:
    batch = batch_of(50)
    receiver.answer([Answer(500), Answer(200), Answer(404)])
    with sender_to(receiver) as sender:
        outcomes = list(sender.deliver(batch))
    assert sorted(outcome.item.trace_id for outcome in outcomes) == sorted(
        item.trace_id for item in batch.items
    )
    assert len({post.trace_id for post in receiver.posts()}) == len(receiver.posts()) == 50


def test_leaving_early_cancels_what_is_on_its_way(receiver: Receiver) -> None:
    receiver.answer([Answer(200)], then=Answer(200, delay_seconds=1))
    began = time.monotonic()
    with sender_to(receiver) as sender:
        outcomes = sender.deliver(batch_of(10))
        assert next(outcomes).kind == "delivered"
        outcomes.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 1


# Settings.


def make_settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(home=tmp_path, **values)  # type: ignore[arg-type]


def test_types_that_are_not_wanted_are_neither_noted_nor_sent(
    receiver: Receiver, tmp_path: Path
) -> None:
    settings = make_settings(
        tmp_path, webhook_url=receiver.url, webhook_secret=SECRET, webhook_types="sleep, daily"
    )
    assert [target.name for target in wanting(settings, "sleep")] == ["webhook"]
    assert wanting(settings, "body") == []


def test_without_a_url_there_is_no_webhook(tmp_path: Path) -> None:
    assert "webhook" not in configured(make_settings(tmp_path))
    url = "https://example.com/hook"
    assert "webhook" in configured(make_settings(tmp_path, webhook_url=url))


def test_without_a_secret_nothing_is_sent(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, webhook_url="https://example.com/hook")
    with pytest.raises(UsageError, match="WEARABLE_WEBHOOK_SECRET"):
        get_target(settings, "webhook").open()


def test_the_secret_shows_in_no_representation(receiver: Receiver, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, webhook_url=receiver.url, webhook_secret=SECRET)
    with get_target(settings, "webhook").open() as sender:
        assert SECRET not in repr(sender)
        assert SECRET not in repr(settings)
        receiver.answer([Answer(401, body=SECRET)])
        (outcome,) = sender.deliver(batch_of(1))
    assert SECRET not in repr(outcome)
    assert "person-1" not in repr(outcome)
