"""What is peculiar to Supabase. Its database is a real Postgres, its HTTP side a double."""

import builtins
import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
import sqlalchemy as sa
from pydantic import SecretStr, ValidationError

from wearable_pipeline.destinations import get_target, supabase
from wearable_pipeline.destinations._contract import Batch, Event, Item, Outcome
from wearable_pipeline.destinations.supabase import (
    SupabaseSettings,
    object_path,
    open_supabase,
    rest_ddl,
)
from wearable_pipeline.errors import PermanentError, TransientError, UsageError
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations import test_contract as contract
from wearable_pipeline_tests.destinations.batches import USER, batch_of, kinds
from wearable_pipeline_tests.destinations.bench import Bench, body_row
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.destinations.counterpart_sql import fetch, run
from wearable_pipeline_tests.destinations.counterpart_supabase import (
    read_both,
    read_rest,
    settings_for,
    start_double,
    start_supabase_agreeing,
    start_supabase_rest,
)
from wearable_pipeline_tests.destinations.every_type import (
    EXPECTED,
    ORDERING,
    USER_ID,
    at_path,
    batch_of_type,
    key_of,
)
from wearable_pipeline_tests.destinations.test_contract import installed  # noqa: F401
from wearable_pipeline_tests.destinations.test_sql import CASES
from wearable_pipeline_tests.servers.gate import Gate
from wearable_pipeline_tests.servers.supabase import SERVICE_KEY, SupabaseDouble

TYPES = sorted({name for name, _, _ in EXPECTED})
READERS: dict[str, Callable[[SupabaseDouble], State]] = {
    "postgres": read_both,
    "rest": read_rest,
}


@pytest.fixture
def project(request: pytest.FixtureRequest) -> SupabaseDouble:
    return start_double(request)


@pytest.fixture(params=[start_supabase_agreeing, start_supabase_rest])
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    found: Counterpart = request.param(request)
    return found


modes = pytest.mark.parametrize("mode", ["postgres", "rest"])


def deliver(settings: SupabaseSettings, *batches: Batch) -> list[Outcome]:
    with open_supabase(settings, "clinic") as sender:
        return [outcome for batch in batches for outcome in sender.deliver(batch)]


def days(state: State) -> dict[str, list[float]]:
    return {day: values for (_, day), values in contract.readings(state).items()}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_every_destination_must_stand_bucket_and_http_interface_stand_too(
    case: Callable[..., None], counterpart: Counterpart, request: pytest.FixtureRequest
) -> None:
    wanted = [name for name in inspect.signature(case).parameters if name != "counterpart"]
    case(counterpart=counterpart, **{name: request.getfixturevalue(name) for name in wanted})


# What arrives.


@modes
def test_a_row_of_every_type_arrives(project: SupabaseDouble, mode: str) -> None:
    settings = settings_for(project, mode)
    outcomes = deliver(settings, *(batch_of_type(name) for name in TYPES))
    assert kinds(outcomes) == {"delivered": 6}
    found = READERS[mode](project)
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path


def test_columns_made_for_the_http_interface_are_typed_and_lists_are_json(
    project: SupabaseDouble,
) -> None:
    deliver(settings_for(project, "rest"), batch_of_type("activity"))
    (row,) = fetch(project.database_url, "select * from wearable_activity")
    assert row["local_date"] == date(2026, 11, 20)
    assert row["start_at"] == datetime(2026, 11, 19, 23, tzinfo=UTC)
    assert row["metadata_name"] == 'Søndagsløb "let" 🏃'
    assert row["metadata_city"] is None
    assert row["ordering_timestamp"] == 1_795_176_000_000
    assert row["is_deleted"] is False
    bpm = [sample["bpm"] for sample in row["heart_rate_detailed_hr_samples"]]
    assert bpm == [151.5, None]
    (user,) = fetch(project.database_url, "select * from wearable_users")
    assert (user["user_id"], user["reference_id"]) == (USER_ID, "person-ø")


def test_the_bucket_holds_what_a_webhook_would_have_got(project: SupabaseDouble) -> None:
    deliver(settings_for(project), batch_of_type("body"), batch_of_type("activity"))
    objects = project.objects["payloads"]
    day = f"2022-03-16/body/{USER_ID}/2026-11-20.json"
    session = object_path(batch_of_type("activity").items[0])
    assert set(objects) == {day, session}
    assert session.isascii()
    said = json.loads(objects[day])
    assert (said["type"], said["user"]["reference_id"]) == ("body", "person-ø")
    assert said["data"][0]["local_date"] == "2026-11-20"


def test_terras_tables_point_into_the_bucket(project: SupabaseDouble) -> None:
    deliver(settings_for(project, terra_tables=True), batch_of_type("body"))
    (line,) = fetch(project.database_url, "select * from terra_data_payloads")
    path = f"2022-03-16/body/{USER_ID}/2026-11-20.json"
    assert line["payload_url"] == (f"{project.url}/storage/v1/object/authenticated/payloads/{path}")
    assert line["payload"] is None


@modes
def test_nobody_but_owner_and_service_reads_the_tables(project: SupabaseDouble, mode: str) -> None:
    more = {"terra_tables": True} if mode == "postgres" else {}
    deliver(settings_for(project, mode, **more), batch_of_type("body"))
    tables = fetch(
        project.database_url,
        "select relname, relrowsecurity as guarded from pg_class c join pg_namespace n"
        " on n.oid = c.relnamespace where relkind = 'r' and nspname = 'public'",
    )
    assert len(tables) >= 8
    assert [line["relname"] for line in tables if not line["guarded"]] == []


@modes
def test_a_withdrawn_row_leaves_and_no_late_older_content_brings_it_back(
    project: SupabaseDouble, mode: str
) -> None:
    settings = settings_for(project, mode)

    def kept() -> set[str]:
        return {name for _, name, _ in READERS[mode](project)}

    deliver(settings, batch_of_type("sleep"), batch_of_type("body"))
    deliver(settings, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert kept() == {"body"}
    assert len(fetch(project.database_url, "select * from wearable_users")) == 1
    assert kinds(deliver(settings, batch_of_type("sleep"))) == {"delivered": 1}
    assert kept() == {"body"}
    deliver(settings, batch_of_type("sleep", ordering=ORDERING + 2))
    assert kept() == {"body", "sleep"}
    for name in ("sleep", "body"):
        deliver(settings, batch_of_type(name, is_deleted=True, ordering=ORDERING + 3))
    assert kept() == set()
    assert fetch(project.database_url, "select * from wearable_users") == []


def test_of_a_withdrawn_row_the_http_interface_keeps_only_the_key(project: SupabaseDouble) -> None:
    settings = settings_for(project, "rest")
    deliver(settings, batch_of_type("sleep"))
    deliver(settings, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    (row,) = fetch(project.database_url, "select * from wearable_sleep")
    assert row["metadata_summary_id"] == "nat|2026.11.20"
    assert row["is_deleted"] is True
    assert row["sleep_durations_hypnogram_samples"] is None


@modes
def test_events_say_how_the_connection_stands(project: SupabaseDouble, mode: str) -> None:
    user = replace(batch_of_type("body").items[0].user, is_active=False)
    item = Item("deauth", user, "event-1", date(9999, 12, 31), "h", "event-1", ORDERING)
    with open_supabase(settings_for(project, mode)) as sender:
        for _ in range(2):
            outcomes = list(sender.deliver_events([Event(item, {"type": "deauth"})]))  # type: ignore[attr-defined]
            assert kinds(outcomes) == {"delivered": 1}
    (line,) = fetch(project.database_url, "select * from wearable_events")
    assert (line["event_id"], line["type"], line["body"]) == (
        "event-1",
        "deauth",
        {"type": "deauth"},
    )
    assert line["happened_at"] == datetime(2026, 11, 20, 12, tzinfo=UTC)
    (known,) = fetch(project.database_url, "select is_active from wearable_users")
    assert known["is_active"] is False


def test_rows_travel_together_as_far_as_they_fit(
    project: SupabaseDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(project, "rest")
    project.seen.clear()
    assert kinds(deliver(settings, batch_of(20))) == {"delivered": 20}
    assert project.seen.count(("POST", "/rest/v1/wearable_body")) == 1
    monkeypatch.setattr(supabase, "REQUEST_BYTES", 1)
    assert kinds(deliver(settings, batch_of(5))) == {"delivered": 5}
    assert project.seen.count(("POST", "/rest/v1/wearable_body")) == 6
    assert len(days(read_rest(project))) == 20


# What goes wrong.


@modes
def test_of_a_batch_only_what_the_database_refuses_is_not_delivered(
    project: SupabaseDouble, mode: str
) -> None:
    settings = settings_for(project, mode)
    deliver(settings, batch_of(1))
    run(
        project.database_url,
        "alter table wearable_body add constraint of_ours check (local_date <> '2026-11-18')",
    )
    outcomes = deliver(settings, batch_of(6))
    assert kinds(outcomes) == {"delivered": 5, "permanent": 1}
    (refused,) = (outcome for outcome in outcomes if outcome.kind == "permanent")
    assert refused.item.row_key == "2026-11-18"
    assert "refuses the row" in refused.message
    assert "123.456" not in refused.message
    rows = fetch(project.database_url, "select local_date from wearable_body")
    assert {line["local_date"].day for line in rows} == {20, 19, 17, 16, 15}


def test_a_row_too_large_for_the_bucket_does_not_hold_up_the_others(
    project: SupabaseDouble,
) -> None:
    project.largest_object = 20_000
    batch = batch_of(4)
    names = [None, "x" * 20_000, None, None]
    rows = batch.rows.with_columns(pl.Series("device_name", names, dtype=pl.String))
    outcomes = deliver(settings_for(project), replace(batch, rows=rows))
    assert [o.item.trace_id for o in outcomes if o.kind == "permanent"] == ["trace-1"]
    assert kinds(outcomes) == {"delivered": 3, "permanent": 1}
    assert set(days(read_both(project))) == {"2026-11-20", "2026-11-18", "2026-11-17"}


@modes
@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_trouble_of_the_service_is_transient_and_its_wish_to_wait_is_kept(
    project: SupabaseDouble, mode: str, status: int
) -> None:
    settings = settings_for(project, mode)
    project.answers.append((status, {"retry-after": "120"}))
    with open_supabase(settings, "clinic") as sender:
        with pytest.raises(TransientError) as caught:
            list(sender.deliver(batch_of(2)))
        assert f"HTTP {status}" in str(caught.value)
        assert caught.value.retry_after == timedelta(seconds=120)
    assert kinds(deliver(settings, batch_of(2))) == {"delivered": 2}
    assert len(READERS[mode](project)) == 2


@modes
def test_a_wrong_key_is_permanent_and_shows_nowhere(project: SupabaseDouble, mode: str) -> None:
    settings = settings_for(project, mode, service_key="hush-hush-9")
    with pytest.raises(PermanentError, match="refuses service_key") as caught:
        deliver(settings, batch_of(2))
    assert str(caught.value).startswith("clinic: ")
    shown = str(caught.value) + repr(settings) + repr(open_supabase(settings))
    assert "hush-hush-9" not in shown
    assert READERS[mode](project) == {}


def test_a_bucket_that_is_not_there_is_permanent(project: SupabaseDouble) -> None:
    with pytest.raises(PermanentError, match="clinic: storage has no such bucket"):
        deliver(settings_for(project, bucket="elsewhere"), batch_of(1))
    assert fetch(project.database_url, "select * from wearable_body") == []


def test_tables_that_were_not_made_are_named_with_the_way_to_make_them(
    project: SupabaseDouble,
) -> None:
    settings = settings_for(project, "rest")
    run(project.database_url, "drop table wearable_body")
    with pytest.raises(PermanentError, match=r"rest_ddl\(\) in the SQL editor"):
        deliver(settings, batch_of(1))
    run(project.database_url, rest_ddl())
    assert kinds(deliver(settings, batch_of(1))) == {"delivered": 1}
    run(project.database_url, "alter table wearable_body drop column device_name")
    with pytest.raises(PermanentError, match=r"rest_ddl\(\) in the SQL editor"):
        deliver(settings, batch_of(1))
    run(project.database_url, rest_ddl())
    assert kinds(deliver(settings, batch_of(1))) == {"delivered": 1}


def test_tables_may_have_a_schema_and_a_prefix_of_their_own(project: SupabaseDouble) -> None:
    run(project.database_url, rest_ddl("w_", "health"))
    settings = settings_for(project, "rest", prefix="w_", database_schema="health")
    assert kinds(deliver(settings, batch_of(2))) == {"delivered": 2}
    assert len(fetch(project.database_url, "select * from health.w_body")) == 2


@modes
def test_a_project_that_is_down_is_transient_and_all_arrives_once_it_is_back(
    project: SupabaseDouble, mode: str
) -> None:
    with Gate(urlsplit(project.url).port or 0) as gate:
        settings = settings_for(project, mode, project_url=f"http://127.0.0.1:{gate.port}")
        gate.shut()
        with open_supabase(settings, "clinic") as sender:
            with pytest.raises(TransientError, match="clinic: cannot be reached"):
                list(sender.deliver(batch_of(3)))
            if mode == "rest":
                assert kinds(list(sender.deliver(batch_of(3)))) == {"untried": 3}
        assert READERS[mode](project) == {}
        gate.open()
        assert kinds(deliver(settings, batch_of(3))) == {"delivered": 3}
    assert len(READERS[mode](project)) == 3


_DYING = """
import os, signal, sys
from wearable_pipeline.destinations import supabase
from wearable_pipeline_tests.destinations.batches import batch_of

mode, moment, project, key, url = sys.argv[1:]
direct = {"url": url, "bucket": "payloads"} if mode == "postgres" else {}
settings = supabase.SupabaseSettings(mode=mode, project_url=project, service_key=key, **direct)
put = supabase.BucketKeeper.put
def put_and_die(self, items, texts):
    put(self, items, texts)
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "amid":
    supabase.BucketKeeper.put = put_and_die
with supabase.open_supabase(settings) as sender:
    for outcome in sender.deliver(batch_of(5)):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("mode", "moment"), [("postgres", "amid"), ("postgres", "after"), ("rest", "after")]
)
def test_killed_before_the_acknowledgement_and_started_again_is_as_once(
    project: SupabaseDouble, mode: str, moment: str
) -> None:
    settings = settings_for(project, mode)
    child = subprocess.run(
        [
            *(sys.executable, "-c", _DYING, mode, moment),
            *(project.url, SERVICE_KEY, project.database_url),
        ],
        check=False,
        timeout=60,
    )
    assert child.returncode == -signal.SIGKILL
    assert kinds(deliver(settings, batch_of(5))) == {"delivered": 5}
    expected = {f"2026-11-{day}": [100.0, 110.4] for day in range(16, 21)}
    assert days(READERS[mode](project)) == expected


# Settings.


def test_a_target_from_the_file_takes_what_its_filter_lets_through(
    bench: Bench, project: SupabaseDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_KEY", SERVICE_KEY)
    run(project.database_url, rest_ddl())
    file = tmp_path / "destinations.toml"
    file.write_text(
        f"[clinic]\nkind = 'supabase'\nmode = 'rest'\nproject_url = '{project.url}'\n"
        "service_key = '${SUPABASE_SERVICE_KEY}'\ntypes = ['body']\nproviders = ['oura']\n"
    )
    bench.target = get_target(Settings(home=tmp_path, destinations_file=file), "clinic")
    bench.add_user(USER.user_id)
    bench.note(body_row(USER.user_id, [100]))
    assert bench.deliver().delivered == 0
    of_oura = body_row(USER.user_id, [100]).with_columns(provider=pl.lit("oura"))
    assert bench.note(of_oura) == 1


BUCKET = {"bucket": "payloads", "project_url": "https://p.supabase.co", "service_key": "k"}
REST = {"mode": "rest", "project_url": "https://p.supabase.co", "service_key": "k"}
LOCAL = "postgresql://u@127.0.0.1/d"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "url is not set"),
        ({"url": "mysql://u@127.0.0.1/d"}, "url is not postgresql"),
        ({"url": "postgresql://u@db.example.org/d?sslmode=disable"}, "turns encryption off"),
        ({"url": LOCAL, "bucket": "payloads"}, "project_url and service_key are needed"),
        ({"url": LOCAL, "project_url": "https://p.supabase.co"}, "do nothing without bucket"),
        ({"url": LOCAL, **BUCKET, "project_url": "http://p.supabase.co"}, "in the clear"),
        ({"url": LOCAL, **BUCKET, "project_url": "p.supabase.co"}, "not an address like"),
        ({"mode": "rest"}, "project_url and service_key are needed"),
        ({**REST, "url": LOCAL}, "url is for mode postgres"),
        ({**REST, "bucket": "payloads"}, "bucket is for mode postgres"),
        ({**REST, "terra_tables": True}, "terra_tables is for mode postgres"),
    ],
)
def test_settings_that_contradict_are_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_supabase(SupabaseSettings(**given), "clinic")
    assert str(caught.value).startswith("clinic: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"bucket": "../up"}, {"mode": "smoke"}, {"colour": "red"}])
def test_settings_out_of_bounds_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SupabaseSettings(**given)


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def hide(name: str, *rest: Any, **more: Any) -> Any:
        if name == "psycopg2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", hide)
    with pytest.raises(UsageError, match=r"pip install 'wearable-pipeline\[supabase\]'"):
        open_supabase(SupabaseSettings(url=SecretStr(LOCAL)), "clinic")
    # The HTTP interface needs no client.
    open_supabase(SupabaseSettings(**REST), "clinic")  # type: ignore[arg-type]


def test_a_login_the_database_refuses_is_permanent(project: SupabaseDouble) -> None:
    wrong = sa.make_url(project.database_url).set(username="nobody", password="hush-hush-9")
    url = SecretStr(wrong.render_as_string(hide_password=False))
    with pytest.raises(PermanentError) as caught:
        deliver(SupabaseSettings(url=url), batch_of(1))
    assert str(caught.value) == "clinic: login refused; check user and password in url"
