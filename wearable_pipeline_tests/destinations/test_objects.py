"""What the three object stores have in common, on each of them and on one that checks signatures."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pytest
from pydantic import SecretStr

from wearable_pipeline.destinations._contract import Batch, Event, Item, Outcome, UserInfo
from wearable_pipeline.destinations._objects import (
    OUTAGE_AFTER,
    AzureBlobSettings,
    CellRows,
    GcsSettings,
    ObjectSender,
    S3Settings,
    Stamp,
    StoreSettings,
    open_objects,
    open_store,
)
from wearable_pipeline.errors import UsageError
from wearable_pipeline.model import TABLES
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of, kinds
from wearable_pipeline_tests.destinations.bench import BODY, TODAY, Bench, body_row
from wearable_pipeline_tests.destinations.counterpart_objects import (
    azure_settings,
    events,
    gcs_settings,
    paths,
    read_rows,
    s3_settings,
    storage_of,
)
from wearable_pipeline_tests.destinations.deliverer import B, deliver_and_die, send_filtered
from wearable_pipeline_tests.destinations.every_type import (
    DAY,
    EXPECTED,
    KEYS,
    ORDERING,
    USER,
    USER_ID,
    at_path,
    batch_of_type,
    key_of,
)
from wearable_pipeline_tests.destinations.faulty import silent_server
from wearable_pipeline_tests.servers import azurite
from wearable_pipeline_tests.servers.fixtures import MakeProxy, Place
from wearable_pipeline_tests.servers.processes import find_free_port

TYPES = sorted({name for name, _, _ in EXPECTED})
OpenAt = Callable[..., ObjectSender]
_SETTINGS: dict[str, Callable[..., S3Settings | GcsSettings | AzureBlobSettings]] = {
    "s3": s3_settings,
    "rgw": s3_settings,
    "gcs": gcs_settings,
    "azure": azure_settings,
}


@pytest.fixture(
    params=[
        "moto",
        "gcs",
        pytest.param("azurite", marks=pytest.mark.real),
        pytest.param("rgw", marks=pytest.mark.real),
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def open_at(place: Place, **more: Any) -> ObjectSender:
    return open_objects(_SETTINGS[place.kind](place, **more), "bucket")


def deliver(place: Place, *batches: Batch, **more: Any) -> list[Outcome]:
    with open_at(place, **more) as sender:
        return [outcome for batch in batches for outcome in sender.deliver(batch)]


def started(batch: Batch, start_at: datetime | None) -> Batch:
    """The session, with another start."""
    value = pl.lit(start_at, pl.Datetime("us", "UTC")).alias("start_at")
    return replace(batch, rows=batch.rows.with_columns(value))


def keyed(batch: Batch, key: str, **more: Any) -> Batch:
    """The session under another id."""
    (item,) = batch.items
    named = pl.lit(key).alias("metadata_summary_id")
    changed = replace(item, row_key=key, **more)
    return replace(batch, items=(changed,), rows=batch.rows.with_columns(named))


# What lies where.


def test_a_row_of_every_type_lies_where_clients_look_for_it(place: Place) -> None:
    outcomes = deliver(place, *(batch_of_type(name) for name in TYPES))
    assert kinds(outcomes) == {"delivered": 6}
    days = {
        f"2022-03-16/{name}/{USER_ID}-2026-11-20T00:00:00.json"
        for name in ("body", "daily", "menstruation", "nutrition")
    }
    # Sessions start at 00:00 in Copenhagen, where it is an hour later than in UTC.
    sessions = {
        f"2022-03-16/{name}/{USER_ID}-2026-11-19T23:00:00Z.json" for name in ("activity", "sleep")
    }
    assert set(paths(place)) == days | sessions
    found = read_rows(place)
    assert len(found) == 6
    for name, path, value in EXPECTED:
        key = KEYS.get(name, "2026-11-20")
        got = at_path(found[USER_ID, name, key], path)
        assert (got, type(got)) == (value, type(value)), path


def test_an_object_is_an_event_as_the_webhook_posts_it(moto_place: Place) -> None:
    deliver(moto_place, batch_of_type("body"))
    (event,) = events(moto_place)
    assert list(event) == ["user", "data", "type", "version"]
    assert event["user"]["user_id"] == USER_ID
    assert event["user"]["reference_id"] == "person-ø"
    assert (event["type"], event["version"]) == ("body", "2022-03-16")


def test_a_session_whose_start_was_corrected_lies_at_its_new_start_only(place: Place) -> None:
    first = batch_of_type("sleep")
    later = started(
        batch_of_type("sleep", ordering=ORDERING + 1), datetime(2026, 11, 19, 22, 30, tzinfo=UTC)
    )
    assert kinds(deliver(place, first, later)) == {"delivered": 2}
    assert paths(place) == [f"2022-03-16/sleep/{USER_ID}-2026-11-19T22:30:00Z.json"]
    # The older one once more, late: neither comes it back nor is the newer lost.
    assert kinds(deliver(place, first)) == {"delivered": 1}
    assert paths(place) == [f"2022-03-16/sleep/{USER_ID}-2026-11-19T22:30:00Z.json"]


def test_two_sessions_of_one_start_are_both_there(place: Place) -> None:
    one = batch_of_type("activity")
    other = keyed(one, "the-watch")
    for _ in range(2):
        assert kinds(deliver(place, one, other)) == {"delivered": 2}
        assert {key for _, _, key in read_rows(place)} == {KEYS["activity"], "the-watch"}
        assert len(paths(place)) == 2
    gone = batch_of_type("activity", is_deleted=True, ordering=ORDERING + 1)
    assert kinds(deliver(place, gone)) == {"delivered": 1}
    # The other may move to the free name; it is there once.
    newer = keyed(one, "the-watch", ordering_timestamp=ORDERING + 1)
    assert kinds(deliver(place, newer)) == {"delivered": 1}
    assert {key for _, _, key in read_rows(place)} == {"the-watch"}
    assert len(paths(place)) == 1


def test_fractions_of_a_second_and_unknown_starts_have_names(moto_place: Place) -> None:
    tenth = datetime(2026, 11, 19, 23, 0, 0, 100_000, tzinfo=UTC)
    deliver(moto_place, started(batch_of_type("sleep"), tenth))
    deliver(moto_place, started(keyed(batch_of_type("sleep"), "no-zone"), None))
    assert paths(moto_place) == [
        f"2022-03-16/sleep/{USER_ID}-2026-11-19T23:00:00.100000Z.json",
        f"2022-03-16/sleep/{USER_ID}-2026-11-20T00:00:00.json",
    ]


@pytest.mark.parametrize("name", TYPES)
def test_a_withdrawn_row_leaves_and_an_older_one_does_not_bring_it_back(
    place: Place, name: str
) -> None:
    row = batch_of_type(name)
    gone = batch_of_type(name, is_deleted=True, ordering=ORDERING + 1)
    assert kinds(deliver(place, row, gone, gone, row, form="both")) == {"delivered": 4}
    assert read_rows(place) == {}
    assert tables(place, name).is_empty()
    for content in (storage_of(place).read(path) for path in paths(place)):
        assert msgspec.json.decode(content)["data"] == []
    again = batch_of_type(name, ordering=ORDERING + 2)
    deliver(place, again, form="both")
    assert set(read_rows(place)) == {(USER_ID, name, key_of(name))}
    assert tables(place, name).height == 1


def test_events_lie_beside_the_data_each_under_its_own_name(place: Place) -> None:
    def event(event_id: str, reason: str) -> Event:
        item = Item("auth", USER, event_id, DAY, "hash", f"trace-{event_id}", ORDERING)
        return Event(item, {"type": "auth", "message": reason})

    happened = [event("e1", "first"), event("e2", "second")]
    for _ in range(2):
        with open_at(place) as sender:
            assert kinds(list(sender.deliver_events(happened))) == {"delivered": 2}
    named = paths(place)
    assert f"2022-03-16/auth/{USER_ID}-2026-11-20T12:00:00Z.json" in named
    assert len(named) == 2
    assert sorted(event["message"] for event in events(place)) == ["first", "second"]


def test_what_others_put_at_a_name_before_is_replaced(moto_place: Place) -> None:
    path = f"2022-03-16/body/{USER_ID}-2026-11-20T00:00:00.json"
    storage_of(moto_place).put(path, b'{"data": []}')
    deliver(moto_place, batch_of_type("body"))
    assert len(read_rows(moto_place)) == 1


# Parquet.


def tables(place: Place, name: str) -> pl.DataFrame:
    """All of a table's files, as any reader finds them."""
    storage = storage_of(place)
    frames = [pl.read_parquet(io.BytesIO(storage.read(entry.path))) for entry in storage.list(name)]
    return pl.concat(frames) if frames else pl.DataFrame()


@pytest.mark.parametrize("name", TYPES)
def test_the_parquet_copy_has_the_tables_columns_and_values(place: Place, name: str) -> None:
    batch = batch_of_type(name)
    assert kinds(deliver(place, batch, form="parquet")) == {"delivered": 1}
    assert paths(place) == []
    found = tables(place, name)
    assert found.columns == [*TABLES[name].polars_schema().names(), "ordering_timestamp"]
    assert found["ordering_timestamp"].to_list() == [ORDERING]
    assert found.drop("ordering_timestamp").equals(batch.rows)
    (entry,) = storage_of(place).list(name)
    assert entry.path.startswith(f"{name}/date=2026-11-20/part-")


def test_many_days_and_users_are_merged_into_files_by_date(moto_place: Place) -> None:
    users = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(40)]
    days = [TODAY, TODAY - timedelta(days=1)]

    def batch(value: float, ordering: int) -> Batch:
        pairs = [(user, day) for day in days for user in users]
        items = [
            Item("body", UserInfo(u, "OURA"), d.isoformat(), d, "h", f"t-{u}-{d}", ordering)
            for u, d in pairs
        ]
        return Batch(BODY, tuple(items), pl.concat([body_row(u, [value], d) for u, d in pairs]))

    assert kinds(deliver(moto_place, batch(100, 1), form="parquet")) == {"delivered": 80}
    files = [entry.path for entry in storage_of(moto_place).list("body")]
    assert 2 < len(files) <= 32
    assert kinds(deliver(moto_place, batch(90, 3), batch(80, 2), form="parquet")) == {
        "delivered": 160
    }
    assert [entry.path for entry in storage_of(moto_place).list("body")] == files
    found = tables(moto_place, "body")
    assert found.height == 80
    assert set(zip(found["user_id"], found["local_date"], strict=True)) == {
        (user, day) for user in users for day in days
    }
    samples = found["glucose_blood_glucose_samples"].explode().struct.field
    assert samples("blood_glucose_mg_per_dl").to_list() == [90.0] * 80


def test_a_session_that_moves_to_another_date_leaves_the_file_of_the_old_one(place: Place) -> None:
    first = batch_of_type("sleep")
    day = DAY - timedelta(days=1)
    moved = batch_of_type("sleep", ordering=ORDERING + 1)
    moved = replace(
        moved,
        items=(replace(moved.items[0], date=day),),
        rows=moved.rows.with_columns(pl.lit(day).alias("local_date")),
    )
    assert kinds(deliver(place, first, moved, first, form="both")) == {"delivered": 3}
    found = tables(place, "sleep")
    assert found["local_date"].to_list() == [date(2026, 11, 19)]
    assert len(read_rows(place)) == 1


def test_the_parquet_copy_opens_in_duckdb_by_a_bare_glob(moto_place: Place, tmp_path: Path) -> None:
    deliver(moto_place, batch_of(3), form="parquet")
    storage = storage_of(moto_place)
    for entry in storage.list("body"):
        file = tmp_path / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(storage.read(entry.path))
    rows = duckdb.sql(
        f"select date, len(glucose_blood_glucose_samples) from read_parquet('{tmp_path}/body/**/*.parquet',"
        " hive_partitioning=true) order by date"
    ).fetchall()
    assert rows == [(TODAY - timedelta(days=n), 2) for n in (2, 1, 0)]


def test_of_two_revisions_in_one_file_the_newer_stays_whichever_comes_last() -> None:
    def cell(value: float, ordering: int) -> CellRows:
        row = body_row(USER_ID, [value]).with_columns(
            pl.lit(ordering, pl.Int64).alias("ordering_timestamp")
        )
        return CellRows(row, {})

    newer, older = cell(120, 2), cell(100, 1)
    assert older.merge(BODY, newer).equals(newer)
    assert newer.merge(BODY, older).equals(newer)
    withdrawn = newer.merge(BODY, CellRows(newer.rows.clear(), {f"{USER_ID}|2026-11-20": 3}))
    assert withdrawn.rows.is_empty()
    assert withdrawn.merge(BODY, newer).equals(withdrawn)
    kept = CellRows.read(BODY, withdrawn.write())
    assert kept.equals(withdrawn)
    assert cell(90, 4).merge(BODY, kept).withdrawn == {}


def test_a_file_that_is_not_ours_is_left_alone_and_its_rows_parked(moto_place: Place) -> None:
    deliver(moto_place, batch_of_type("body"), form="parquet")
    (entry,) = storage_of(moto_place).list("body")
    storage_of(moto_place).put(entry.path, b"somebody's notes")
    outcomes = deliver(moto_place, batch_of_type("body", ordering=ORDERING + 1), form="parquet")
    assert kinds(outcomes) == {"permanent": 1}
    assert storage_of(moto_place).read(entry.path) == b"somebody's notes"


# What goes wrong.


def test_a_server_that_is_down_costs_no_row(place: Place) -> None:
    batch = batch_of(8)
    down = f"http://127.0.0.1:{find_free_port()}"
    outcomes = deliver(place, batch, endpoint=down, concurrency=2, timeout_seconds=1)
    assert len(outcomes) == 8
    found = kinds(outcomes)
    assert OUTAGE_AFTER <= found["transient"] <= OUTAGE_AFTER + 2
    assert found["untried"] == 8 - found["transient"]
    assert outcomes[0].message.startswith("bucket: no answer from http://127.0.0.1")
    assert kinds(deliver(place, batch)) == {"delivered": 8}
    assert len(read_rows(place)) == 8


@pytest.mark.parametrize("form", ["json", "parquet"])
@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_a_server_that_takes_everything_and_never_answers_is_waited_for_as_long_as_said(
    kind: str, form: str
) -> None:
    url = {"s3": "s3://b/p", "gcs": "gs://b/p", "azure": "az://b/p"}[kind]
    key = SecretStr(azurite.KEY)
    settings = Settings.model_construct(lake_access_key_id="k", lake_secret_access_key=key)
    with silent_server() as endpoint:
        place = Place(kind, url, settings)
        began = time.monotonic()
        outcomes = deliver(place, batch_of(8), endpoint=endpoint, timeout_seconds=1, form=form)
        waited = time.monotonic() - began
    found = kinds(outcomes)
    assert found["transient"] >= 1
    assert set(found) <= {"transient", "untried"}
    assert outcomes[0].message == f"bucket: no answer from {endpoint}"
    assert 1 <= waited < 5


def test_only_the_rows_that_failed_are_not_delivered(
    moto_place: Place, make_proxy: MakeProxy
) -> None:
    assert moto_place.settings.lake_endpoint is not None
    proxy = make_proxy(moto_place.settings.lake_endpoint)
    # As often as the client tries one request again.
    proxy.commit("PUT", *[503] * 6)
    outcomes = deliver(moto_place, batch_of(3), endpoint=proxy.url, concurrency=1)
    assert [outcome.kind for outcome in outcomes] == ["transient", "delivered", "delivered"]
    assert outcomes[0].message == "bucket: the store answered 503"
    assert len(read_rows(moto_place)) == 2


def test_an_answer_lost_on_the_way_is_no_second_row(
    moto_place: Place, make_proxy: MakeProxy
) -> None:
    assert moto_place.settings.lake_endpoint is not None
    proxy = make_proxy(moto_place.settings.lake_endpoint)
    proxy.commit("PUT", "lose")
    assert kinds(deliver(moto_place, batch_of(2), endpoint=proxy.url)) == {"delivered": 2}
    assert len(read_rows(moto_place)) == 2


def test_a_bucket_that_is_not_there_parks_the_rows(place: Place) -> None:
    name = "container" if place.kind == "azure" else "bucket"
    outcomes = deliver(place, batch_of(3), **{name: "no-such-place"})
    assert kinds(outcomes) == {"permanent": 3}
    assert "check the bucket, the credentials" in outcomes[0].message


@pytest.mark.parametrize(
    ("store", "wrong"),
    [
        pytest.param(
            "rgw",
            {"secret_access_key": "an-entirely-wrong-secret-key-0000000000x"},
            marks=pytest.mark.real,
        ),
        pytest.param(
            "azurite", {"account_key": "YW4tZW50aXJlbHktd3Jvbmcta2V5"}, marks=pytest.mark.real
        ),
        ("gcs", {"token": "an-entirely-wrong-token"}),
    ],
)
def test_wrong_credentials_park_the_rows_and_are_not_repeated(
    request: pytest.FixtureRequest, store: str, wrong: dict[str, str]
) -> None:
    place: Place = request.getfixturevalue(f"{store}_place")
    outcomes = deliver(place, batch_of(3), **wrong)
    assert kinds(outcomes) == {"permanent": 3}
    (message,) = {outcome.message for outcome in outcomes}
    assert message.startswith("bucket: the store answered 40")
    assert "check the bucket, the credentials" in message
    assert "wrong" not in message
    assert read_rows(place) == {}


def describe(place: Place) -> str:
    """The place as a target `bucket` of a TOML file."""
    settings = _SETTINGS[place.kind](place)
    lines = []
    for key, value in settings.model_dump(exclude_defaults=True).items():
        plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        lines.append(f"{key} = {plain!r}")
    kind = {"azure": "azure_blob", "gcs": "gcs"}.get(place.kind, "s3")
    return f"[bucket]\nkind = '{kind}'\n" + "\n".join(lines)


def test_a_killed_process_and_another_try_are_as_once(place: Place, tmp_path: Path) -> None:
    deliver_and_die(tmp_path, describe(place), "bucket", rows=6, after=1)
    assert kinds(deliver(place, batch_of(6))) == {"delivered": 6}
    days = {(TODAY - timedelta(days=n)).isoformat() for n in range(6)}
    assert {day for _, _, day in read_rows(place)} == days
    assert len(paths(place)) == 6


def test_a_filter_lets_only_its_users_through(bench: Bench, place: Place, tmp_path: Path) -> None:
    send_filtered(bench, tmp_path, f"{describe(place)}\nusers = ['{B}']\n")
    assert set(read_rows(place)) == {(B, "body", "2026-11-20")}


def test_a_death_between_a_session_s_memory_and_its_row_is_mended_by_the_next_try(
    place: Place,
) -> None:
    batch = batch_of_type("sleep")
    deliver(place, batch)
    for path in paths(place):
        storage_of(place).delete(path)
    assert kinds(deliver(place, batch)) == {"delivered": 1}
    assert len(read_rows(place)) == 1


@pytest.mark.parametrize("name", ["body", "sleep"])
def test_of_revisions_written_at_once_the_newest_stays(place: Place, name: str) -> None:
    revisions = [batch_of_type(name, ordering=ORDERING + n) for n in range(6)]
    if name == "sleep":
        start = datetime(2026, 11, 19, 20, tzinfo=UTC)
        revisions = [started(one, start + timedelta(hours=n)) for n, one in enumerate(revisions)]

    def send(batch: Batch) -> list[Outcome]:
        return deliver(place, batch, form="both")

    with ThreadPoolExecutor(6) as pool:
        outcomes = [one for some in pool.map(send, revisions) for one in some]
    # Who gave way too often tries again.
    late = [
        batch for batch, one in zip(revisions, outcomes, strict=True) if one.kind != "delivered"
    ]
    assert kinds(deliver(place, *late, form="both")) == {"delivered": len(late)} or not late
    (path,) = paths(place)
    if name == "sleep":
        assert path.endswith("-2026-11-20T01:00:00Z.json")
    found = tables(place, name)
    assert found["ordering_timestamp"].to_list() == [ORDERING + 5]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_session_overtaken_while_it_is_written_leaves_nothing_behind(
    place: Place, is_deleted: bool
) -> None:
    older = batch_of_type("sleep")
    newer = started(
        batch_of_type("sleep", is_deleted=is_deleted, ordering=ORDERING + 1),
        datetime(2026, 11, 19, 22, tzinfo=UTC),
    )
    with open_at(place) as slow:
        write = slow._slots.put

        def write_late(path: str, body: bytes, stamp: Stamp) -> None:
            slow._slots.put = write  # type: ignore[method-assign]
            assert kinds(deliver(place, newer)) == {"delivered": 1}
            write(path, body, stamp)

        slow._slots.put = write_late  # type: ignore[method-assign]
        assert kinds(list(slow.deliver(older))) == {"delivered": 1}
    there = [] if is_deleted else [f"2022-03-16/sleep/{USER_ID}-2026-11-19T22:00:00Z.json"]
    assert paths(place) == there


def test_leaving_early_ends_soon(moto_place: Place) -> None:
    with open_at(moto_place, concurrency=1) as sender:
        outcomes = sender.deliver(batch_of(50))
        assert next(outcomes).kind == "delivered"
        outcomes.close()  # type: ignore[attr-defined]
    assert 1 <= len(read_rows(moto_place)) <= 3


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "ftp://bucket/x"}, "url must be s3://"),
        ({"url": "s3://"}, "url must be s3://"),
        ({"url": "s3://b", "endpoint": "http://store.example"}, "must use https://"),
        ({"url": "s3://b", "endpoint": "store.example:9000"}, "must look like https://host:port"),
        ({"url": "s3://b", "endpoint": "https://me:pw@store.example"}, "without a login"),
        ({"url": "gs://b", "secret_access_key": "{hush-hush"}, "do not fit together"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(
    settings: dict[str, Any], said: str, no_cloud_variables: None
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_store(StoreSettings(**settings), "archive")
    assert "archive" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "LAKE" not in str(caught.value)


def test_http_in_ones_own_network_has_to_be_allowed() -> None:
    place = StoreSettings(url="s3://b", endpoint="http://store.example", allow_http=True)
    assert open_store(place, "archive").url == "s3://b"


def test_what_the_environment_says_about_the_lake_is_not_meant_for_a_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEARABLE_LAKE_ACCESS_KEY_ID", "the-lakes-key")
    monkeypatch.setenv("WEARABLE_LAKE_ENDPOINT", "http://127.0.0.1:9")
    opened = open_store(StoreSettings(url="s3://b", region="eu-central-1"), "archive")
    assert "aws_access_key_id" not in opened.polars_options()
    assert "aws_endpoint_url" not in opened.polars_options()
