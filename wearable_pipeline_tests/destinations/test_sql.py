"""What is peculiar to SQL: PostgreSQL and MariaDB as servers, SQLite and DuckDB as files."""

import builtins
import inspect
import json
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from pydantic import SecretStr, ValidationError

from wearable_pipeline.destinations import _sql_stores, get_target, sql
from wearable_pipeline.destinations._contract import Batch, Event, Item, Outcome
from wearable_pipeline.destinations.sql import SqlSender, SqlSettings, open_sql
from wearable_pipeline.errors import PermanentError, TransientError, UsageError
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations import test_contract as contract
from wearable_pipeline_tests.destinations.batches import USER, batch_of, kinds
from wearable_pipeline_tests.destinations.bench import Bench, body_row
from wearable_pipeline_tests.destinations.counterpart import Counterpart
from wearable_pipeline_tests.destinations.counterpart_sql import (
    fetch,
    read_tables,
    run,
    sql_counterpart,
    table_names,
)
from wearable_pipeline_tests.destinations.die_in_sql import die_in_sql
from wearable_pipeline_tests.destinations.every_type import (
    EXPECTED,
    ORDERING,
    USER_ID,
    at_path,
    batch_of_type,
    key_of,
)
from wearable_pipeline_tests.destinations.test_contract import installed  # noqa: F401
from wearable_pipeline_tests.servers.forked import fork
from wearable_pipeline_tests.servers.gate import Gate

TYPES = sorted({name for name, _, _ in EXPECTED})
PASSWORD = "hush-hush-9"
MIDNIGHT = datetime.combine(date(2026, 11, 20), time())
CASES = {
    name: case
    for name, case in vars(contract).items()
    if name.startswith("test_") and "counterpart" in inspect.signature(case).parameters
}


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """An empty database of the kind."""
    if kind in ("postgres", "mariadb"):
        url: str = request.getfixturevalue(f"empty_{kind}")
        return url
    folder: Path = request.getfixturevalue("tmp_path")
    return f"{kind}:///{folder / f'lake.{kind}'}"


@pytest.fixture(params=["postgres", "mariadb", "sqlite", "duckdb"])
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture(params=["postgres", "mariadb"])
def server_url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture(params=["mariadb", "sqlite", "duckdb"])
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    return sql_counterpart(url_of(request.param, request))


def open_url(url: str, **more: Any) -> SqlSender:
    return open_sql(SqlSettings(url=SecretStr(url), **more), "clinic")


def deliver(url: str, *batches: Batch, **more: Any) -> list[Outcome]:
    with open_url(url, **more) as sender:
        return [outcome for batch in batches for outcome in sender.deliver(batch)]


def glucose(url: str) -> dict[str, list[float]]:
    """Readings by day of the one user of `batch_of`."""
    return {day: values for (_, day), values in contract.readings(read_tables(url)).items()}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_every_destination_must_stand_the_other_databases_stand_too(
    case: Callable[..., None], counterpart: Counterpart, request: pytest.FixtureRequest
) -> None:
    assert len(CASES) >= 7
    wanted = [name for name in inspect.signature(case).parameters if name != "counterpart"]
    case(counterpart=counterpart, **{name: request.getfixturevalue(name) for name in wanted})


# What arrives.


def test_a_row_of_every_type_arrives(url: str) -> None:
    assert kinds(deliver(url, *(batch_of_type(name) for name in TYPES))) == {"delivered": 6}
    found = read_tables(url)
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path


def test_columns_are_what_an_analyst_reads(empty_postgres: str) -> None:
    deliver(empty_postgres, batch_of_type("activity"), batch_of_type("daily"))
    (row,) = fetch(empty_postgres, "select * from wearable_activity")
    assert row["user_id"] == "33333333-3333-4333-8333-333333333333"
    assert row["local_date"] == date(2026, 11, 20)
    assert row["start_at"] == datetime(2026, 11, 19, 23, tzinfo=UTC)
    assert row["local_start_at"] == MIDNIGHT
    assert row["metadata_name"] == 'Søndagsløb "let" 🏃'
    assert row["position_start_pos_lat_lng_deg"] == [55.676, 12.568]
    assert row["metadata_city"] is None
    assert row["ordering_timestamp"] == 1_795_176_000_000
    samples = fetch(
        empty_postgres, "select * from wearable_activity_heart_rate_samples order by position"
    )
    assert [(line["position"], line["bpm"], line["context"]) for line in samples] == [
        (0, 151.5, None),
        (1, None, None),
    ]
    assert samples[0]["metadata_summary_id"] == "løb/1 50%"
    assert samples[0]["timestamp"] == datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
    (tag,) = fetch(empty_postgres, "select tag_name, notes from wearable_daily_tags")
    assert tag == {"tag_name": "kaffe", "notes": "to kopper\nå 2 dl"}
    (user,) = fetch(empty_postgres, "select * from wearable_users")
    assert user == {
        "user_id": "33333333-3333-4333-8333-333333333333",
        "provider": "OURA",
        "reference_id": "person-ø",
        "scopes": None,
        "created_at": datetime(2026, 11, 1, 8, tzinfo=UTC),
        "is_active": True,
    }


@pytest.mark.parametrize(
    ("kind", "instant", "local"),
    [
        ("mariadb", MIDNIGHT - timedelta(hours=1), MIDNIGHT),
        ("sqlite", "2026-11-19 23:00:00.000000Z", "2026-11-20 00:00:00.000000"),
        ("duckdb", datetime(2026, 11, 19, 23, tzinfo=UTC), MIDNIGHT),
    ],
)
def test_moments_as_each_database_keeps_them(
    kind: str, instant: object, local: object, request: pytest.FixtureRequest
) -> None:
    url = url_of(kind, request)
    deliver(url, batch_of_type("sleep"))
    (row,) = fetch(url, "select start_at, local_start_at from wearable_sleep")
    assert (row["start_at"], row["local_start_at"]) == (instant, local)


def test_an_empty_text_is_not_null_and_quotes_commas_and_ends_of_lines_come_through(
    url: str,
) -> None:
    odd = ["", 'a,"b"\n\\.\n', "\\N", "';--", "NULL", "%s {0} 😀\t\r\n"]
    batch = batch_of(len(odd))
    rows = batch.rows.with_columns(pl.Series("device_name", odd))
    assert kinds(deliver(url, replace(batch, rows=rows))) == {"delivered": len(odd)}
    lines = fetch(url, "select local_date, device_name from wearable_body order by local_date desc")
    assert [line["device_name"] for line in lines] == odd


def test_numbers_keep_every_digit(url: str) -> None:
    values = [0.1, 1 / 3, 1e-300, 1.7976931348623157e308, 123456789.123456789, -0.5]
    row = body_row(USER.user_id, values)
    batch = replace(batch_of(1), rows=row)
    deliver(url, batch)
    lines = fetch(
        url,
        "select blood_glucose_mg_per_dl as v from wearable_body_glucose_samples order by position",
    )
    assert [line["v"] for line in lines] == values


def test_a_zero_character_does_not_keep_a_row_out_of_postgres(empty_postgres: str) -> None:
    batch = batch_of(1)
    rows = batch.rows.with_columns(device_name=pl.lit("a\0b"))
    assert kinds(deliver(empty_postgres, replace(batch, rows=rows))) == {"delivered": 1}
    (line,) = fetch(empty_postgres, "select device_name from wearable_body")
    assert line["device_name"] == "a\N{REPLACEMENT CHARACTER}b"


def test_session_ids_that_differ_in_case_only_are_two(url: str) -> None:
    batches = []
    for key in ("run", "RUN"):
        batch = batch_of_type("activity")
        rows = batch.rows.with_columns(metadata_summary_id=pl.lit(key))
        batches.append(replace(batch, items=(replace(batch.items[0], row_key=key),), rows=rows))
    deliver(url, *batches)
    assert {key for _, _, key in read_tables(url)} == {"run", "RUN"}


@pytest.fixture(scope="module")
def many() -> Batch:
    return batch_of(501)


def test_more_rows_than_fit_into_one_statement_arrive(url: str, many: Batch) -> None:
    assert kinds(deliver(url, many, many)) == {"delivered": 1_002}
    for name, count in (("body", 501), ("body_glucose_samples", 1_002), ("revisions", 501)):
        (line,) = fetch(url, f"select count(*) as n from wearable_{name}")
        assert line["n"] == count


# Order, withdrawal.


def test_of_a_batch_only_what_is_newer_is_taken(url: str) -> None:
    deliver(url, batch_of(3))
    batch = batch_of(3)
    shifts = (-1, 0, 1)
    items = tuple(
        replace(item, ordering_timestamp=item.ordering_timestamp + shift)
        for item, shift in zip(batch.items, shifts, strict=True)
    )
    rows = pl.concat([body_row(USER.user_id, [50], item.date) for item in items])
    assert kinds(deliver(url, replace(batch, items=items, rows=rows))) == {"delivered": 3}
    assert glucose(url) == {
        "2026-11-20": [100.0, 110.4],
        "2026-11-19": [50.0],
        "2026-11-18": [50.0],
    }


def test_a_withdrawn_row_leaves_and_no_late_older_content_brings_it_back(url: str) -> None:
    deliver(url, batch_of_type("sleep"), batch_of_type("body"))
    deliver(url, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert {name for _, name, _ in read_tables(url)} == {"body"}
    assert fetch(url, "select * from wearable_sleep_hypnogram") == []
    assert len(fetch(url, "select * from wearable_users")) == 1
    assert kinds(deliver(url, batch_of_type("sleep"))) == {"delivered": 1}
    assert {name for _, name, _ in read_tables(url)} == {"body"}
    deliver(url, batch_of_type("sleep", ordering=ORDERING + 2))
    assert {name for _, name, _ in read_tables(url)} == {"body", "sleep"}


def test_with_its_last_row_a_user_leaves(url: str) -> None:
    with open_url(url, terra_tables=True) as sender:
        list(sender.deliver_events([event_of("auth")]))
        list(sender.deliver(batch_of_type("sleep")))
        list(sender.deliver(batch_of_type("body")))
        for name in ("sleep", "body"):
            list(sender.deliver(batch_of_type(name, is_deleted=True, ordering=ORDERING + 1)))
    left = {name: fetch(url, f"select * from {name}") for name in table_names(url)}
    kept = left.pop("wearable_revisions")
    assert not any(left.values()), [name for name, lines in left.items() if lines]
    # What is left says nothing but that something was there.
    assert {line["row_key"] for line in kept} == {"nat|2026.11.20", "2026-11-20"}
    assert all(line["is_deleted"] for line in kept)


def test_several_at_once_make_the_tables_together_and_end_with_the_newest(
    server_url: str,
) -> None:
    arrived: list[Counter[str]] = []

    def send(shift: int) -> None:
        batch = batch_of(20)
        items = tuple(
            replace(item, ordering_timestamp=item.ordering_timestamp + shift)
            for item in batch.items
        )
        rows = pl.concat([body_row(USER.user_id, [100 + shift], i.date) for i in items])
        for _ in range(5):
            try:
                arrived.append(kinds(deliver(server_url, replace(batch, items=items, rows=rows))))
            except TransientError:
                continue  # two were in each other's way: the ledger would come again
            return

    threads = [threading.Thread(target=send, args=(shift,)) for shift in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert arrived == [{"delivered": 20}] * 4
    assert set(map(tuple, glucose(server_url).values())) == {(103.0,)}
    assert len(glucose(server_url)) == 20


# Events and Terra's tables.


def event_of(kind: str, at: int = ORDERING, *, is_active: bool = True) -> Event:
    user = replace(batch_of_type("body").items[0].user, is_active=is_active)
    item = Item(kind, user, f"event-{kind}", date(9999, 12, 31), "h", f"event-{kind}", at)
    return Event(item, {"type": kind, "message": "hjørne", "user": {"user_id": USER_ID}})


def test_events_are_kept_and_say_how_the_connection_stands(url: str) -> None:
    with open_url(url) as sender:
        list(sender.deliver_events([event_of("auth")]))
        ended = [event_of("deauth", ORDERING + 5_000, is_active=False)]
        assert kinds(list(sender.deliver_events(ended))) == {"delivered": 1}
        assert kinds(list(sender.deliver_events(ended))) == {"delivered": 1}
    lines = fetch(url, "select event_id, type, user_id from wearable_events order by type")
    assert [tuple(line.values()) for line in lines] == [
        ("event-auth", "auth", USER_ID),
        ("event-deauth", "deauth", USER_ID),
    ]
    (user,) = fetch(url, "select is_active from wearable_users")
    assert not user["is_active"]


def test_terras_tables_have_a_line_per_row_that_follows_it(url: str) -> None:
    with open_url(url, terra_tables=True) as sender:
        list(sender.deliver_events([event_of("auth")]))
        for batch in (batch_of_type("sleep"), batch_of_type("sleep", ordering=ORDERING + 1)):
            assert kinds(list(sender.deliver(batch))) == {"delivered": 1}
    (user,) = fetch(url, "select * from terra_users")
    assert user == {
        "user_id": USER_ID,
        "reference_id": "person-ø",
        "created_at": "2026-11-01T08:00:00.000000+00:00",
        "granted_scopes": None,
        "provider": "OURA",
        "state": "active",
    }
    (line,) = fetch(url, "select * from terra_data_payloads")
    assert (line["user_id"], line["data_type"]) == (USER_ID, "sleep")
    assert line["created_at"][:23] == "2026-11-20T12:00:00.001"
    assert datetime.fromisoformat(line["created_at"]).tzinfo is not None
    assert line["start_time"] == "2026-11-20T00:00:00.000000+01:00"
    assert line["end_time"] == "2026-11-21T00:00:00.000000+01:00"
    payload = json.loads(line["payload"]) if isinstance(line["payload"], str) else line["payload"]
    assert payload["metadata"]["summary_id"] == "nat|2026.11.20"
    (other,) = fetch(url, "select * from terra_other_payloads")
    assert (other["payload_type"], other["user_id"]) == ("auth", USER_ID)


def test_rows_noted_in_the_same_millisecond_are_as_many_lines(empty_postgres: str) -> None:
    deliver(empty_postgres, batch_of(200), terra_tables=True)
    (line,) = fetch(
        empty_postgres, "select count(distinct created_at) as n from terra_data_payloads"
    )
    assert line["n"] == 200


# Tables that are not as expected.


def test_a_column_of_ours_that_is_missing_is_added(url: str) -> None:
    deliver(url, batch_of(1))
    run(
        url,
        "alter table wearable_body drop column device_name",
        "alter table wearable_body_glucose_samples drop column trend_arrow",
    )
    batch = batch_of(2)
    rows = batch.rows.with_columns(device_name=pl.lit("Libre"))
    assert kinds(deliver(url, replace(batch, rows=rows))) == {"delivered": 2}
    lines = fetch(url, "select device_name from wearable_body")
    assert [line["device_name"] for line in lines] == ["Libre", "Libre"]


def test_columns_of_a_teams_own_are_left_alone(url: str) -> None:
    deliver(url, batch_of(1))
    run(url, "alter table wearable_body add column note varchar(20)")
    assert kinds(deliver(url, batch_of(2))) == {"delivered": 2}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            "user_id varchar(64), local_date date, weight double precision",
            "it has no column ordering_timestamp",
        ),
        ("local_date date, ordering_timestamp bigint", "it has no column user_id"),
        (
            "user_id varchar(64), local_date date, ordering_timestamp bigint, provider bigint",
            "column provider is ",
        ),
        (
            "user_id varchar(64), local_date date, ordering_timestamp bigint,"
            " clinic varchar(9) not null",
            "column clinic must be given a value",
        ),
    ],
)
def test_a_table_of_somebody_elses_is_refused_with_the_difference(
    server_url: str, made: str, said: str
) -> None:
    run(server_url, f"create table wearable_body ({made})")
    with pytest.raises(PermanentError) as caught:
        deliver(server_url, batch_of(1))
    assert str(caught.value).startswith("clinic: table wearable_body is not one of ours: ")
    assert said in str(caught.value)
    assert "set another prefix" in str(caught.value)
    assert fetch(server_url, "select * from wearable_body") == []
    assert kinds(deliver(server_url, batch_of(1), prefix="ours_")) == {"delivered": 1}


def test_somebody_elses_users_are_neither_changed_nor_deleted(server_url: str) -> None:
    run(
        server_url,
        "create table users (user_id varchar(64) primary key, email varchar(64))",
        f"insert into users values ('{USER.user_id}', 'a@example.org')",
    )
    with pytest.raises(PermanentError, match="table users is not one of ours: it has no column"):
        deliver(server_url, batch_of(1), prefix="")
    assert [line["email"] for line in fetch(server_url, "select * from users")] == ["a@example.org"]


def test_a_large_batch_is_several_transactions(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "TRANSACTION_BYTES", batch_of(7).rows.estimated_size() // 3)
    with open_url(empty_postgres) as sender:
        outcomes = sender.deliver(batch_of(7))
        first = next(outcomes)
        (line,) = fetch(empty_postgres, "select count(*) as n from wearable_body")
        assert (first.kind, line["n"]) == ("delivered", 2)
        assert kinds(list(outcomes)) == {"delivered": 6}
    assert len(glucose(empty_postgres)) == 7


def test_tables_may_lie_in_a_schema_of_their_own(empty_postgres: str) -> None:
    deliver(empty_postgres, batch_of(2), prefix="", database_schema="wearables")
    (line,) = fetch(empty_postgres, "select count(*) as n from wearables.body_glucose_samples")
    assert line["n"] == 4
    assert table_names(empty_postgres) == set()


# What goes wrong.


@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite"])
def test_of_a_batch_only_what_the_database_refuses_is_not_delivered(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = url_of(kind, request)
    deliver(url, batch_of(1))
    if kind == "sqlite":
        run(
            url,
            "create trigger t before insert on wearable_body_glucose_samples when new.local_date in"
            " ('2026-11-18', '2026-11-13') begin select raise(abort, 'not on that day'); end",
        )
    else:
        run(
            url,
            "alter table wearable_body_glucose_samples add constraint of_ours"
            " check (local_date not in ('2026-11-18', '2026-11-13'))",
        )
    outcomes = deliver(url, batch_of(9))
    assert len(outcomes) == 9
    refused = {o.item.row_key: o.message for o in outcomes if o.kind == "permanent"}
    assert set(refused) == {"2026-11-18", "2026-11-13"}
    assert all(
        text.startswith("clinic: the database refuses the row (") for text in refused.values()
    )
    assert kinds(outcomes) == {"delivered": 7, "permanent": 2}
    assert set(glucose(url)) == {o.item.row_key for o in outcomes if o.kind == "delivered"}
    (line,) = fetch(url, "select count(*) as n from wearable_revisions")
    assert line["n"] == 7


def behind(gate: Gate, url: str) -> str:
    return sa.make_url(url).set(port=gate.port).render_as_string(hide_password=False)


def test_a_server_that_is_down_is_transient_and_all_arrives_once_it_is_back(
    server_url: str,
) -> None:
    with Gate(sa.make_url(server_url).port or 0) as gate:
        gate.shut()
        with open_url(behind(gate, server_url)) as sender:
            with pytest.raises(TransientError) as caught:
                list(sender.deliver(batch_of(3)))
            assert str(caught.value) == "clinic: the database cannot be reached"
            assert kinds(list(sender.deliver(batch_of(3)))) == {"untried": 3}
        gate.open()
        assert kinds(deliver(behind(gate, server_url), batch_of(3))) == {"delivered": 3}
    assert len(glucose(server_url)) == 3


def test_a_connection_that_was_cut_is_made_anew(server_url: str) -> None:
    with (
        Gate(sa.make_url(server_url).port or 0) as gate,
        open_url(behind(gate, server_url)) as sender,
    ):
        assert kinds(list(sender.deliver(batch_of(1)))) == {"delivered": 1}
        gate.shut()
        gate.open()
        with pytest.raises(TransientError, match="clinic: the database cannot be reached"):
            list(sender.deliver(batch_of(3)))
        assert kinds(list(sender.deliver(batch_of(3)))) == {"delivered": 3}
    assert len(glucose(server_url)) == 3


def test_a_whole_pass_meets_a_server_that_is_down_and_the_next_one_delivers(
    bench: Bench, empty_postgres: str
) -> None:
    with Gate(sa.make_url(empty_postgres).port or 0) as gate:
        bench.target = sql_counterpart(behind(gate, empty_postgres)).target
        bench.add_user(USER.user_id)
        bench.note(body_row(USER.user_id, [100]))
        gate.shut()
        assert bench.deliver().failed == 1
        gate.open()
        bench.clock.forward(minutes=5)
        assert bench.deliver().delivered == 1
    assert glucose(empty_postgres) == {"2026-11-20": [100.0]}


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_rows_somebody_else_holds_are_waited_for_and_then_left_for_later(
    kind: str, request: pytest.FixtureRequest
) -> None:
    url = url_of(kind, request)
    deliver(url, batch_of(2))
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as holder:
        holder.exec_driver_sql("update wearable_revisions set is_deleted = not is_deleted")
        with pytest.raises(TransientError):
            deliver(url, batch_of(2), timeout_seconds=1)
        holder.rollback()
    assert kinds(deliver(url, batch_of(2))) == {"delivered": 2}


def test_a_server_that_falls_silent_is_given_up_on(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql_stores, "_GRACE_SECONDS", 0.0)

    class Deaf(Gate):
        is_deaf = False

        def _forward(self, source: Any, sink: Any) -> None:
            while data := source.recv(1 << 16):
                if self.is_deaf:
                    return
                sink.sendall(data)

    with (
        Deaf(sa.make_url(empty_postgres).port or 0) as gate,
        open_url(behind(gate, empty_postgres), timeout_seconds=1) as sender,
    ):
        assert kinds(list(sender.deliver(batch_of(1)))) == {"delivered": 1}
        gate.is_deaf = True
        with pytest.raises(TransientError, match="cannot be reached"):
            list(sender.deliver(batch_of(1)))


def test_a_login_the_server_refuses_is_permanent(server_url: str) -> None:
    url = sa.make_url(server_url)
    if url.get_backend_name() == "mysql":
        run(server_url, f"create or replace user writer identified by '{PASSWORD}'")
    wrong = url.set(username="writer", password=f"not-{PASSWORD}")
    with pytest.raises(PermanentError) as caught:
        deliver(wrong.render_as_string(hide_password=False), batch_of(1))
    assert str(caught.value) == "clinic: login refused; check user and password in url"


def test_a_database_that_is_not_there_is_permanent(server_url: str) -> None:
    elsewhere = sa.make_url(server_url).set(database="nowhere")
    with pytest.raises(PermanentError, match="clinic: there is no such database"):
        deliver(elsewhere.render_as_string(hide_password=False), batch_of(1))


def test_a_user_who_may_not_write_is_permanent(server_url: str) -> None:
    url = sa.make_url(server_url)
    user = f"reader_{(url.database or '')[:8]}"
    if url.get_backend_name() == "mysql":
        run(
            server_url,
            f"create user {user} identified by '{PASSWORD}'",
            f"grant select on {url.database}.* to {user}",
        )
    else:
        run(server_url, f"create role {user} login")
    reader = url.set(username=user, password=PASSWORD).render_as_string(hide_password=False)
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            deliver(reader, batch_of(1))
        assert "clinic: the database user may not do this" in str(caught.value)
        assert PASSWORD not in str(caught.value)
        deliver(server_url, batch_of(1))  # the tables are there now, the rights are not
    if url.get_backend_name() == "postgresql":
        run(server_url, f"drop role {user}")
    else:
        run(server_url, f"drop user {user}")


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_that_is_no_database_is_permanent(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_bytes(b"milk and bread " * 500)
    with pytest.raises(PermanentError, match="clinic: the file is not"):
        deliver(f"{kind}:///{file}", batch_of(1))


def test_a_file_another_process_has_open_is_transient(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path / 'lake.duckdb'}"
    code = (
        "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]);"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lake.duckdb")],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(TransientError, match="clinic: another process has the file open"):
            deliver(url, batch_of(1))
        holder.communicate(b"")
    assert kinds(deliver(url, batch_of(1))) == {"delivered": 1}


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    for kind in ("sqlite", "duckdb"):
        deliver(f"{kind}:///{tmp_path / kind}", batch_of(1))
        assert (tmp_path / kind).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("moment", ["amid", "after"])
def test_killed_before_the_acknowledgement_and_started_again_is_as_once(
    url: str, moment: str
) -> None:
    deliver(url, batch_of(2))
    child = fork(die_in_sql, url, moment).begin()
    assert (child.listen(), child.process.exitcode) == ([], -signal.SIGKILL)
    assert len(glucose(url)) == (2 if moment == "amid" else 5)
    assert kinds(deliver(url, batch_of(5))) == {"delivered": 5}
    assert glucose(url) == {f"2026-11-{day}": [100.0, 110.4] for day in range(16, 21)}


# Settings.


def test_a_target_from_the_file_takes_what_its_filter_lets_through(
    bench: Bench, empty_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINIC_URL", empty_postgres)
    file = tmp_path / "destinations.toml"
    file.write_text(
        f"[clinic]\nkind = 'sql'\nurl = '${{CLINIC_URL}}'\nusers = ['{USER.user_id}']\n"
    )
    bench.target = get_target(Settings(home=tmp_path, destinations_file=file), "clinic")
    other = "22222222-2222-4222-8222-222222222222"
    for user_id in (USER.user_id, other):
        bench.add_user(user_id)
        bench.note(body_row(user_id, [100]))
    assert bench.deliver().delivered == 1
    assert {user_id for user_id, _, _ in read_tables(empty_postgres)} == {USER.user_id}


@pytest.mark.parametrize(
    ("url", "more", "said"),
    [
        ("oracle://h/d", {}, "oracle is not supported; use postgresql"),
        (f"postgresql//u:{PASSWORD}@h/d", {}, "url cannot be read"),
        (f"mysql://u:{PASSWORD}@127.0.0.1", {}, "the url names no database"),
        (f"mysql://u:{PASSWORD}@127.0.0.1/d?ssl=1", {}, "parameters we do not know (ssl)"),
        (
            f"postgresql://u:{PASSWORD}@127.0.0.1/d?colour=red",
            {},
            "a parameter PostgreSQL does not",
        ),
        (f"postgresql://u:{PASSWORD}@db.example.org/d?sslmode=prefer", {}, "turns encryption off"),
        (f"mysql://u:{PASSWORD}@db.example.org/d?ssl_disabled=true", {}, "turns encryption off"),
        ("sqlite://", {}, "the url names no file"),
        ("duckdb:///:memory:", {}, "the url names no file"),
        ("sqlite:////nowhere/at/all.db", {}, "the folder of the database file does not exist"),
        ("sqlite:///a.db", {"database_schema": "s"}, "database_schema is for PostgreSQL only"),
    ],
)
def test_settings_that_do_not_do_are_refused_in_one_line(
    url: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        open_url(url, **more)
    text = str(caught.value)
    assert text.startswith("clinic: ")
    assert said in text
    assert "\n" not in text
    assert PASSWORD not in text


@pytest.mark.parametrize(
    "more", [{"prefix": "Not-this"}, {"prefix": "x" * 30}, {"timeout_seconds": 0}, {"colour": 1}]
)
def test_settings_out_of_bounds_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqlSettings(url=SecretStr("sqlite:///a.db"), **more)


def test_a_server_elsewhere_is_only_reached_encrypted() -> None:
    for url in ("postgresql://u@db.example.org/d", "mysql://u@db.example.org/d"):
        asked = open_url(url)._store._arguments  # type: ignore[attr-defined]
        assert asked.get("sslmode") == "require" or isinstance(asked["ssl"], ssl.SSLContext)
        with pytest.raises(UsageError):
            open_url(f"{url}?{'sslmode=disable' if 'postgres' in url else 'ssl_disabled=1'}")
    allowed = open_url("postgresql://u@db.example.org/d", allow_plaintext=True)
    assert allowed._store._arguments["sslmode"] == "prefer"  # type: ignore[attr-defined]


def test_a_server_without_encryption_is_refused_when_encryption_is_demanded(
    server_url: str,
) -> None:
    wish = "sslmode=require" if server_url.startswith("postgresql") else "ssl_verify_cert=false"
    with pytest.raises(PermanentError, match="clinic: the server offers no encryption"):
        deliver(f"{server_url}?{wish}", batch_of(1))


@pytest.mark.parametrize(
    ("url", "module"),
    [("postgresql://127.0.0.1/d", "psycopg2"), ("mariadb://127.0.0.1/d", "pymysql")],
)
def test_a_client_that_is_not_installed_is_named(
    url: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = builtins.__import__

    def hide(name: str, *rest: Any, **more: Any) -> Any:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", hide)
    with pytest.raises(UsageError) as caught:
        open_url(url)
    assert str(caught.value) == (
        f"clinic: the client {module} is missing; pip install 'wearable-pipeline[sql]'"
    )


def test_neither_password_nor_reading_shows_in_a_representation(empty_postgres: str) -> None:
    url = sa.make_url(empty_postgres).set(password=PASSWORD).render_as_string(hide_password=False)
    target = sql_counterpart(url).target
    with open_url(url) as sender:
        outcomes = list(sender.deliver(batch_of(1)))
        shown = repr(target) + repr(target.settings) + repr(sender) + repr(outcomes)
        shown += repr(vars(sender))
    assert PASSWORD not in shown
    assert "person-1" not in shown
