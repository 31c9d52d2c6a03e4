from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from wearable_pipeline.registry import Delivery, DeliveryCounts, Registry, WantedRow
from wearable_pipeline.settings import Settings

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
NOON_MS = 1_795_176_000_000  # 20,777 days and 12 hours after the epoch
DAY = date(2026, 11, 20)
Forward = Callable[..., datetime]


def row(content: str = "h1", back: int = 0, user_id: str = "ann", **more: bool) -> WantedRow:
    day = DAY - timedelta(days=back)
    return WantedRow("daily", user_id, day.isoformat(), day, content, **more)


def only(registry: Registry) -> Delivery:
    [delivery] = registry.deliveries()
    return delivery


def test_a_wanted_row_is_pending_until_it_is_acknowledged(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.want("webhook", [row()]) == 1
    [claimed] = registry.claim("webhook", NOON, 10)
    assert claimed.ordering_timestamp == NOON_MS
    assert (claimed.table, claimed.row_key, claimed.wanted_hash) == ("daily", "2026-11-20", "h1")
    assert claimed.attempts == 1
    registry.acknowledge([claimed])
    assert registry.pending("webhook", NOON) == []
    done = only(registry)
    assert (done.status, done.delivered_hash, done.delivered_at) == ("delivered", "h1", NOON)
    assert done.claim is None


def test_a_delivered_row_wanted_again_unchanged_stays_delivered(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    registry.acknowledge(registry.claim("webhook", NOON, 10))
    before = only(registry)
    assert registry.want("webhook", [row(), row()]) == 0
    assert only(registry) == before
    assert registry.want("other", [row()]) == 1


def test_new_content_is_pending_with_a_new_trace_and_a_later_ordering(registry: Registry) -> None:
    # The clock stands still: the order must hold even then.
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    first = only(registry)
    registry.acknowledge(registry.claim("webhook", NOON, 10))
    assert registry.want("webhook", [row("h2")]) == 1
    second = only(registry)
    assert second.ordering_timestamp == NOON_MS + 1
    assert second.trace_id != first.trace_id
    assert (second.status, second.delivered_hash, second.attempts) == ("pending", "h1", 0)


def test_a_clock_put_back_does_not_put_the_order_back(registry: Registry, forward: Forward) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    forward(hours=-1)
    registry.want("webhook", [row("h2")])
    assert only(registry).ordering_timestamp == NOON_MS + 1


def test_a_deletion_is_news_even_with_the_same_hash(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    registry.acknowledge(registry.claim("webhook", NOON, 10))
    assert registry.want("webhook", [row(is_deleted=True)]) == 1
    assert only(registry).is_deleted is True


def test_a_failed_row_waits_and_keeps_trace_and_ordering(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    first = only(registry)
    [claimed] = registry.claim("webhook", NOON, 10)
    registry.fail(claimed, "HTTP 503", NOON + timedelta(seconds=30))
    assert registry.pending("webhook", NOON + timedelta(seconds=29)) == []
    forward(seconds=30)
    registry.want("webhook", [row()])
    [again] = registry.claim("webhook", NOON + timedelta(seconds=30), 10)
    assert (again.trace_id, again.ordering_timestamp) == (first.trace_id, NOON_MS)
    assert (again.attempts, again.last_error) == (2, "HTTP 503")


def test_a_change_supersedes_an_older_content_in_back_off(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    registry.fail(registry.claim("webhook", NOON, 10), "HTTP 503", NOON + timedelta(hours=9))
    assert registry.want("webhook", [row("h2")]) == 1
    [claimed] = registry.claim("webhook", NOON, 10)
    assert (claimed.wanted_hash, claimed.attempts, claimed.last_error) == ("h2", 1, None)


def test_a_change_during_sending_is_sent_after_it_and_not_beside_it(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    sending = registry.claim("webhook", NOON, 10)
    registry.want("webhook", [row("h2")])
    assert registry.claim("webhook", NOON, 10) == []
    registry.acknowledge(sending)
    [later] = registry.claim("webhook", NOON, 10)
    assert (later.wanted_hash, later.delivered_hash, later.status) == ("h2", "h1", "pending")


def test_a_failure_of_superseded_content_delays_and_parks_nothing(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    [sending] = registry.claim("webhook", NOON, 10)
    registry.want("webhook", [row("h2")])
    registry.fail(sending, "HTTP 400", park=True)
    [later] = registry.claim("webhook", NOON, 10)
    assert (later.wanted_hash, later.last_error) == ("h2", None)


def test_a_late_acknowledgement_of_old_content_does_not_hide_the_newer_one(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    lost = registry.claim("webhook", NOON, 10, ttl=timedelta(minutes=1))
    registry.want("webhook", [row("h2")])
    later = forward(minutes=1)
    registry.acknowledge(registry.claim("webhook", later, 10))
    registry.acknowledge(lost)
    done = only(registry)
    assert (done.status, done.delivered_hash) == ("delivered", "h2")


def test_a_claim_runs_out_when_its_holder_dies_and_not_before(
    registry: Registry, forward: Forward
) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    [dead] = registry.claim("webhook", NOON, 10, ttl=timedelta(minutes=10))
    assert registry.claim("webhook", NOON + timedelta(minutes=9, seconds=59), 10) == []
    later = forward(minutes=10)
    [taken] = registry.claim("webhook", later, 10)
    assert (taken.attempts, taken.trace_id) == (2, dead.trace_id)
    registry.fail(dead, "late news", park=True)
    assert only(registry).status == "pending"
    assert registry.pending("webhook", later) == []


def test_rows_given_back_untried_are_free_and_not_counted(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    registry.release(registry.claim("webhook", NOON, 10))
    [again] = registry.claim("webhook", NOON, 10)
    assert again.attempts == 1


def test_parked_rows_wait_for_a_person(registry: Registry, forward: Forward) -> None:
    for user_id in ("ann", "bob"):
        registry.add_user("oura", user_id=user_id)
    registry.want("webhook", [row(), row(user_id="bob")])
    registry.fail(registry.claim("webhook", NOON, 10), "HTTP 410", park=True)
    traces = {one.user_id: one.trace_id for one in registry.deliveries(status="parked")}
    later = forward(days=30)
    assert registry.want("webhook", [row(), row(user_id="bob")]) == 0
    assert registry.claim("webhook", later, 10) == []
    assert registry.retry_parked("webhook", ["bob"]) == 1
    [bob] = registry.claim("webhook", later, 10)
    assert (bob.user_id, bob.attempts, bob.trace_id) == ("bob", 1, traces["bob"])
    assert registry.retry_parked("webhook") == 1
    assert registry.retry_parked("other") == 0


def test_new_content_frees_a_parked_row(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row("h1")])
    registry.fail(registry.claim("webhook", NOON, 10), "HTTP 400", park=True)
    assert registry.want("webhook", [row("h2")]) == 1
    assert len(registry.claim("webhook", NOON, 10)) == 1


def test_live_rows_go_before_history_and_within_a_day_the_oldest_wanted_first(
    registry: Registry, forward: Forward
) -> None:
    for user_id in ("ann", "bob", "cem"):
        registry.add_user("oura", user_id=user_id)
    registry.want("webhook", [row(back=400), row(user_id="bob")])
    now = forward(minutes=1)
    registry.want("webhook", [row(), row(back=1), row(user_id="cem")])
    order = [(one.user_id, one.row_key) for one in registry.pending("webhook", now)]
    assert order == [
        ("bob", "2026-11-20"),
        ("ann", "2026-11-20"),
        ("cem", "2026-11-20"),
        ("ann", "2026-11-19"),
        ("ann", "2025-10-16"),
    ]
    assert [one.user_id for one in registry.pending("webhook", now, 1, ["ann", "cem"])] == ["ann"]
    claimed = registry.claim("webhook", now, 3)
    assert [(one.user_id, one.row_key) for one in claimed] == order[:3]


def test_delivered_days_can_be_sent_again_with_the_same_trace(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row(back=back) for back in range(4)])
    sent = registry.claim("webhook", NOON, 10)
    registry.acknowledge(sent)
    start, end = DAY - timedelta(days=2), DAY - timedelta(days=1)
    assert registry.redeliver("webhook", user_ids=["ann"], start=start, end=end) == 2
    assert registry.redeliver("webhook", tables=["sleep"]) == 0
    again = registry.claim("webhook", NOON, 10)
    assert [one.row_key for one in again] == ["2026-11-19", "2026-11-18"]
    assert {one.trace_id for one in again} < {one.trace_id for one in sent}


def test_counts_tell_how_a_destination_stands(registry: Registry, forward: Forward) -> None:
    registry.add_user("oura", user_id="ann")
    assert registry.counts("webhook") == DeliveryCounts(0, 0, 0, None)
    registry.want("webhook", [row(back=back) for back in range(3)])
    registry.acknowledge(registry.claim("webhook", NOON, 1))
    registry.fail(registry.claim("webhook", NOON, 1), "HTTP 410", park=True)
    forward(hours=1)
    registry.want("webhook", [row(back=9)])
    assert registry.counts("webhook") == DeliveryCounts(2, 1, 1, NOON)


def test_rows_of_an_erased_user_are_not_wanted_again_nor_acknowledged(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row()])
    sending = registry.claim("webhook", NOON, 10)
    registry.delete_user("ann")
    registry.acknowledge(sending)
    registry.fail(sending, "HTTP 503")
    assert registry.want("webhook", [row("h2")]) == 0
    assert registry.deliveries() == []


def test_nothing_wanted_sent_or_failed_is_nothing_done(registry: Registry) -> None:
    assert registry.want("webhook", []) == 0
    registry.acknowledge([])
    registry.fail([], "x")
    registry.release([])


def test_eight_senders_at_once_never_hold_the_same_row(registry: Registry) -> None:
    registry.add_user("oura", user_id="ann")
    registry.want("webhook", [row(back=back) for back in range(200)])

    def send(_number: int) -> list[str]:
        keys: list[str] = []
        while claimed := registry.claim("webhook", NOON, 7):
            keys += [one.row_key for one in claimed]
            registry.acknowledge(claimed)
        return keys

    with ThreadPoolExecutor(8) as pool:
        taken = [key for keys in pool.map(send, range(8)) for key in keys]
    # On Postgres a sender may find all that is left locked by others and stop early.
    assert len(taken) == len(set(taken))
    left = registry.claim("webhook", NOON, 200)
    assert len(taken) + len(left) == 200


def test_wanting_in_opposite_orders_at_once_does_not_deadlock(registry: Registry) -> None:
    for number in range(20):
        registry.add_user("oura", user_id=f"u{number}")

    def want(order: int) -> None:
        for turn in range(8):
            rows = [row(f"{order}-{turn}", user_id=f"u{n}") for n in range(20)]
            registry.want("webhook", rows if order % 2 else rows[::-1])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(want, range(4)))
    assert registry.counts("webhook").pending == 20


def test_asking_for_pending_rows_goes_through_the_partial_index(sqlite_settings: Settings) -> None:
    with Registry.open(sqlite_settings) as registry:
        query = registry._sendable("webhook", NOON, 10, None)
        with registry._db.engine.connect() as connection:
            compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
            plan = connection.execute(sa.text(f"explain query plan {compiled}")).all()
    assert "ix_wearable_deliveries_pending" in " ".join(str(step) for step in plan)
