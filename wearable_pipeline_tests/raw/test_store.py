import os
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers._contract import Record
from wearable_pipeline.raw import store as store_module
from wearable_pipeline.raw.store import (
    MERGE_ABOVE_SEGMENTS,
    RAW_SCHEMA,
    Appended,
    Arrival,
    RawStore,
    frame_of,
    hash_body,
    latest_revisions,
)
from wearable_pipeline.settings import Settings

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = date(2026, 11, 20)
USER = "u1"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "lake"), Settings(_env_file=None))


@pytest.fixture
def store(storage: Storage) -> RawStore:
    return RawStore(storage, Scheme())


def record(body: bytes, record_id: str = "r1", day: date = DAY, **parts: object) -> Record:
    return Record("entries", record_id, body, day, **parts)  # type: ignore[arg-type]


def append(
    store: RawStore, *records: Record, at: datetime = NOON, user_id: str = USER, batch: str = "b1"
) -> Appended:
    return store.append(
        "nightscout",
        [Arrival(user_id, records, at)],
        batch_id=batch,
        door="poll",
        before_write=lambda touched: None,
    )


def read(store: RawStore, *days: date, cohort: str = USER) -> pl.DataFrame:
    return store.read(["nightscout"], [Partition(day, cohort) for day in days or (DAY,)])


def test_bodies_come_back_byte_for_byte(store: RawStore) -> None:
    body = b'{ "sgv" : 1.20e2,\t"note":"\xc3\xa9\xf0\x9f\x8d\x95" }'
    append(store, record(body))
    assert read(store)["body"].to_list() == [body]


def test_every_record_has_its_owner_and_its_own_time_and_context() -> None:
    shared = {"zone": "Europe/Berlin"}
    later = NOON + timedelta(microseconds=1)
    old = date(1969, 12, 31)
    frame = frame_of(
        "nightscout",
        [
            Arrival("u1", [record(b"1", "a", context=shared), record(b"2", "b", old)], NOON),
            Arrival("u2", [], NOON),
            Arrival(
                "u3",
                [
                    record(b"3", "a", is_deleted=True, provider_updated_at=later),
                    record(b"1", "c", context=shared, is_context_content=True),
                ],
                later,
            ),
        ],
        "b1",
        "push",
    )
    told = '{"zone":"Europe/Berlin"}'
    in_context = hash_body(b"1", context=told)
    assert hash_body(b"1") != in_context
    assert frame.drop("resource", "provider", "batch_id", "door").rows() == [
        ("u1", "a", hash_body(b"1"), b"1", told, DAY, None, NOON, False),
        ("u1", "b", hash_body(b"2"), b"2", "{}", old, None, NOON, False),
        ("u3", "a", hash_body(b"3", is_deleted=True), b"3", "{}", DAY, later, later, True),
        ("u3", "c", in_context, b"1", told, DAY, None, later, False),
    ]
    same = frame.select("resource", "provider", "batch_id", "door").unique().rows()
    assert same == [("entries", "nightscout", "b1", "push")]
    assert frame.schema == RAW_SCHEMA


def test_nothing_is_a_frame_of_no_rows() -> None:
    assert frame_of("nightscout", [Arrival("u1", [], NOON)], "b1", "poll").schema == RAW_SCHEMA


def test_many_partitions_are_written_at_once_and_each_gets_its_own(
    store: RawStore, storage: Storage
) -> None:
    days = [DAY - timedelta(days=back) for back in range(20)]
    found = append(store, *(record(b"%d" % n, f"r{n}", day) for n, day in enumerate(days)))
    assert found.touched == {USER: set(days)}
    assert len(list(storage.list("raw/"))) == len(days)
    for number, day in enumerate(days):
        assert read(store, day)["body"].to_list() == [b"%d" % number]


def test_a_segment_that_cannot_be_written_fails_the_append(
    store: RawStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.create

    def create(path: str, data: bytes) -> str:
        if "2026-11-19" in path:
            raise StorageError("the disk is full")
        return real(path, data)

    monkeypatch.setattr(storage, "create", create)
    days = [DAY - timedelta(days=back) for back in range(3)]
    records = [record(b"{}", f"r{n}", day) for n, day in enumerate(days)]
    with pytest.raises(StorageError, match="the disk is full"):
        append(store, *records)
    monkeypatch.undo()
    # What was written is known, what was not comes now.
    append(store, *records, at=NOON + timedelta(minutes=5), batch="b2")
    assert read(store, *days)["record_id"].to_list() == ["r0", "r1", "r2"]


def test_the_same_content_again_appends_nothing(store: RawStore, storage: Storage) -> None:
    append(store, record(b"{}"))
    before = [entry.path for entry in storage.list("raw/")]
    report = append(store, record(b"{}"), at=NOON + timedelta(minutes=5), batch="b2")
    assert (report.new, report.changed, report.unchanged, report.touched) == (0, 0, 1, {})
    assert [entry.path for entry in storage.list("raw/")] == before


def test_a_correction_is_a_second_revision_and_the_first_stays(store: RawStore) -> None:
    append(store, record(b'{"sgv":100}'))
    report = append(store, record(b'{"sgv":101}'), at=NOON + timedelta(minutes=5), batch="b2")
    assert (report.new, report.changed) == (0, 1)
    revisions = read(store)
    assert revisions["body"].to_list() == [b'{"sgv":100}', b'{"sgv":101}']
    latest = latest_revisions(revisions)
    assert latest["body"].to_list() == [b'{"sgv":101}']
    assert latest["revisions"].to_list() == [2]
    assert latest["first_seen_at"].to_list() == [NOON]


def test_a_value_corrected_and_corrected_back_ends_with_the_first(store: RawStore) -> None:
    for minutes, body in ((0, b"A"), (5, b"B"), (10, b"A")):
        append(store, record(body), at=NOON + timedelta(minutes=minutes), batch=f"b{minutes}")
    assert latest_revisions(read(store))["body"].to_list() == [b"A"]


def test_an_older_revision_that_arrives_late_does_not_win(store: RawStore) -> None:
    newer = NOON - timedelta(hours=1)
    append(store, record(b"new", provider_updated_at=newer))
    append(
        store,
        record(b"old", provider_updated_at=newer - timedelta(hours=1)),
        at=NOON + timedelta(hours=1),
        batch="b2",
    )
    assert read(store).height == 2
    assert latest_revisions(read(store))["body"].to_list() == [b"new"]


def test_two_bodies_under_one_id_are_both_kept_and_do_not_grow_with_every_poll(
    store: RawStore,
) -> None:
    for minutes in (0, 5, 10):
        append(
            store,
            record(b"A"),
            record(b"B"),
            at=NOON + timedelta(minutes=minutes),
            batch=f"b{minutes}",
        )
    assert sorted(read(store)["body"].to_list()) == [b"A", b"B"]


def test_the_order_of_arrival_does_not_change_the_latest(tmp_path: Path) -> None:
    latest = []
    for name, order in (("one", (b"A", b"B")), ("two", (b"B", b"A"))):
        storage = Storage.open(str(tmp_path / name), Settings(_env_file=None))
        store = RawStore(storage, Scheme())
        append(store, *(record(body) for body in order))
        latest.append(latest_revisions(read(store))["body"].to_list())
    assert latest[0] == latest[1]


def test_a_record_that_moves_to_another_day_leaves_a_tombstone(store: RawStore) -> None:
    append(store, record(b"A", day=DAY))
    later = NOON + timedelta(minutes=5)
    moved_to = DAY + timedelta(days=1)
    report = append(store, record(b"A2", day=moved_to), at=later, batch="b2")
    assert report.touched == {USER: {DAY, moved_to}}
    left = latest_revisions(read(store, DAY))
    assert left["is_deleted"].to_list() == [True]
    assert latest_revisions(read(store, moved_to))["is_deleted"].to_list() == [False]


def test_a_deletion_is_a_revision(store: RawStore) -> None:
    append(store, record(b"A"))
    append(store, record(b"A", is_deleted=True), at=NOON + timedelta(minutes=5), batch="b2")
    assert latest_revisions(read(store))["is_deleted"].to_list() == [True]


def test_as_of_an_instant_only_what_was_known_then_is_read(store: RawStore) -> None:
    append(store, record(b"A"))
    append(store, record(b"B"), at=NOON + timedelta(days=1), batch="b2")
    then = store.read(["nightscout"], [Partition(DAY, USER)], as_of=NOON + timedelta(hours=1))
    assert then["body"].to_list() == [b"A"]


def test_touched_days_are_told_before_anything_is_written(
    store: RawStore, storage: Storage
) -> None:
    class StoppedError(Exception):
        pass

    told: list[Mapping[tuple[str, str], set[date]]] = []

    def stop(changes: Mapping[tuple[str, str], set[date]]) -> None:
        told.append(changes)
        raise StoppedError

    with pytest.raises(StoppedError):
        store.append(
            "nightscout",
            [Arrival(USER, [record(b"A")], NOON)],
            batch_id="b1",
            door="poll",
            before_write=stop,
        )
    assert told == [{(USER, "entries"): {DAY}}]
    assert list(storage.list("raw/")) == []


@pytest.mark.parametrize("day", [date.min, date.max])
def test_the_first_and_the_last_day_there_is_are_days(store: RawStore, day: date) -> None:
    assert append(store, record(b"A", day=day)).new == 1
    assert append(store, record(b"A", day=day), batch="again").unchanged == 1


def test_many_segments_merge_into_one_without_changing_what_is_read(
    store: RawStore, storage: Storage
) -> None:
    for number in range(MERGE_ABOVE_SEGMENTS + 3):
        append(
            store,
            record(str(number).encode(), record_id=f"r{number}"),
            at=NOON + timedelta(minutes=5 * number),
            batch=f"b{number}",
        )
    segments = [entry.path for entry in storage.list("raw/")]
    assert len(segments) == 3  # the merged one, and what came after it
    assert read(store).height == MERGE_ABOVE_SEGMENTS + 3


def test_large_segments_are_not_written_again_and_a_merge_takes_no_more_than_fits(
    store: RawStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append_number(number: int, body: bytes) -> None:
        at = NOON + timedelta(minutes=5 * number)
        append(store, record(body, record_id=f"r{number:02}"), at=at, batch=f"b{number:02}")

    append_number(0, os.urandom(20_000))
    (large,) = storage.list("raw/")
    assert large.size > 20_000
    monkeypatch.setattr(store_module, "LARGE_SEGMENT_BYTES", 15_000)
    # Ten records of a kilobyte, each with what a frame needs besides its body.
    monkeypatch.setattr(store_module, "_MERGED_BYTES_DECODED", 14_000)
    for number in range(1, MERGE_ABOVE_SEGMENTS + 2):
        append_number(number, os.urandom(1_000))
    kept = [entry.path for entry in storage.list("raw/")]
    assert large.path in kept
    merged = [path for path in kept if "-merged-" in path]
    assert len(merged) == 1
    # The oldest small ones went together; as many as did not fit wait for the next merge.
    taken = MERGE_ABOVE_SEGMENTS + 1 - (len(kept) - 2)
    assert 9 <= taken <= 11
    assert not [path for path in kept if any(f"-b{number:02}-" in path for number in range(1, 9))]
    assert read(store).height == MERGE_ABOVE_SEGMENTS + 2


def test_a_merge_that_died_before_cleaning_up_shows_nothing_twice(
    store: RawStore, storage: Storage
) -> None:
    append(store, record(b"A"))
    (segment,) = storage.list("raw/")
    storage.create(segment.path.replace(".parquet", "-merged.parquet"), storage.read(segment.path))
    assert read(store).height == 1


def test_cohorts_share_a_folder_and_are_read_apart(storage: Storage) -> None:
    store = RawStore(storage, Scheme(cohorts=1))
    append(store, record(b"A"), user_id="u1")
    append(store, record(b"B"), user_id="u2", batch="b2")
    everybody = read(store, cohort="s00")
    assert everybody["user_id"].to_list() == ["u1", "u2"]
    one = store.read(["nightscout"], [Partition(DAY, "s00")], user_ids=["u2"])
    assert one["body"].to_list() == [b"B"]
