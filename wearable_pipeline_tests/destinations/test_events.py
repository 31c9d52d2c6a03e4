"""Events about connections and requests, as the official client reads them."""

import typing
from datetime import timedelta
from types import SimpleNamespace

import msgspec
import pytest
from terra.core.unchecked_base_model import construct_type
from terra.types.access_revoked_event import AccessRevokedEvent
from terra.types.auth_success_event import AuthSuccessEvent
from terra.types.connection_error_event import ConnectionErrorEvent
from terra.types.deauth_event import DeauthEvent
from terra.types.large_request_processing_event import LargeRequestProcessingEvent
from terra.types.large_request_sending_event import LargeRequestSendingEvent
from terra.types.permission_change_event import PermissionChangeEvent
from terra.types.user_reauth_event import UserReauthEvent
from terra.utils.verify_signature import verify_terra_webhook_signature

from wearable_pipeline.destinations.delivery import ATTEMPTS
from wearable_pipeline.destinations.history import backfill, replay
from wearable_pipeline.errors import UsageError
from wearable_pipeline.registry import PartitionResult, SyncResult
from wearable_pipeline.sandbox.receiver import Answer, Post, Receiver
from wearable_pipeline.workspace import Lake, Workspace
from wearable_pipeline_tests.destinations.bench import SECRET, TODAY, Bench, body_row
from wearable_pipeline_tests.destinations.counterparts import merged

A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"

CLASSES = {
    "auth": AuthSuccessEvent,
    "deauth": DeauthEvent,
    "user_reauth": UserReauthEvent,
    "access_revoked": AccessRevokedEvent,
    "connection_error": ConnectionErrorEvent,
    "permission_change": PermissionChangeEvent,
    "large_request_processing": LargeRequestProcessingEvent,
    "large_request_sending": LargeRequestSendingEvent,
}


def read(post: Post) -> typing.Any:
    """The event as the client's own classes validate it, its signature checked by the client."""
    assert verify_terra_webhook_signature(
        post.body.decode(), post.headers["terra-signature"], SECRET
    )
    said = msgspec.json.decode(post.body)
    kind = CLASSES[said["type"]]
    event = kind.model_validate_json(post.body)
    assert type(construct_type(type_=kind, object_=said)) is kind
    return event


def add(bench: Bench, user_id: str = A, **more: typing.Any) -> None:
    bench.registry.add_user(
        "freestyle_libre", user_id=user_id, reference_id="person-1", event="auth", **more
    )


def workspace_of(bench: Bench) -> Workspace:
    lake = Lake(bench.storage, SimpleNamespace(), bench.scheme)  # type: ignore[arg-type]
    return Workspace(bench.settings, bench.registry, lake, bench.clock)


def types_of(posts: list[Post]) -> list[str]:
    return [msgspec.json.decode(post.body)["type"] for post in posts]


def test_a_new_connection_is_told_before_its_data(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    bench.note(body_row(A, [100]))
    assert bench.deliver().delivered == 2
    first, second = receiver.posts()
    event = read(first)
    assert (event.type, event.user.user_id, event.user.active) == ("auth", A, True)
    assert (event.reference_id, event.user.reference_id) == ("person-1", "person-1")
    assert event.user.provider.isupper()
    assert event.status == "success"
    assert types_of([second]) == ["body"]


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        ("disconnected", "deauth", "success"),
        ("revoked", "access_revoked", "warning"),
        ("needs_reauth", "connection_error", "warning"),
    ],
)
def test_the_end_of_a_connection_is_told_once(
    bench: Bench, receiver: Receiver, status: typing.Any, kind: str, told: str
) -> None:
    bench.add_user(A)
    bench.registry.set_status(A, status, "secret reason of ours")
    bench.registry.set_status(A, status)
    assert bench.deliver().delivered == 1
    assert bench.deliver().delivered == 0
    (post,) = receiver.posts()
    event = read(post)
    assert (event.type, event.status, event.user.active) == (kind, told, False)
    assert event.message
    assert b"secret reason" not in post.body


def test_an_error_during_a_sync_that_ends_the_connection_is_told(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.add_user(B, "person-2")

    def refused(user_id: str, status: typing.Any) -> SyncResult:
        return SyncResult(
            user_id=user_id,
            attempted_at=bench.clock.forward(seconds=1),
            next_due_at=None,
            error_class="not_connected",
            error_message="HTTP 401",
            status=status,
        )

    bench.registry.record_sync([refused(A, "needs_reauth"), refused(B, "revoked")])
    bench.registry.record_sync([refused(A, "needs_reauth")])
    bench.deliver()
    found = {event.user.user_id: event.type for event in map(read, receiver.posts())}
    assert found == {A: "connection_error", B: "access_revoked"}
    assert len(receiver.posts()) == 2


def test_who_connects_again_is_told_with_both_ids(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    bench.registry.set_status(A, "needs_reauth")
    bench.registry.set_status(A, "connected")
    bench.registry.add_user(
        "freestyle_libre", user_id=B, event="user_reauth", event_detail={"old_user_id": A}
    )
    bench.deliver()
    events = [read(post) for post in receiver.posts() if b"user_reauth" in post.body]
    same, other = sorted(events, key=lambda event: event.new_user.user_id)
    assert (same.old_user.user_id, same.new_user.user_id) == (A, A)
    assert (other.old_user.user_id, other.new_user.user_id) == (A, B)
    assert (other.old_user.active, other.new_user.active) == (False, True)
    assert other.status == "warning"


def test_a_change_of_scopes_is_told_by_what_came_and_what_went(
    bench: Bench, receiver: Receiver
) -> None:
    bench.registry.add_user("oura", user_id=A, config={"scopes": "daily heartrate"})
    bench.registry.update_user(A, config={"scopes": "daily sleep"})
    bench.registry.update_user(A, config={"scopes": "sleep daily"})
    bench.deliver()
    (post,) = receiver.posts()
    event = read(post)
    assert (event.scopes_added, event.scopes_removed) == ("sleep", "heartrate")
    assert event.version == "2022-03-16"


def test_events_of_a_user_arrive_in_their_order(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    wanted = ["auth"]
    for status, kind in [("needs_reauth", "connection_error"), ("connected", "user_reauth")] * 5:
        bench.registry.set_status(A, status)  # type: ignore[arg-type]
        wanted.append(kind)
    # The first is answered last: the others must wait for it.
    receiver.answer([Answer(200, delay_seconds=0.2)])
    bench.deliver()
    assert types_of(receiver.posts()) == wanted


def test_an_event_is_tried_again_with_the_same_trace_and_body_and_parked_in_the_end(
    bench: Bench, receiver: Receiver
) -> None:
    add(bench)
    receiver.answer(then=Answer(500))
    for _ in range(ATTEMPTS - 1):
        report = bench.deliver()
        assert report.failed == 1
        # What becomes of the user meanwhile does not change what happened then.
        bench.registry.update_user(A, timezone="Europe/Berlin")
        assert report.next_attempt_at is not None
        bench.clock.now = report.next_attempt_at
    assert bench.deliver().parked == 1
    posts = receiver.posts()
    assert len(posts) == ATTEMPTS
    assert len({(post.trace_id, post.body) for post in posts}) == 1
    receiver.answer()
    assert bench.registry.retry_parked("webhook") == 1
    assert bench.deliver().delivered == 1
    assert receiver.posts()[-1].trace_id == posts[0].trace_id


def test_an_event_noted_is_there_after_a_restart(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    bench.reopen_registry()
    assert bench.deliver().delivered == 1


def test_a_new_destination_is_told_no_old_news(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    bench.clock.forward(days=1, seconds=1)
    bench.registry.set_status(A, "disconnected")
    bench.deliver()
    assert types_of(receiver.posts()) == ["deauth"]


def test_events_go_to_every_destination_that_takes_them(bench: Bench) -> None:
    add(bench)
    assert bench.registry.want_events("one") == 1
    assert bench.registry.want_events("two") == 1
    assert bench.registry.want_events("one") == 0
    assert bench.registry.want_events("three", lambda user_id, provider: False) == 0


def test_a_filter_of_users_holds_for_events_too(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    add(bench, B)
    assert bench.registry.want_events("one", lambda user_id, provider: user_id == B) == 1
    (row,) = bench.registry.deliveries("one")
    assert row.user_id == B


def test_an_erased_user_leaves_no_event(bench: Bench, receiver: Receiver) -> None:
    add(bench)
    bench.registry.want_events("webhook")
    bench.registry.delete_user(A)
    assert bench.registry.events_of(A) == []
    assert bench.deliver().delivered == 0
    bench.registry.note_event(A, "deauth")
    assert bench.deliver().delivered == 0
    assert receiver.posts() == []


# Large requests.


def hold(bench: Bench, user_id: str, days: int) -> None:
    """A lake that holds so many days of the user, and a ledger that says so."""
    wanted = [TODAY - timedelta(days=n) for n in range(days)]
    bench.write(*(body_row(user_id, [100], day) for day in wanted))
    bench.registry.record_partitions(
        [
            PartitionResult(
                user_id=user_id,
                provider="freestyle_libre",
                table="body",
                date=day,
                status="ok",
                rows=1,
                code_version="test",
            )
            for day in wanted
        ]
    )


def test_more_than_a_month_is_announced_and_comes_ten_days_to_a_payload(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    hold(bench, A, 33)
    report = backfill(workspace_of(bench), "webhook", user_ids=[A])
    assert report.rows == 33
    assert bench.deliver().delivered == 33 + 2
    posts = receiver.posts()
    assert types_of(posts) == ["large_request_processing", "large_request_sending"] + ["body"] * 4
    processing, sending = read(posts[0]), read(posts[1])
    reference = report.references[A]
    assert processing.reference == sending.reference == reference
    assert processing.status == "processing"
    assert sending.expected_payloads == 4
    assert {post.headers["terra-reference"] for post in posts} == {reference}
    objects = [len(msgspec.json.decode(post.body)["data"]) for post in posts[2:]]
    assert sorted(objects) == [3, 10, 10, 10]
    assert len({post.trace_id for post in posts}) == 6
    assert all(":chunk:" in post.trace_id for post in posts[2:])
    assert {day for _, _, day in merged(receiver)} == {
        (TODAY - timedelta(days=n)).isoformat() for n in range(33)
    }


def test_a_month_is_not_large(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    hold(bench, A, 31)
    assert backfill(workspace_of(bench), "webhook", user_ids=[A]).references == {}
    bench.deliver()
    assert types_of(receiver.posts()) == ["body"] * 31


def test_a_payload_that_failed_comes_again_under_its_trace(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    hold(bench, A, 40)
    backfill(workspace_of(bench), "webhook", user_ids=[A])
    receiver.answer([Answer(200), Answer(200), Answer(503)])
    assert bench.deliver().failed == 10
    bench.clock.forward(seconds=30)
    assert bench.deliver().delivered == 10
    (failed,) = [post for post in receiver.posts() if post.status == 503]
    again = receiver.posts()[-1]
    assert (again.trace_id, again.body) == (failed.trace_id, failed.body)
    assert len(merged(receiver)) == 40


def test_a_row_nobody_can_take_does_not_hold_the_others_of_its_chunk_for_long(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    hold(bench, A, 40)
    backfill(workspace_of(bench), "webhook", user_ids=[A])
    receiver.answer(then=Answer(400, user_id='"local_date":"2026-11-18"'))
    reports = []
    for wait in (0, 30, 60):
        bench.clock.forward(seconds=wait)
        reports.append(bench.deliver())
    assert [(report.delivered, report.failed) for report in reports] == [(32, 10), (0, 10), (9, 1)]
    assert {post.headers["terra-reference"] for post in receiver.posts()[2:]} == {
        receiver.posts()[0].headers["terra-reference"]
    }


def test_a_chunk_whose_rows_changed_says_so_by_another_trace(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    hold(bench, A, 40)
    backfill(workspace_of(bench), "webhook", user_ids=[A])
    receiver.answer(then=Answer(503))
    bench.deliver()
    receiver.answer()
    bench.note(body_row(A, [100, 110]))
    bench.clock.forward(minutes=1)
    while bench.deliver().delivered:
        bench.clock.forward(minutes=1)
    first, *_ = [post for post in receiver.posts() if post.status == 503 and b"data" in post.body]
    assert first.trace_id not in {p.trace_id for p in receiver.posts() if p.status == 200}
    state = merged(receiver)
    assert len(state) == 40
    today = state[A, "body", "2026-11-20"]["glucose_data"]["blood_glucose_samples"]
    assert len(today) == 2


def test_a_limit_never_tears_a_chunk(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    hold(bench, A, 40)
    backfill(workspace_of(bench), "webhook", user_ids=[A])
    for _ in range(20):
        bench.deliver(limit=3)
    objects = [
        len(event["data"])
        for event in (msgspec.json.decode(post.body) for post in receiver.posts())
        if event["type"] == "body"
    ]
    assert objects == [10, 10, 10, 10]


def test_replay_sends_delivered_days_again_and_a_large_one_in_chunks(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    hold(bench, A, 40)
    workspace = workspace_of(bench)
    backfill(workspace, "webhook")
    bench.deliver()
    assert len(receiver.posts()) == 40
    traces = {post.trace_id for post in receiver.posts()}
    receiver.forget()
    few = replay(workspace, "webhook", TODAY - timedelta(days=2))
    assert (few.rows, few.references) == (3, {})
    bench.deliver()
    assert {post.trace_id for post in receiver.posts()} <= traces
    assert len(receiver.posts()) == 3
    receiver.forget()
    many = replay(workspace, "webhook", TODAY - timedelta(days=60), user_ids=[A])
    assert many.rows == 40
    bench.deliver()
    assert types_of(receiver.posts())[:2] == ["large_request_processing", "large_request_sending"]
    assert len(receiver.posts()) == 6
    assert len(merged(receiver)) == 40


def test_backfill_looks_only_where_it_is_told_to(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    bench.add_user(B, "person-2")
    hold(bench, A, 5)
    hold(bench, B, 5)
    workspace = workspace_of(bench)
    start, end = TODAY - timedelta(days=3), TODAY - timedelta(days=1)
    looked: list[int] = []
    report = backfill(workspace, "webhook", start, end, user_ids=[A], progress=looked.append)
    assert (report.rows, looked) == (3, [3])
    assert backfill(workspace, "webhook", start, end, tables=["sleep"]).rows == 0
    assert backfill(workspace, "webhook", start).rows == 5  # A's last day, B's four
    bench.deliver()
    assert backfill(workspace, "webhook").rows == 2
    with pytest.raises(UsageError, match="no type bodies"):
        backfill(workspace, "webhook", tables=["bodies"])
    with pytest.raises(UsageError, match="no user"):
        replay(workspace, "webhook", start, user_ids=["nobody"])


def test_live_rows_go_before_a_backfill(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    hold(bench, A, 20)
    backfill(workspace_of(bench), "webhook", end=TODAY - timedelta(days=1))
    bench.clock.forward(seconds=1)
    bench.note(body_row(A, [100, 110]))
    bench.deliver(limit=1)
    (post,) = receiver.posts()
    assert msgspec.json.decode(post.body)["data"][0]["local_date"] == TODAY.isoformat()
