import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import polars as pl
import pytest

from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    DestinationSettings,
    Item,
    Outcome,
    Target,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.destinations._hash import hash_rows
from wearable_pipeline.destinations.delivery import (
    ATTEMPTS,
    DeliveryReport,
    deliver_pending,
    note_wanted,
    wait_after,
)
from wearable_pipeline.errors import PermanentError, TransientError
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.registry import Registry, User
from wearable_pipeline.sandbox.receiver import Answer, Receiver
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline_tests.destinations.bench import BODY, NOON, TODAY, Bench, body_row

A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"


class FakeSender:
    """A sender whose answers a test decides; remembers every item it was given."""

    def __init__(self, answer: Callable[[Item], Outcome] = delivered) -> None:
        self.answer = answer
        self.items: list[Item] = []
        self.batches: list[Batch] = []

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        self.batches.append(batch)
        for item in batch.items:
            self.items.append(item)
            yield self.answer(item)


def use(bench: Bench, sender: FakeSender) -> FakeSender:
    kind = Destination(
        name="fake",
        title="Fake",
        kind="queue",
        summary="A test's own.",
        settings=DestinationSettings,
        open=lambda settings, name: nullcontext(sender),
    )
    bench.target = Target("fake", kind, DestinationSettings())
    return sender


def hash_of(row: pl.DataFrame) -> str:
    return str(hash_rows(row, BODY)["content_hash"][0])


# The hash.


def test_a_row_fetched_again_without_a_change_keeps_its_hash() -> None:
    again = body_row(A, [100, 110], batch_id="b2").with_columns(
        revision=pl.lit(7, pl.Int32), updated_at=pl.lit(NOON + timedelta(hours=1))
    )
    assert hash_of(again) == hash_of(body_row(A, [100, 110]))


def test_a_changed_reading_changes_the_hash() -> None:
    assert hash_of(body_row(A, [100, 111])) != hash_of(body_row(A, [100, 110]))


def test_a_microsecond_changes_the_hash() -> None:
    row = body_row(A, [100])
    moved = row.with_columns(pl.col("end_at") + pl.duration(microseconds=1))
    assert hash_of(moved) != hash_of(row)


def test_a_column_that_nobody_has_a_value_for_changes_no_hash() -> None:
    row = body_row(A, [100, 110])
    extra = replace(BODY.column("glucose_gmi"), name="a_new_column", path="a_new_column")
    wider = replace(BODY, columns=(extra, *BODY.columns))
    assert hash_rows(row, wider)["content_hash"][0] == hash_of(row)


def test_the_hash_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    plain = body_row(A, [100])
    fuller = body_row(B, [100]).with_columns(
        glucose_gmi=pl.lit(6.5), device_name=pl.lit("Libre 3"), timezone=pl.lit(None, pl.String)
    )
    together = hash_rows(pl.concat([plain, fuller]), BODY)["content_hash"].to_list()
    assert together == [hash_of(plain), hash_of(fuller)]


def test_a_sample_field_that_nobody_has_a_value_for_changes_no_hash() -> None:
    row = body_row(A, [100, 110])
    name = "glucose_blood_glucose_samples"
    column = BODY.column(name)
    fields = (*column.fields, replace(column.fields[-1], name="a_new_field", path="a_new_field"))
    wider = replace(
        column,
        fields=fields,
        dtype=pl.List(pl.Struct({field.name: field.dtype for field in fields})),
    )
    table = replace(BODY, columns=tuple(wider if c.name == name else c for c in BODY.columns))
    assert hash_rows(row, table)["content_hash"][0] == hash_of(row)


GLUCOSE = "glucose_blood_glucose_samples"


def with_samples(**values: list[Any]) -> pl.DataFrame:
    """A row whose two samples have these values in these fields."""
    row = body_row(A, [100, 110])
    samples = row[GLUCOSE].to_list()[0]
    for name, given in values.items():
        for sample, value in zip(samples, given, strict=True):
            sample[name] = value
    made = pl.Series(GLUCOSE, [samples], dtype=row.schema[GLUCOSE])
    return row.with_columns(made)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # The same values, at other samples or under other names.
        ({"trend_arrow": ["rising", None]}, {"trend_arrow": [None, "rising"]}),
        ({"native_value": [0.0, None]}, {"native_value": [None, 0.0]}),
        ({"native_value": [0.0, 0.0]}, {"native_value": [None, None]}),
        ({"native_value": [0.0, 0.0]}, {"native_value": [0.0, None]}),
        ({"native_trend": ["ab", "c"]}, {"native_trend": ["a", "bc"]}),
        ({"native_trend": ["", "abc"]}, {"native_trend": [None, "abc"]}),
        ({"native_trend": ["a", "b"]}, {"sensor_status": ["a", "b"]}),
        ({"out_of_range": ["high", None]}, {"out_of_range": ["low", None]}),
    ],
)
def test_samples_that_differ_at_all_differ_in_the_hash(
    one: dict[str, list[Any]], other: dict[str, list[Any]]
) -> None:
    assert hash_of(with_samples(**one)) != hash_of(with_samples(**other))


def test_the_order_of_samples_is_part_of_the_hash() -> None:
    row = body_row(A, [100, 110])
    assert hash_of(row.with_columns(pl.col(GLUCOSE).list.reverse())) != hash_of(row)


def test_an_empty_list_is_as_good_as_none() -> None:
    empty = body_row(A, [100]).with_columns(pl.lit([], BODY.column(GLUCOSE).dtype).alias(GLUCOSE))
    none = empty.with_columns(pl.lit(None, BODY.column(GLUCOSE).dtype).alias(GLUCOSE))
    assert hash_of(empty) == hash_of(none) != hash_of(body_row(A, [100]))


def test_rows_of_every_length_beside_each_other_keep_their_own_hash() -> None:
    rows = [body_row(A, [100.0 + n for n in range(count)]) for count in (3, 0, 1, 288, 0, 2)]
    together = hash_rows(pl.concat(rows), BODY)["content_hash"].to_list()
    assert together == [hash_of(row) for row in rows]
    cut = hash_rows(pl.concat(rows)[2:5], BODY)["content_hash"].to_list()
    assert cut == together[2:5]


def test_words_that_look_like_a_null_field_are_part_of_the_hash() -> None:
    row = body_row(A, [100])
    first = row.with_columns(device_name=pl.lit('"x":null,'))
    second = row.with_columns(device_name=pl.lit('"y":null,'))
    assert hash_of(first) != hash_of(second)


def test_the_key_of_a_day_is_its_iso_date() -> None:
    assert hash_rows(body_row(A, [100]), BODY)["row_key"].to_list() == ["2026-11-20"]


def test_a_hash_survives_the_way_through_a_file(bench: Bench) -> None:
    row = body_row(A, [100, 110.5])
    bench.write(row)
    content = bench.storage.read(table_path("body", Partition(TODAY, A)))
    assert hash_of(pl.read_parquet(content)) == hash_of(row)


# Sending over real HTTP.


def test_a_row_is_delivered_once_however_often_delivery_runs(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    assert bench.note(body_row(A, [100, 110])) == 1
    assert bench.deliver().delivered == 1
    assert bench.note(body_row(A, [100, 110], batch_id="b2")) == 0
    assert bench.deliver().delivered == 0
    assert len(receiver.posts()) == 1
    assert bench.ledger()[0].status == "delivered"


def test_new_content_gets_a_new_trace_id_and_a_greater_ordering_timestamp(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    bench.deliver()
    bench.note(body_row(A, [100, 110]))  # the clock stands still
    bench.deliver()
    first, second = receiver.posts()
    assert first.trace_id != second.trace_id
    order = [int(post.headers["x-terra-ordering-timestamp"]) for post in (first, second)]
    assert order == [1795176000000, 1795176000001]  # 2026-11-20T12:00Z, and the next after it


def test_a_retry_repeats_trace_id_ordering_and_body_byte_for_byte(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    receiver.answer([Answer(503)])
    bench.deliver()
    # Fetched again in between without a change: only provenance differs.
    bench.note(body_row(A, [100], batch_id="b2"))
    bench.clock.forward(seconds=30)
    assert bench.deliver().delivered == 1
    first, second = receiver.posts()
    assert (first.status, second.status) == (503, 200)
    assert first.body == second.body
    assert first.trace_id == second.trace_id != ""
    for name in ("x-terra-ordering-timestamp", "terra-reference"):
        assert first.headers[name] == second.headers[name]


def test_waits_double_from_thirty_seconds_to_eight_hours_and_survive_a_restart(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    receiver.answer(then=Answer(500))
    waits = []
    for attempt in range(1, ATTEMPTS):
        report = bench.deliver()
        assert (report.failed, report.remaining) == (1, 1)
        assert report.next_attempt_at is not None
        waits.append(int((report.next_attempt_at - bench.clock()).total_seconds()))
        bench.reopen_registry()
        bench.clock.now = report.next_attempt_at - timedelta(seconds=1)
        assert bench.deliver().failed == 0
        assert len(receiver.posts()) == attempt
        bench.clock.now = report.next_attempt_at
    doubling = [30, 60, 120, 240, 480, 960, 1920, 3840, 7680, 15360]
    assert waits == doubling + [28800] * 8
    assert sum(waits) > 3 * 86400
    assert bench.deliver().parked == 1
    (row,) = bench.ledger()
    assert row.status == "parked"
    assert row.last_error == "given up after 19 attempts: webhook: refused (HTTP 500)"
    bench.clock.forward(days=30)
    bench.deliver()
    posts = receiver.posts()
    assert len(posts) == ATTEMPTS
    receiver.answer()
    assert bench.registry.retry_parked("webhook") == 1
    assert bench.deliver().delivered == 1
    assert {post.trace_id for post in receiver.posts()} == {posts[0].trace_id}


def test_jitter_only_ever_adds() -> None:
    assert wait_after(1, None, lambda: 1.0) == timedelta(seconds=33)
    assert wait_after(3, None, lambda: 0.0) == timedelta(seconds=120)


def test_retry_after_is_waited_for_but_never_shortens_the_back_off() -> None:
    assert wait_after(1, timedelta(minutes=10), lambda: 0.0) == timedelta(minutes=10)
    assert wait_after(5, timedelta(seconds=1), lambda: 0.0) == timedelta(seconds=480)
    assert wait_after(1, timedelta(days=9), lambda: 0.0) == timedelta(days=1)


def test_a_receiver_that_asks_for_a_pause_gets_one(bench: Bench, receiver: Receiver) -> None:
    users = [bench.add_user(f"{n:08d}-0000-4000-8000-000000000000", f"p{n}") for n in range(12)]
    bench.note(*(body_row(user, [100]) for user in users))
    receiver.answer(then=Answer(429, headers={"retry-after": "3600"}))
    report = bench.deliver()
    assert report.is_cut_short
    assert report.failed + report.untried == 12
    assert 1 <= len(receiver.posts()) == report.failed <= 4
    assert report.next_attempt_at == NOON + timedelta(hours=1)
    # What was not sent has lost no attempt.
    assert Counter(row.attempts for row in bench.ledger()) == {1: report.failed, 0: report.untried}


def test_one_failing_user_does_not_hold_up_the_others(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    bench.add_user(B, "person-2")
    days = [TODAY - timedelta(days=n) for n in range(20)]
    bench.note(*(body_row(A, [100], day) for day in days), body_row(B, [90], days[-1]))
    receiver.answer(then=Answer(500, user_id=A))
    report = bench.deliver()
    assert (report.failed, report.delivered) == (20, 1)
    assert {row.user_id for row in bench.ledger() if row.status == "delivered"} == {B}


def test_a_receiver_that_is_gone_parks_the_row_at_once(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    receiver.answer([Answer(410)])
    assert bench.deliver().parked == 1
    (row,) = bench.ledger()
    assert (row.status, row.last_error) == ("parked", "webhook: the receiver is gone (HTTP 410)")
    bench.clock.forward(days=1)
    assert bench.deliver().parked == 0
    assert len(receiver.posts()) == 1


def test_a_row_that_was_parked_goes_out_again_when_its_content_changes(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    receiver.answer([Answer(410)])
    bench.deliver()
    assert bench.note(body_row(A, [100, 110])) == 1
    assert bench.deliver().delivered == 1


def test_a_sender_killed_before_it_could_note_success_sends_the_same_again(
    bench: Bench, receiver: Receiver
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    script = textwrap.dedent(
        """
        import sys, time
        from datetime import datetime
        from pathlib import Path
        from wearable_pipeline.destinations.delivery import deliver_pending
        from wearable_pipeline.destinations import get_target
        from wearable_pipeline.lake.storage import LocalStorage
        from wearable_pipeline.partitions import Scheme
        from wearable_pipeline.registry import Registry
        from wearable_pipeline.settings import Settings

        now = datetime.fromisoformat(sys.argv[1])
        settings = Settings()
        registry = Registry.open(settings, lambda: now)

        def hang(sent):
            if sent:
                print("accepted", flush=True)
                time.sleep(600)

        registry.acknowledge = hang
        deliver_pending(LocalStorage(settings.home / "lake"), Scheme(), registry,
                        get_target(settings, "webhook"), settings, lambda: now)
        """
    )
    environment = {
        **os.environ,
        "WEARABLE_HOME": str(bench.settings.home),
        "WEARABLE_WEBHOOK_URL": receiver.url,
        "WEARABLE_WEBHOOK_SECRET": "signing-secret-of-the-tests",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script, NOON.isoformat()],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "accepted\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()

    assert bench.deliver().delivered == 0  # the dead sender's claim still stands
    bench.clock.forward(minutes=10)
    assert bench.deliver().delivered == 1
    first, second = receiver.posts()
    assert first.trace_id == second.trace_id
    assert first.body == second.body
    bench.clock.forward(days=1)
    assert bench.deliver().delivered == 0


def test_two_senders_at_once_never_post_a_row_twice(bench: Bench, receiver: Receiver) -> None:
    bench.add_user(A)
    days = [TODAY - timedelta(days=n) for n in range(40)]
    bench.note(*(body_row(A, [100], day) for day in days))
    start = threading.Barrier(2)
    reports: list[DeliveryReport] = []

    def send() -> None:
        with Registry.open(bench.settings, bench.clock) as registry:
            start.wait()
            reports.extend(
                deliver_pending(
                    bench.storage,
                    bench.scheme,
                    registry,
                    bench.target,
                    bench.settings,
                    bench.clock,
                    limit=5,
                )
                for _ in range(8)
            )

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.delivered for report in reports) == 40
    assert Counter(post.trace_id for post in receiver.posts()).most_common(1)[0][1] == 1
    assert len(receiver.posts()) == 40


# The engine with a sender of its own.


def test_a_row_that_has_moved_on_is_sent_as_the_lake_has_it_now(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    (noted,) = bench.ledger()
    newer = body_row(A, [100, 110])
    bench.write(newer)  # by a process that died before it could note it
    report = bench.deliver()
    assert (report.superseded, report.delivered) == (1, 1)
    (item,) = sender.items
    assert item.content_hash == hash_of(newer)
    assert item.trace_id != noted.trace_id
    assert item.ordering_timestamp > noted.ordering_timestamp
    assert bench.note(newer) == 0


def test_content_noted_while_the_older_one_is_on_its_way_goes_out_after_it(bench: Bench) -> None:
    older, newer = body_row(A, [100]), body_row(A, [100, 110])

    def answer(item: Item) -> Outcome:
        if item.content_hash == hash_of(older):
            bench.note(newer)
            inner = bench.deliver()  # somebody else's pass: the row is taken
            assert inner.delivered == 0
        return delivered(item)

    sender = use(bench, FakeSender(answer))
    bench.add_user(A)
    bench.note(older)
    report = bench.deliver()
    assert report.delivered == 2
    assert [item.content_hash for item in sender.items] == [hash_of(older), hash_of(newer)]
    assert sender.items[0].ordering_timestamp < sender.items[1].ordering_timestamp
    (row,) = bench.ledger()
    assert (row.status, row.delivered_hash) == ("delivered", hash_of(newer))


def test_the_newest_date_is_sent_first(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    days = [TODAY - timedelta(days=n) for n in (2, 0, 1)]
    bench.note(*(body_row(A, [100], day) for day in days))
    bench.deliver()
    assert [item.row_key for item in sender.items] == ["2026-11-20", "2026-11-19", "2026-11-18"]


def test_every_partition_file_is_read_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = use(bench, FakeSender())
    bench.scheme = Scheme(cohorts=1)
    bench.target = replace(
        bench.target, destination=replace(bench.target.destination, batch_rows=3)
    )
    users = [bench.add_user(f"{n:08d}-0000-4000-8000-000000000000", f"p{n}") for n in range(10)]
    rows = pl.concat([body_row(user, [100 + n]) for n, user in enumerate(users)])
    bench.write(rows)
    note_wanted(bench.registry, [bench.target], "body", rows)
    reads: list[str] = []
    real = bench.storage.read

    def read(path: str) -> bytes:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(bench.storage, "read", read)
    assert bench.deliver().delivered == 10
    assert reads == ["body/date=2026-11-20/user=s00/part.parquet"]
    assert [len(batch.items) for batch in sender.batches] == [3, 3, 3, 1]
    for batch in sender.batches:
        assert batch.rows["user_id"].to_list() == [item.user.user_id for item in batch.items]
        assert [payload["user_id"] for payload in batch.payloads] == batch.rows["user_id"].to_list()


def test_rows_spread_over_many_cohorts_still_cost_one_reading_of_each_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = use(bench, FakeSender())
    bench.scheme = Scheme(cohorts=3)
    users = [bench.add_user(f"{n:08d}-0000-4000-8000-000000000000", f"p{n}") for n in range(12)]
    days = [TODAY, TODAY - timedelta(days=1)]
    for day in days:
        for cohort in ("s00", "s01", "s02"):
            mine = [user for user in users if bench.scheme.cohort_of(user) == cohort]
            rows = pl.concat([body_row(user, [100], day) for user in mine])
            content = encode_parquet(rows.to_arrow(), BODY.arrow_schema())
            bench.storage.put(table_path("body", Partition(day, cohort)), content)
            note_wanted(bench.registry, [bench.target], "body", rows)
    reads: Counter[str] = Counter()
    real = bench.storage.read

    def read(path: str) -> bytes:
        reads[path] += 1
        return real(path)

    monkeypatch.setattr(bench.storage, "read", read)
    assert bench.deliver().delivered == 24
    assert len(reads) == 6
    assert set(reads.values()) == {1}
    assert [item.date for item in sender.items] == [days[0]] * 12 + [days[1]] * 12


def test_an_unreadable_partition_fails_its_own_rows_only(bench: Bench) -> None:
    use(bench, FakeSender())
    bench.add_user(A)
    bench.add_user(B, "person-2")
    bench.note(body_row(A, [100]), body_row(B, [100]))
    bench.storage.put(table_path("body", Partition(TODAY, A)), b"not a parquet file")
    report = bench.deliver()
    assert (report.delivered, report.failed) == (1, 1)
    (failed,) = [row for row in bench.ledger() if row.status == "pending"]
    assert failed.user_id == A
    assert "rebuild it" in str(failed.last_error)


def test_a_row_that_is_not_in_the_lake_waits_and_says_so(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    note_wanted(bench.registry, [bench.target], "body", body_row(A, [100]))
    assert bench.deliver().failed == 1
    assert sender.items == []
    assert bench.ledger()[0].last_error == "body row is not in the lake (any more)"


def test_a_row_withdrawn_from_the_lake_is_sent_as_an_empty_day(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    row = body_row(A, [100])
    bench.note(row)
    bench.deliver()
    bench.write(row)
    bench.storage.put(
        table_path("body", Partition(TODAY, A)),
        encode_parquet(BODY.empty().to_arrow(), BODY.arrow_schema()),
    )
    counts = note_wanted(bench.registry, [bench.target], "body", BODY.empty(), cells=[(A, TODAY)])
    assert counts == {"fake": 1}
    assert bench.deliver().delivered == 1
    item = sender.items[-1]
    assert item.is_deleted
    payload = sender.batches[-1].payloads[0]
    assert payload["metadata"]["start_time"] == "2026-11-20T00:00:00.000000"  # type: ignore[index]
    assert payload["glucose_data"]["blood_glucose_samples"] == []  # type: ignore[index]
    assert note_wanted(
        bench.registry, [bench.target], "body", BODY.empty(), cells=[(A, TODAY)]
    ) == {"fake": 0}


def test_a_withdrawn_row_that_came_back_is_sent_whole(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    row = body_row(A, [100])
    bench.note(row)
    bench.deliver()
    note_wanted(bench.registry, [bench.target], "body", BODY.empty(), cells=[(A, TODAY)])
    report = bench.deliver()
    assert (report.superseded, report.delivered) == (1, 1)
    assert not sender.items[-1].is_deleted


def test_cells_elsewhere_withdraw_nothing(bench: Bench) -> None:
    use(bench, FakeSender())
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    other_day = [(A, TODAY - timedelta(days=1))]
    assert note_wanted(bench.registry, [bench.target], "body", BODY.empty(), cells=other_day) == {
        "fake": 0
    }


def test_an_erased_user_is_left_out_and_the_others_go_on(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    bench.add_user(B, "person-2")
    bench.note(body_row(A, [100]), body_row(B, [100]))
    real = bench.registry.find_users

    def without_a(**wanted: object) -> list[User]:
        return [user for user in real(**wanted) if user.user_id != A]  # type: ignore[arg-type]

    bench.registry.find_users = without_a  # type: ignore[method-assign, assignment]
    assert bench.deliver().delivered == 1
    assert [item.user.user_id for item in sender.items] == [B]


def test_a_driver_that_raises_anything_fails_its_rows_without_telling_values(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(item: Item) -> Outcome:
        raise RuntimeError("row 123.456 of Example Person")

    use(bench, FakeSender(explode))
    bench.add_user(A)
    bench.note(body_row(A, [123.456]))
    assert bench.deliver().failed == 1
    assert bench.ledger()[0].last_error == "fake: sender failed (RuntimeError)"
    assert "123.456" not in caplog.text


def test_an_error_of_the_whole_batch_counts_for_the_rows_without_an_outcome(bench: Bench) -> None:
    def half(item: Item) -> Outcome:
        if item.row_key == "2026-11-20":
            return delivered(item)
        raise TransientError("fake: the database is restarting", timedelta(minutes=5))

    use(bench, FakeSender(half))
    bench.add_user(A)
    bench.note(*(body_row(A, [100], TODAY - timedelta(days=n)) for n in range(3)))
    report = bench.deliver()
    assert (report.delivered, report.failed) == (1, 2)
    assert report.next_attempt_at == NOON + timedelta(minutes=5)


def test_a_permanent_error_of_the_whole_batch_parks(bench: Bench) -> None:
    def refuse(item: Item) -> Outcome:
        raise PermanentError("fake: no such table")

    use(bench, FakeSender(refuse))
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    assert bench.deliver().parked == 1


def test_untried_rows_are_due_at_once_for_the_next_pass(bench: Bench) -> None:
    sender = use(bench, FakeSender(lambda item: untried(item, "fake: down")))
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    report = bench.deliver()
    assert (report.untried, report.remaining, report.is_cut_short) == (1, 1, True)
    assert bench.ledger()[0].attempts == 0
    sender.answer = delivered
    assert bench.deliver().delivered == 1


def test_a_row_that_kills_its_sender_every_time_is_parked(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    for _ in range(ATTEMPTS):
        bench.registry.claim("fake", bench.clock(), 1)
        bench.clock.forward(minutes=11)
    assert bench.deliver().parked == 1
    assert sender.items == []


def test_the_deadline_gives_back_what_was_not_sent(bench: Bench) -> None:
    def slow(item: Item) -> Outcome:
        bench.clock.forward(seconds=40)
        return delivered(item)

    use(bench, FakeSender(slow))
    bench.add_user(A)
    bench.note(*(body_row(A, [100], TODAY - timedelta(days=n)) for n in range(5)))
    report = bench.deliver(deadline=NOON + timedelta(minutes=1))
    assert (report.delivered, report.remaining, report.is_cut_short) == (2, 3, True)
    assert bench.deliver().delivered == 3


def test_what_a_slow_destination_has_is_written_down_within_a_second(bench: Bench) -> None:
    known: list[int] = []

    def slow(item: Item) -> Outcome:
        known.append(bench.registry.counts("fake").delivered)
        bench.clock.forward(seconds=0.6)
        return delivered(item)

    use(bench, FakeSender(slow))
    bench.add_user(A)
    bench.note(*(body_row(A, [100], TODAY - timedelta(days=n)) for n in range(5)))
    assert bench.deliver().delivered == 5
    # Known at 0.6, 1.2 and 1.8 s: more than a second after the first.
    assert known == [0, 0, 0, 3, 3]


def test_the_limit_holds(bench: Bench) -> None:
    use(bench, FakeSender())
    bench.add_user(A)
    bench.note(*(body_row(A, [100], TODAY - timedelta(days=n)) for n in range(5)))
    report = bench.deliver(limit=2)
    assert (report.delivered, report.remaining) == (2, 3)


def test_only_the_users_asked_for_are_sent(bench: Bench) -> None:
    sender = use(bench, FakeSender())
    bench.add_user(A)
    bench.add_user(B, "person-2")
    bench.note(body_row(A, [100]), body_row(B, [100]))
    bench.deliver(user_ids=[B])
    assert [item.user.user_id for item in sender.items] == [B]


def test_lag_is_counted_from_the_newest_reading_of_recent_rows(bench: Bench) -> None:
    use(bench, FakeSender())
    bench.add_user(A)
    # Newest readings at 10:10 and 10:00 UTC; delivered at 12:00. The old day does not count.
    bench.note(
        body_row(A, [100, 101, 102]),
        body_row(A, [100], TODAY - timedelta(days=1)),
        body_row(A, [100], TODAY - timedelta(days=30)),
    )
    report = bench.deliver()
    assert report.delivered == 3
    assert sorted(report.lags) == [6600.0, 93600.0]
    assert report.lag_seconds(0.5) == 6600.0
    assert report.lag_seconds(0.95) == 93600.0


def test_a_permanent_outcome_parks_with_its_reason(bench: Bench) -> None:
    use(bench, FakeSender(lambda item: permanent(item, "fake: too large")))
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    assert bench.deliver().parked == 1
    assert bench.ledger()[0].last_error == "fake: too large"


def test_what_is_sent_tells_nothing_of_how_the_row_came_about(bench: Bench) -> None:
    sender = use(bench, FakeSender(lambda item: transient(item, "fake: later")))
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    bench.deliver()
    text = msgspec.json.encode(sender.batches[0].payloads).decode()
    assert "batch_ids" not in text
    assert "updated_at" not in text
    assert sender.batches[0].rows["batch_ids"].to_list() == [["b1"]]
