"""CardioMood's answers as rows; expected values are worked out by hand from the documents below.

Every body here is invented after the vendor's data models: no answer of the service has been published.
"""

import asyncio
import io
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from wearable_pipeline.connect import connect
from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, ImportOptions, Page, Record, Window
from wearable_pipeline.providers.cardiomood import LONGEST_QUERY, fetch
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.cardiomood import PEOPLE
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import settings
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.conftest import AtSandbox
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import fetch as poll_once
from wearable_pipeline_tests.providers.session_cast import change_session, rows_of

CARDIOMOOD = get_provider("cardiomood")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RATES = "heart_rate_detailed_hr_samples"
STEPS = "distance_detailed_step_samples"
OXYGEN = "oxygen_saturation_samples"
BEATS = "heart_rr_interval_samples"

SUMMARY: dict[str, Any] = {
    "date": "2026-11-19",
    "activity": {
        "date": "2026-11-19",
        "total_steps": 8123,
        "daily_percent": 81,
        "distance": 5.6,
        "calories": 2100,
        "active_minutes": 45,
        "slots": [{"timestamp": 1795046400, "date": "00:00", "step_count": 12}],
    },
    "heart_rate": {
        "date": "2026-11-19",
        "avg_daily_heart_rate": 71,
        "max_daily_heart_rate": 140,
        "rest_daily_heart_rate": 52,
    },
}
# 1795129200000 ms are 2026-11-19T23:00:00Z, midnight in Zurich.
MINUTE: dict[str, Any] = {
    "timestamp": 1795129200000,
    "date": "2026-11-20T00:00:00.000+01:00",
    "bpm": 58,
    "bpm_q": 4,
    "last_steps": 0,
    "activity_type": 7,
    "spo2": 97,
    "energy_exp": 1200,
}


def records(resource: str, *found: object, timezone: str | None = None) -> list[Record]:
    body = json.dumps({"data": found}).encode()
    page = Page(resource, body, NOW, {"timezone": timezone})
    return list(CARDIOMOOD.resource(resource).split(page))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("cardiomood", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def test_a_day_by_the_names_that_say_their_units(rows: Any) -> None:
    row = one_row(rows, "daily", records("summaries", SUMMARY))
    expected = {
        "local_date": date(2026, 11, 19),
        "timezone": None,
        "tz_source": "unknown",
        "utc_offset_seconds": None,
        "local_start_at": naive("2026-11-19T00:00:00"),
        "start_at": None,
        "device_manufacturer": "Corsano",
        "distance_steps": 8123,
        # 45 minutes.
        "active_durations_activity_seconds": 2700.0,
        "heart_rate_summary_avg_hr_bpm": 71.0,
        "heart_rate_summary_max_hr_bpm": 140.0,
        "heart_rate_summary_resting_hr_bpm": 52.0,
        "heart_rate_summary_min_hr_bpm": None,
        # Of which unit is not told.
        "distance_distance_meters": None,
        "calories_total_burned_calories": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_day_is_the_persons_where_the_zone_is_known(rows: Any) -> None:
    row = one_row(rows, "daily", records("summaries", SUMMARY, timezone="Europe/Zurich"))
    assert (row["timezone"], row["tz_source"]) == ("Europe/Zurich", "profile")
    assert row["start_at"] == at("2026-11-18T23:00:00+00:00")


def test_absent_is_null_and_so_is_a_heart_that_beats_zero_times(rows: Any) -> None:
    quiet = {"date": "2026-11-19", "activity": {"total_steps": 0}, "heart_rate": {}}
    row = one_row(rows, "daily", records("summaries", quiet))
    assert (row["distance_steps"], row["heart_rate_summary_avg_hr_bpm"]) == (0, None)
    assert row["active_durations_activity_seconds"] is None
    zero = {"date": "2026-11-19", "heart_rate": {"avg_daily_heart_rate": 0}}
    row = one_row(rows, "daily", records("summaries", zero))
    assert (row["distance_steps"], row["heart_rate_summary_avg_hr_bpm"]) == (None, None)


def test_the_vendors_other_spelling_is_read_too(rows: Any) -> None:
    odd = {"date": "2026-11-19", "heart_rate": {"avg_daily_heat_rate": "66"}}
    row = one_row(rows, "daily", records("summaries", odd))
    assert row["heart_rate_summary_avg_hr_bpm"] == 66.0


def test_a_day_told_again_replaces_the_first(rows: Any) -> None:
    later = {**SUMMARY, "activity": {**SUMMARY["activity"], "total_steps": 9000}}
    result = rows("cardiomood", "daily", records("summaries", SUMMARY), records("summaries", later))
    assert result.rows["distance_steps"].to_list() == [9000]


def test_a_minute_is_of_the_local_day_it_says(rows: Any) -> None:
    row = one_row(rows, "daily", records("activity", MINUTE))
    assert (row["local_date"], row["utc_offset_seconds"], row["tz_source"]) == (
        date(2026, 11, 20), 3600, "provider",
    )  # fmt: skip
    when = {
        "timestamp": at("2026-11-19T23:00:00+00:00"),
        "local_timestamp": naive("2026-11-20T00:00:00"),
    }
    assert row[RATES] == [{**when, "bpm": 58.0, "timer_duration_seconds": None, "context": None}]
    assert row[STEPS] == [{**when, "steps": 0.0, "timer_duration_seconds": None}]
    assert row[OXYGEN] == [{**when, "percentage": 97.0, "type": None}]


def test_nothing_measured_is_no_sample(rows: Any) -> None:
    off = {**MINUTE, "bpm": 0, "spo2": 0, "last_steps": None}
    result = rows("cardiomood", "daily", records("activity", off, MINUTE))
    (row,) = result.rows.to_dicts()
    assert [len(row[name]) for name in (RATES, STEPS, OXYGEN)] == [1, 1, 1]
    (row,) = rows("cardiomood", "daily", records("activity", {**off, "bpm": 61})).rows.to_dicts()
    assert (len(row[RATES]), row[STEPS], row[OXYGEN]) == (1, None, None)


@pytest.mark.parametrize(
    ("told", "timezone", "instant", "local", "source"),
    [
        ({"timestamp": 1795129200}, None, "23:00", "2026-11-20T00:00", "provider"),
        ({"timestamp": "1795129200000"}, None, "23:00", "2026-11-20T00:00", "provider"),
        ({"timestamp": None}, None, "23:00", "2026-11-20T00:00", "provider"),
        ({"date": None}, None, "23:00", None, "unknown"),
        ({"date": None}, "Europe/Zurich", "23:00", "2026-11-20T00:00", "profile"),
        ({"date": "2026-11-19T23:00:00.000Z"}, None, "23:00", None, "unknown"),
        ({"date": "soon"}, None, "23:00", None, "unknown"),
    ],
)
def test_when_a_minute_was(
    rows: Any,
    told: dict[str, Any],
    timezone: str | None,
    instant: str,
    local: str | None,
    source: str,
) -> None:
    row = one_row(rows, "daily", records("activity", {**MINUTE, **told}, timezone=timezone))
    (sample,) = row[RATES]
    assert sample["timestamp"] == at(f"2026-11-19T{instant}:00+00:00")
    assert sample["local_timestamp"] == (naive(f"{local}:00") if local else None)
    assert row["tz_source"] == source
    assert row["local_date"] == (date(2026, 11, 20) if local else date(2026, 11, 19))


@pytest.mark.parametrize(
    ("resource", "good", "broken", "reason"),
    [
        ("summaries", SUMMARY, {"date": "2026-13-45"}, "date: missing"),
        ("summaries", SUMMARY, {"date": None}, "date: missing"),
        ("summaries", SUMMARY, {"activity": {"total_steps": "many"}}, "total_steps"),
        ("activity", MINUTE, {"timestamp": None, "date": None}, "timestamp: missing"),
        ("activity", MINUTE, {"timestamp": 1e300, "date": None}, "timestamp: missing"),
        ("activity", MINUTE, {"timestamp": -5, "date": "later"}, "timestamp: missing"),
        ("activity", MINUTE, {"bpm": "fast"}, "bpm"),
    ],
)
def test_a_broken_record_is_quarantined_and_the_next_one_kept(
    rows: Any, resource: str, good: dict[str, Any], broken: dict[str, Any], reason: str
) -> None:
    later = {"timestamp": 1795129800000, "date": "2026-11-20T00:10:00.000+01:00"}
    other = {**good, **({"date": "2026-11-18"} if resource == "summaries" else later)}
    found = records(resource, {**good, **broken}, other)
    result = rows("cardiomood", "daily", found)
    (told,) = result.rejected["reason"].to_list()
    assert reason in told
    (row,) = result.rows.to_dicts()
    assert row["source_record_ids"] == [found[1].record_id]


@pytest.mark.parametrize(
    "resource", ["rr_interval", "sleep", "temperature", "heart_rate_variability"]
)
def test_what_nobody_knows_the_shape_of_is_kept_and_goes_nowhere(rows: Any, resource: str) -> None:
    one = {"timestamp": 1795129200000, "date": "2026-11-20T00:00:00.000+01:00", "x": {"y": 1}}
    first, again, other = records(resource, one, one, {**one, "x": {"y": 2}})
    assert first.record_id == again.record_id != other.record_id
    assert first.local_date == date(2026, 11, 20)
    assert json.loads(first.body) == one
    for table in ("daily", "body", "sleep", "activity"):
        result = rows("cardiomood", table, [first, other])
        assert result.rows.is_empty()
        assert result.rejected.is_empty()


# --- fetching


class Api:
    """Answers of both APIs; remembers what was asked for."""

    def __init__(self, days: int = 0) -> None:
        self.days = days
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.posted: list[dict[str, str]] = []
        self.refused = 0
        self.login = httpx.Response(200, json={"token": "first"})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.posted.append(json.loads(request.content))
            users = request.url.host == "api.users.cloud.corsano.com"
            return self.login if users else httpx.Response(200, json={"token": "second"})
        assert request.url.host == "api.health.cloud.corsano.com"
        asked = dict(request.url.params)
        self.asked.append((request.url.path, asked))
        if self.refused:
            self.refused -= 1
            return httpx.Response(200, json={"error": "Unauthenticated."})
        assert request.headers["authorization"].startswith("Bearer ")
        if request.url.path != "/user-summaries":
            return httpx.Response(200, json=[])
        first = (int(asked["page"]) - 1) * int(asked["per_page"])
        day = date(2026, 10, 1)
        found = [
            {"date": (day + timedelta(days=n)).isoformat(), "activity": {}}
            for n in range(self.days)
        ]
        return httpx.Response(200, json={"data": found[first : first + int(asked["per_page"])]})


def fetched(client_for: Any, api: Api, window: Window, saved: list[object]) -> list[Page]:
    async def run() -> list[Page]:
        async with client_for(api) as client:
            credentials: dict[str, object] = {"email": "a@b.invalid", "password": "p", "token": "t"}
            connection = Connection(
                "u", {}, credentials, {}, None, lambda: saved.append(credentials["token"])
            )
            return [page async for page in fetch(client, connection, window)]

    return asyncio.run(run())


def test_days_are_read_page_by_page_and_metrics_a_day_at_a_time(client_for: Any) -> None:
    api = Api(days=20)
    window = Window(date(2026, 10, 5), date(2026, 10, 6), NOW)
    pages = fetched(client_for, api, window, [])
    summaries = [asked for path, asked in api.asked if path == "/user-summaries"]
    assert summaries == [
        {
            "date_from": "2026-10-05",
            "date_to": "2026-10-07",
            "include_slots": "1",
            "per_page": "10",
            "page": str(page),
        }
        # Twenty days, and the empty page after the second full one.
        for page in (1, 2, 3)
    ]
    metrics = [(path, asked) for path, asked in api.asked if path != "/user-summaries"]
    # 74 hours: three days and two hours, newest first, each of five metrics.
    assert len(metrics) == 20
    assert metrics[0] == (
        "/v2/raw-metrics/activity",
        {"from_date": "2026-10-06T12:00:00.000+00:00", "to_date": "2026-10-07T12:00:00.000+00:00"},
    )
    assert [path.rpartition("/")[2] for path, _ in metrics[:5]] == [
        *("activity", "rr-interval", "sleep", "temperature", "heart-rate-variability")
    ]
    assert metrics[-1][1] == {
        "from_date": "2026-10-04T10:00:00.000+00:00",
        "to_date": "2026-10-04T12:00:00.000+00:00",
    }
    for _, asked in metrics:
        assert at(asked["to_date"]) - at(asked["from_date"]) <= LONGEST_QUERY
    assert [page.resource for page in pages[:4]] == ["summaries"] * 3 + ["activity"]


def test_a_refused_token_is_replaced_once_and_kept(client_for: Any) -> None:
    api, saved = Api(), []  # type: ignore[var-annotated]
    api.refused = 1
    window = Window(date(2026, 10, 5), date(2026, 10, 5), NOW)
    fetched(client_for, api, window, saved)
    assert api.posted == [
        {"email": "a@b.invalid", "password": "p"},
        {"user_api_token": "first"},
    ]
    assert saved == ["second"]
    api.refused = 2
    with pytest.raises(TransientError, match="just given is refused"):
        fetched(client_for, api, window, saved)


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (httpx.Response(422, json={"message": "invalid"}), NotConnectedError, "is wrong"),
        (httpx.Response(401, json={"error": "x"}), NotConnectedError, "is wrong"),
        (httpx.Response(200, json={"error": "x"}), NotConnectedError, "no token"),
        (httpx.Response(200, json={"token": ["x"]}), BadPayloadError, "another shape"),
    ],
)
def test_a_login_that_fails_says_why(
    client_for: Any, answer: httpx.Response, error: type[Exception], says: str
) -> None:
    api = Api()
    api.login = answer

    async def run() -> None:
        assert CARDIOMOOD.connect is not None
        async with client_for(api) as client:
            await CARDIOMOOD.connect(client, {"email": "a@b.invalid", "password": "secret-word"})

    with pytest.raises(error, match=says) as raised:
        asyncio.run(run())
    assert "secret-word" not in str(raised.value)
    assert "a@b" not in str(raised.value)


def test_a_page_of_the_web_at_the_login_ends_no_connection(client_for: Any) -> None:
    api = Api()
    api.login = httpx.Response(200, html="<html>Sign in</html>")
    api.refused = 1
    with pytest.raises((TransientError, BadPayloadError)):
        fetched(client_for, api, Window(date(2026, 10, 5), date(2026, 10, 5), NOW), [])


# --- files


def imported(content: bytes, name: str | None, **options: Any) -> list[Record]:
    (importer,) = [one for one in CARDIOMOOD.importers if one.recognise(content[:65536])]
    stream = io.BytesIO(content)
    if name is not None:
        stream.name = name
    return [record for batch in importer.read(stream, ImportOptions(**options)) for record in batch]


def test_each_interval_ends_in_the_beat_it_is_told_for(rows: Any) -> None:
    found = imported(b"800\r\n1000\r\n\r\n750.5\r\n", "rr_2026-10-25_02-59-58.txt")
    row = one_row(rows, "body", found)
    assert (row["local_date"], row["tz_source"]) == (date(2026, 10, 25), "unknown")
    assert row[BEATS] == [
        {
            "timestamp": None,
            "local_timestamp": naive(f"2026-10-25T{when}"),
            "rr_interval_ms": interval,
            "hr_bpm": None,
        }
        for when, interval in [
            ("02:59:58.800", 800.0),
            ("02:59:59.800", 1000.0),
            ("03:00:00.550500", 750.5),
        ]
    ]


def test_a_recording_over_midnight_and_the_change_of_clocks_stays_one(rows: Any) -> None:
    # A little over three hours of beats a second apart from 23:30 before clocks went back at three.
    content = b"1000\n" * 12_600
    found = imported(content, "20261024_2330.txt", timezone="Europe/Zurich")
    row = one_row(rows, "body", found)
    assert (row["local_date"], row["timezone"]) == (date(2026, 10, 24), "Europe/Zurich")
    beats = row[BEATS]
    assert len(beats) == 12_600
    assert beats[0]["timestamp"] == at("2026-10-24T21:30:01+00:00")
    assert beats[-1]["timestamp"] == at("2026-10-25T01:00:00+00:00")
    assert beats[-1]["local_timestamp"] == naive("2026-10-25T02:00:00")


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"800\n810\n", "beats.txt", "does not say when"),
        (b"800\n810\n", None, "does not say when"),
        (b"800\n810\n", "2026-13-45_10-00.txt", "does not say when"),
        (b"0.80\n0.81\n0.79\n", "2026-01-31_10-00.txt", "no milliseconds"),
        (b"800\n" * 30 + b"abc\n", "2026-01-31_10-00.txt", "number 31"),
    ],
)
def test_what_is_no_recording_is_refused(content: bytes, name: str | None, says: str) -> None:
    with pytest.raises(BadPayloadError, match=says):
        imported(content, name)


def test_other_files_are_not_taken_for_recordings() -> None:
    (importer,) = CARDIOMOOD.importers
    for head in (b"", b"800\n", b"a,b\n1,2\n", b"[1]\n[2]\n", b"800,1\n810,2\n", b"\x00\x01\n"):
        assert not importer.recognise(head)
    with pytest.raises(UsageError, match="Mars"):
        imported(b"800\n810\n", "2026-01-31_10-00.txt", timezone="Mars/Olympus")


# --- bodies of unknown origin


@pytest.mark.parametrize(("name", "one"), [("summaries", SUMMARY), ("activity", MINUTE)])
@pytest.mark.parametrize("form", ["list", "data"])
def test_a_body_is_recognised_as_what_it_is_alone(name: str, one: Any, form: str) -> None:
    whole: object = [one] if form == "list" else {"data": [one], "current_page": 1}
    assert [r.name for r in CARDIOMOOD.resources if r.recognise and r.recognise(whole)] == [name]
    found = inspect_body(CARDIOMOOD, json.dumps(whole).encode(), name="body", now=NOW)
    assert (found.unknown_fields, found.rejected) == ([], [])
    assert found.tables["daily"]


def test_what_is_not_read_is_told() -> None:
    body = json.dumps([{**SUMMARY, "sleep": {"deep": 3}}]).encode()
    found = inspect_body(CARDIOMOOD, body, name="body", now=NOW)
    assert found.unknown_fields == ["sleep.deep"]
    kept = json.dumps([{"timestamp": 1795129200000, "value": 3}]).encode()
    found = inspect_body(CARDIOMOOD, kept, name="body", now=NOW, resource_name="sleep")
    assert (found.tables, found.unknown_fields) == ({}, ["value"])


def test_a_recording_is_inspected_by_its_name() -> None:
    found = inspect_body(CARDIOMOOD, b"800\n810\n", name="rr_2026-01-31_07-30.txt", now=NOW)
    assert (found.unknown_fields, found.rejected) == ([], [])
    assert len(found.tables["body"][0][BEATS]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b'{"error":"Unauthenticated."}', NotConnectedError, "connect this user again"),
        (b'{"token":"abc"}', BadPayloadError, "a login"),
        (b'{"error":"more than a day"}', BadPayloadError, "refusal"),
        (b"<html></html>", BadPayloadError, "web page"),
        (b'{"data":[{"da', BadPayloadError, "cut off"),
        (b"{}", UsageError, "--resource"),
    ],
)
def test_what_is_no_data_says_so(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect_body(CARDIOMOOD, body, name="body", now=NOW)


# --- over real HTTP


@pytest.fixture
def there(
    at_sandbox: AtSandbox, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """A workspace that asks the sandbox without waiting."""
    opened = at_sandbox("cardiomood", PEOPLE)
    monkeypatch.setenv("WEARABLE_CARDIOMOOD_AUTH_URL", f"{sandbox.url}/cardiomood/users")
    monkeypatch.setenv("WEARABLE_CARDIOMOOD_BASE_URL", f"{sandbox.url}/cardiomood/health")
    settings.cache_clear()
    return opened


def connected(there: Workspace, person: str, reference: str) -> User:
    values = {"email": PEOPLE[person].email, "password": PEOPLE[person].password}
    return connect(there, CARDIOMOOD, values, reference_id=reference)


@pytest.mark.slow
@pytest.mark.parametrize(("person", "history"), [("nils", 40), ("olga", 12)])
def test_a_life_with_faults_ends_as_one_without(
    there: Workspace, sandbox: SandboxProcess, clock: StandingClock, person: str, history: int
) -> None:
    # The same account for two of our references: two users, who must end alike.
    calm, rough = connected(there, person, "calm"), connected(there, person, "rough")
    assert calm.user_id != rough.user_id
    data = "/cardiomood/health/(user|v2)"

    def failed() -> str:
        ((error_class, _),) = poll_once(there, rough).failures.values()
        return error_class

    def fine(*users: User, days: int = 0) -> None:
        for user in users:
            assert poll_once(there, user, days).failures == {}

    fine(calm, days=history)
    # The token ends in the middle of the answers: a new one is got and the same asked for again.
    sandbox.fault("401", path=data, after=7)
    fine(rough, days=history)
    for _ in range(2):
        # Longer than a token lives.
        sandbox.set_clock(clock.advance(hours=20))
        fine(calm, rough)
    sandbox.set_clock(clock.advance(hours=1))
    fine(calm)
    sandbox.fault("500", path=data, after=2, times=3)
    assert failed() == "transient"
    sandbox.clear_faults()
    sandbox.fault("429", path=data, after=2)
    assert failed() == "rate_limited"
    locked = there.registry.load_states([rough.user_id])[rough.user_id].locked_until
    assert locked is not None
    clock.at = locked + timedelta(seconds=1)
    fine(rough)
    expected = rows_of(there, calm)
    assert expected.keys() == {"daily"}
    assert rows_of(there, rough) == expected
    days: list[dict[str, Any]] = expected["daily"]
    assert len(days) >= history
    # Whole days: a minute in ten, but for those the bracelet was off.
    assert all(len(row[STEPS]) > 120 for row in days[1:-3])
    assert all(row["distance_steps"] for row in days[1:-3])

    change_session(sandbox, "cardiomood", person, "expire")
    change_session(sandbox, "cardiomood", person, "change_password")
    assert failed() == "not_connected"
    assert rows_of(there, rough) == expected


def test_a_wrong_password_connects_nobody(there: Workspace, sandbox: SandboxProcess) -> None:
    with pytest.raises(NotConnectedError, match="is wrong"):
        connect(there, CARDIOMOOD, {"email": "nils@sandbox.invalid", "password": "guessed"})
