"""Tidepool's records as rows; expected values are worked out by hand from the records below."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
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
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, Page, Record, Window
from wearable_pipeline.providers.tidepool import ACTIVITIES, fetch
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.sandbox.tidepool import PEOPLE
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.conftest import AtSandbox
from wearable_pipeline_tests.providers.moments import naive
from wearable_pipeline_tests.providers.oauth_cast import fetch as poll_once
from wearable_pipeline_tests.providers.session_cast import change_session, rows_of

TIDEPOOL = get_provider("tidepool")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GLUCOSE = "glucose_blood_glucose_samples"
DOSES = "measurements_measurements"
AT = datetime(2026, 11, 20, 4, 30, 5, tzinfo=UTC)
LOCAL = datetime(2026, 11, 19, 21, 30, 5)  # noqa: DTZ001 - a wall clock

BASE: dict[str, Any] = {
    "id": "b0",
    "time": "2026-11-20T04:30:05.000Z",
    "deviceTime": "2026-11-19T21:30:05",
    "timezoneOffset": -420,
    "conversionOffset": 0,
    "deviceId": "DexG6-1",
    "uploadId": "upid_1",
}
CBG = {**BASE, "type": "cbg", "value": 8.27061, "units": "mmol/L"}


def records(resource: str, *found: object, timezone: str | None = None) -> list[Record]:
    page = Page(resource, json.dumps(found).encode(), NOW, {"timezone": timezone})
    return list(TIDEPOOL.resource(resource).split(page))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("tidepool", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def one_sample(rows: Any, **changed: object) -> dict[str, Any]:
    (sample,) = one_row(rows, "body", records("glucose", {**CBG, **changed}))[GLUCOSE]
    return dict(sample)


def test_a_sensor_value(rows: Any) -> None:
    row = one_row(rows, "body", records("glucose", {**CBG, "trend": "slowFall"}))
    expected = {
        "local_date": date(2026, 11, 19),
        "utc_offset_seconds": -25200,
        "timezone": None,
        "tz_source": "provider",
    }
    assert {name: row[name] for name in expected} == expected
    (sample,) = row[GLUCOSE]
    # 8.27061 mmol/L × 18.0156 = 149.00000…: what the sensor had shown was 149.
    assert sample.pop("blood_glucose_mg_per_dl") == pytest.approx(149, abs=0.001)
    assert sample == {
        "timestamp": AT,
        "local_timestamp": LOCAL,
        "glucose_level_flag": None,
        "trend_arrow": "falling",
        "native_value": 8.27061,
        "native_unit": "mmol/L",
        "sample_kind": "cgm",
        "out_of_range": None,
        "native_trend": "slowFall",
        "sensor_status": None,
        "device_id": "DexG6-1",
        "occurrence": None,
    }


@pytest.mark.parametrize(
    ("kind", "part", "stored"),
    [
        ("cbg", None, "cgm"),
        ("smbg", None, "fingerstick"),
        ("smbg", "linked", "fingerstick"),
        ("smbg", "manual", "manual"),
        ("smbg", "scanned", "scan"),
    ],
)
def test_how_a_value_was_taken(rows: Any, kind: str, part: str | None, stored: str) -> None:
    assert one_sample(rows, type=kind, subType=part)["sample_kind"] == stored


@pytest.mark.parametrize(
    ("unit", "value", "glucose", "native"),
    [
        ("mmol/L", 5.550747991045533, 100.0, "mmol/L"),
        (None, 5.550747991045533, 100.0, "mmol/L"),
        ("mg/dL", 100, 100.0, "mg/dL"),
        ("mg/dl", 69, 69.0, "mg/dL"),
    ],
)
def test_units(rows: Any, unit: str | None, value: float, glucose: float, native: str) -> None:
    sample = one_sample(rows, units=unit, value=value)
    assert sample["blood_glucose_mg_per_dl"] == pytest.approx(glucose, abs=0.001)
    assert (sample["native_value"], sample["native_unit"]) == (value, native)


@pytest.mark.parametrize("said", ["low", "high"])
def test_what_is_out_of_range_is_annotated(rows: Any, said: str) -> None:
    noted = [{"code": "basal/auto"}, {"code": "bg/out-of-range", "value": said, "threshold": 40}]
    sample = one_sample(rows, annotations=noted)
    assert (sample["out_of_range"], sample["glucose_level_flag"]) == (said, said)
    assert one_sample(rows, annotations=[{"code": "basal/auto"}])["out_of_range"] is None


@pytest.mark.parametrize(
    ("changed", "local", "source"),
    [
        ({}, "2026-11-19T21:30:05", "provider"),
        # The device's clock was two minutes fast: the offset is what counts.
        ({"deviceTime": "2026-11-19T21:32:05"}, "2026-11-19T21:30:05", "provider"),
        ({"timezoneOffset": 0}, "2026-11-20T04:30:05", "provider"),
        # No offset: the device's clock says it where it is a whole one ahead, to the second.
        (
            {"timezoneOffset": None, "time": "2026-11-20T04:30:05.703Z"},
            "2026-11-19T21:30:05.703",
            "provider",
        ),
        ({"timezoneOffset": None, "deviceTime": "2026-11-19T21:32:05"}, None, "unknown"),
        ({"timezoneOffset": None, "deviceTime": None}, None, "unknown"),
        ({"timezoneOffset": 5000, "deviceTime": None}, None, "unknown"),
    ],
)
def test_where_it_was(
    rows: Any, changed: dict[str, object], local: str | None, source: str
) -> None:
    row = one_row(rows, "body", records("glucose", {**CBG, **changed}))
    (sample,) = row[GLUCOSE]
    assert sample["local_timestamp"] == (naive(local) if local else None)
    assert row["tz_source"] == source
    assert row["local_date"] == (naive(local).date() if local else date(2026, 11, 20))


def test_without_an_offset_it_was_where_the_person_lives(rows: Any) -> None:
    bare = {"time": "2026-11-20T23:30:00Z", "type": "cbg", "value": 5.0}
    row = one_row(rows, "body", records("glucose", bare, timezone="Asia/Tokyo"))
    assert (row["local_date"], row["timezone"]) == (date(2026, 11, 21), "Asia/Tokyo")
    assert row[GLUCOSE][0]["local_timestamp"] == naive("2026-11-21T08:30:00")


def test_two_values_of_one_moment_are_two_readings_and_the_same_again_is_none(rows: Any) -> None:
    low, high = ({**CBG, "type": "smbg", "value": value} for value in (4.8, 4.9))
    # Uploaded again: other ids, other order.
    again = [{**one, "id": "b1", "uploadId": "upid_2"} for one in (high, low)]
    result = rows("tidepool", "body", records("glucose", low, high), records("glucose", *again))
    (row,) = result.rows.to_dicts()
    told = [(s["native_value"], s["occurrence"]) for s in row[GLUCOSE]]
    assert sorted(told, key=str) == [(4.8, None), (4.9, 2)]


def test_ketones(rows: Any) -> None:
    ketone = {**BASE, "type": "bloodKetone", "value": 1.4, "units": "mmol/L"}
    (sample,) = one_row(rows, "body", records("ketones", ketone))["ketone_ketone_samples"]
    # 1.4 × 10.41
    assert sample["ketone_mg_per_dl"] == pytest.approx(14.574)
    assert (sample["sample_type"], sample["native_value"]) == ("blood", 1.4)


@pytest.mark.parametrize(
    ("dose", "given", "kind"),
    [
        ({"type": "bolus", "subType": "normal", "normal": 2.5}, 2.5, None),
        ({"type": "bolus", "subType": "square", "extended": 1.5, "duration": 7}, 1.5, None),
        ({"type": "bolus", "subType": "dual/square", "normal": 2, "extended": 1.5}, 3.5, None),
        ({"type": "bolus", "subType": "normal", "normal": 0}, 0.0, None),
        (
            {
                "type": "insulin",
                "dose": {"total": 18, "units": "Units"},
                "formulation": {"simple": {"actingType": "long"}},
            },
            18.0,
            "long",
        ),
    ],
)
def test_insulin(rows: Any, dose: dict[str, object], given: float, kind: str | None) -> None:
    (measured,) = one_row(rows, "body", records("insulin", {**BASE, **dose}))[DOSES]
    assert (measured["insulin_units"], measured["insulin_type"]) == (given, kind)
    assert (measured["measurement_time"], measured["device_id"]) == (AT, "DexG6-1")


def test_a_calculation_with_a_meal_is_one_and_a_correction_is_none(rows: Any) -> None:
    meal = {**BASE, "type": "wizard", "carbInput": 45, "units": "mmol/L", "bolus": {"type": "x"}}
    (found,) = one_row(rows, "nutrition", records("wizards", meal))["meals"]
    assert (found["macros_carbohydrates_g"], found["timestamp"]) == (45.0, AT)
    for carbs in (0, None):
        correction = records("wizards", {**meal, "carbInput": carbs})
        assert rows("tidepool", "nutrition", correction).rows.is_empty()


def test_food(rows: Any) -> None:
    food = {
        **BASE,
        "type": "food",
        "name": "Porridge",
        "meal": "breakfast",
        "nutrition": {
            "absorptionDuration": 10800,
            "carbohydrate": {"net": 40, "dietaryFiber": 6, "sugars": 9, "units": "grams"},
            "fat": {"total": 7, "units": "grams"},
            "protein": {"total": 11, "units": "grams"},
            "energy": {"value": 1255.2, "units": "kilojoules"},
        },
    }
    (meal,) = one_row(rows, "nutrition", records("food", food))["meals"]
    expected = {
        "name": "Porridge",
        "type": "breakfast",
        "macros_carbohydrates_g": 46.0,
        "macros_net_carbohydrates_g": 40.0,
        "macros_fiber_g": 6.0,
        "macros_sugar_g": 9.0,
        "macros_fat_g": 7.0,
        "macros_protein_g": 11.0,
        # 1255.2 / 4.184
        "macros_calories": pytest.approx(300.0),
    }
    assert {name: meal[name] for name in expected} == expected
    bare = {**BASE, "type": "food", "nutrition": {"carbohydrate": {"net": 12, "units": "grams"}}}
    (meal,) = one_row(rows, "nutrition", records("food", bare))["meals"]
    assert (meal["macros_carbohydrates_g"], meal["macros_fiber_g"]) == (12.0, None)
    assert (meal["type"], meal["macros_calories"]) == ("unknown", None)


@pytest.mark.parametrize(
    ("unit", "value", "millilitres"),
    [
        ("milliliters", 250, 250.0),
        ("liters", 0.5, 500.0),
        # 29.5735295625 mL each
        ("ounces", 8, 236.5882365),
        ("gallons", 1, 3785.411784),
    ],
)
def test_water(rows: Any, unit: str, value: float, millilitres: float) -> None:
    water = {**BASE, "type": "water", "amount": {"units": unit, "value": value}}
    row = one_row(rows, "nutrition", records("food", water))
    (drink,) = row["drink_samples"]
    assert drink["drink_volume"] == pytest.approx(millilitres)
    assert (drink["drink_name"], drink["drink_unit"]) == ("water", "milliliter")
    assert row["meals"] is None


def test_an_activity(rows: Any) -> None:
    walk = {
        **BASE,
        "type": "physicalActivity",
        "activityType": "handCycling",
        "name": "Along the river",
        "reportedIntensity": "medium",
        "duration": {"units": "minutes", "value": 40},
        "distance": {"units": "miles", "value": 2},
        "energy": {"units": "kilocalories", "value": 210},
        "step": {"count": 12},
    }
    row = one_row(rows, "activity", records("activities", walk))
    expected = {
        "metadata_name": "Along the river",
        "metadata_type": "hand_biking",
        "local_date": date(2026, 11, 19),
        "start_at": AT,
        "local_start_at": LOCAL,
        "end_at": AT + timedelta(minutes=40),
        "local_end_at": LOCAL + timedelta(minutes=40),
        "active_durations_activity_seconds": 2400.0,
        "active_durations_moderate_intensity_seconds": 2400.0,
        "active_durations_low_intensity_seconds": None,
        # 2 × 1609.344
        "distance_summary_distance_meters": 3218.688,
        "distance_summary_steps": 12,
        "calories_total_burned_calories": 210.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert set(ACTIVITIES.values()) <= set(ACTIVITY_TYPE.names.values())


def test_an_activity_of_a_phone_in_hours_kilometres_and_kilojoules(rows: Any) -> None:
    run = {
        **BASE,
        "id": "run-2",
        "time": "2026-11-18T06:15:00.000Z",
        "deviceTime": "2026-11-18T07:15:00",
        "timezoneOffset": 60,
        "type": "physicalActivity",
        "activityType": "running",
        "reportedIntensity": "high",
        "duration": {"units": "hours", "value": 1.25},
        "distance": {"units": "kilometers", "value": 12.5},
        "energy": {"units": "kilojoules", "value": 3347.2},
    }
    row = one_row(rows, "activity", records("activities", run))
    expected = {
        "metadata_name": None,
        "metadata_type": "running",
        "local_date": date(2026, 11, 18),
        "start_at": datetime(2026, 11, 18, 6, 15, tzinfo=UTC),
        "local_end_at": naive("2026-11-18T08:30:00"),
        # 1.25 × 3600
        "active_durations_activity_seconds": 4500.0,
        "active_durations_vigorous_intensity_seconds": 4500.0,
        "active_durations_moderate_intensity_seconds": None,
        "distance_summary_distance_meters": 12500.0,
        "distance_summary_steps": None,
        # 3347.2 / 4.184
        "calories_total_burned_calories": pytest.approx(800.0),
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("resource", "table", "good", "broken", "reason"),
    [
        ("glucose", "body", CBG, {"time": "2026-13-45T99:00:00Z"}, "time"),
        ("glucose", "body", CBG, {"time": "2026-11-19T21:30:05"}, "time"),
        ("glucose", "body", CBG, {"value": None}, "value"),
        ("glucose", "body", CBG, {"value": "Low"}, "value"),
        ("glucose", "body", CBG, {"units": "furlongs"}, "units"),
        ("insulin", "body", {**BASE, "type": "bolus", "normal": 1}, {"normal": None}, "dose"),
        (
            "wizards",
            "nutrition",
            {**BASE, "type": "wizard", "carbInput": 4},
            {"carbUnits": "exchanges"},
            "carbUnits",
        ),
        (
            "activities",
            "activity",
            {
                **BASE,
                "type": "physicalActivity",
                "duration": {"units": "minutes", "value": 40},
            },
            {"duration": {"units": "minutes", "value": 1e300}},
            "duration",
        ),
    ],
)
def test_a_broken_record_is_quarantined_and_the_next_one_kept(
    rows: Any,
    resource: str,
    table: str,
    good: dict[str, Any],
    broken: dict[str, Any],
    reason: str,
) -> None:
    found = records(resource, {**good, "deviceId": "other", **broken}, good)
    result = rows("tidepool", table, found)
    assert result.rejected["record_id"].to_list() == [found[0].record_id]
    assert reason in result.rejected["reason"][0]
    (row,) = result.rows.to_dicts()
    assert row["source_record_ids"] == [found[1].record_id]


# --- asking

CREDENTIALS: dict[str, object] = {
    "email": "somebody@example.org",
    "password": "hidden",
    "user_id": "u1",
    "session": "s1",
}


class Api:
    """Answers of the API; remembers what was asked for."""

    def __init__(self, uploads: list[dict[str, object]] | None = None, refuse: int = 0) -> None:
        self.uploads = uploads or []
        self.refuse = refuse
        self.asked: list[tuple[str, dict[str, str], str | None]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        params = dict(request.url.params)
        session = request.headers.get("x-tidepool-session-token")
        self.asked.append((request.url.path, params, session))
        if request.url.path == "/auth/login":
            headers = {"x-tidepool-session-token": "s2"}
            return httpx.Response(200, json={"userid": "u1"}, headers=headers)
        if self.refuse:
            self.refuse -= 1
            return httpx.Response(401, json={"code": 401, "reason": "no"})
        return httpx.Response(200, json=self.uploads if params["type"] == "upload" else [])


def fetched(
    client_for: Any,
    api: Api,
    state: dict[str, object],
    window: Window | None = None,
    save: Callable[[], None] = lambda: None,
) -> list[Page]:
    async def run() -> list[Page]:
        async with client_for(api) as client:
            connection = Connection("u", {}, dict(CREDENTIALS), state, None, save)
            asked = window or Window(NOW.date(), NOW.date(), NOW)
            return [page async for page in fetch(client, connection, asked)]

    return asyncio.run(run())


def test_the_window_covers_every_clock_and_every_type_is_asked_for_once(client_for: Any) -> None:
    api = Api()
    fetched(client_for, api, {}, Window(date(2026, 11, 1), date(2026, 11, 5), NOW))
    assert {path for path, _, _ in api.asked} == {"/data/u1"}
    assert {session for _, _, session in api.asked} == {"s1"}
    dates = {"startDate": "2026-10-31T10:00:00.000Z", "endDate": "2026-11-06T12:00:00.000Z"}
    assert all(params.items() >= dates.items() for _, params, _ in api.asked)
    types = [one for _, params, _ in api.asked for one in params["type"].split(",")]
    assert Counter(types) == dict.fromkeys(
        (
            *("cbg", "smbg", "bloodKetone", "bolus", "insulin", "wizard", "food", "water"),
            "physicalActivity",
        ),
        1,
    )


def test_a_new_upload_is_read_whole_once_whatever_days_it_is_of(client_for: Any) -> None:
    state: dict[str, object] = {}
    fetched(client_for, Api(), state)
    assert state == {"uploads_since": "2026-11-19T12:00:00.000Z"}
    uploads: list[dict[str, object]] = [
        {"type": "upload", "uploadId": "meter", "dataSetType": "normal"},
        {"type": "upload", "uploadId": "sensor", "dataSetType": "continuous"},
    ]
    api = Api(uploads)
    fetched(client_for, api, state)
    whole = [params for _, params, _ in api.asked if "uploadId" in params]
    assert {params["uploadId"] for params in whole} == {"meter"}
    assert not any("startDate" in params for params in whole)
    assert len(whole) == len(TIDEPOOL.resources)
    again = Api(uploads)
    fetched(client_for, again, state)
    assert not any("uploadId" in params for _, params, _ in again.asked)


def test_a_session_that_is_refused_is_begun_anew_once(client_for: Any) -> None:
    saved: list[int] = []
    api = Api(refuse=1)
    fetched(client_for, api, {}, save=lambda: saved.append(1))
    assert [path for path, _, _ in api.asked[:3]] == ["/data/u1", "/auth/login", "/data/u1"]
    assert {session for path, _, session in api.asked[2:]} == {"s2"}
    assert saved == [1]
    with pytest.raises(TransientError, match="just begun"):
        fetched(client_for, Api(refuse=2), {})


# --- over real HTTP


@pytest.fixture
def there(at_sandbox: AtSandbox) -> Workspace:
    """A workspace that asks the sandbox without waiting."""
    return at_sandbox("tidepool", PEOPLE)


def connected(there: Workspace, person: str, reference: str) -> User:
    values = {"email": PEOPLE[person].email, "password": PEOPLE[person].password}
    return connect(there, TIDEPOOL, values, reference_id=reference)


@pytest.mark.slow
@pytest.mark.parametrize("person", list(PEOPLE))
def test_a_life_with_faults_ends_as_one_without(
    there: Workspace, sandbox: SandboxProcess, clock: StandingClock, person: str
) -> None:
    # The same account for two of our references: two users, who must end alike.
    calm, rough = connected(there, person, "calm"), connected(there, person, "rough")
    assert calm.user_id != rough.user_id

    def passed(**parts: float) -> None:
        sandbox.set_clock(clock.advance(**parts))

    def failed() -> str:
        ((error_class, _),) = poll_once(there, rough).failures.values()
        return error_class

    def fine(*users: User, days: int = 0) -> None:
        for user in users:
            assert poll_once(there, user, days).failures == {}

    fine(calm, days=10)
    # The session ends in the middle of the answers: it is begun anew and the same asked for again.
    sandbox.fault("401", path="/tidepool/data/", after=3)
    fine(rough, days=10)
    for _ in range(4):
        # Over the Sunday on which the week is uploaded.
        passed(hours=20)
        change_session(sandbox, "tidepool", person, "expire")
        fine(calm, rough)
    passed(hours=1)
    fine(calm)
    sandbox.fault("500", path="/tidepool/data/", after=2, times=3)
    assert failed() == "transient"
    sandbox.clear_faults()
    sandbox.fault("429", path="/tidepool/data/", after=2)
    assert failed() == "rate_limited"
    locked = there.registry.load_states([rough.user_id])[rough.user_id].locked_until
    assert locked is not None
    clock.at = locked + timedelta(seconds=1)
    fine(rough)
    expected = rows_of(there, calm)
    assert all(expected[table] for table in ("body", "nutrition", "activity"))
    assert rows_of(there, rough) == expected
    # What was uploaded last is of days that no window reached back to.
    first = min(row["local_date"] for row in expected["body"])
    days = {row["local_date"] for row in expected["body"]}
    assert {first + timedelta(days=n) for n in range(8)} <= days

    change_session(sandbox, "tidepool", person, "expire")
    change_session(sandbox, "tidepool", person, "change_password")
    assert failed() == "not_connected"
    assert rows_of(there, rough) == expected


def test_a_wrong_password_connects_nobody(there: Workspace, sandbox: SandboxProcess) -> None:
    with pytest.raises(NotConnectedError, match="password is wrong"):
        connect(there, TIDEPOOL, {"email": "jun@sandbox.invalid", "password": "guessed"})
    assert there.registry.find_users(provider="tidepool") == []


# --- bodies of unknown origin


def test_a_body_of_several_types_is_read_whole_and_an_unknown_field_is_told() -> None:
    body = [
        {**CBG, "sparkle": 1},
        {**BASE, "type": "bolus", "normal": 1, "subType": "normal"},
        {**BASE, "type": "wizard", "carbInput": 10, "bolus": "b"},
        {**BASE, "type": "basal", "rate": 0.6, "duration": 3_600_000},
    ]
    found = inspect_body(TIDEPOOL, json.dumps(body).encode(), name="body", now=NOW)
    assert set(found.tables) == {"body", "nutrition"}
    assert (found.rejected, found.unknown_fields) == ([], ["sparkle"])
    (row,) = found.tables["body"]
    assert isinstance(row[GLUCOSE], list)
    assert isinstance(row[DOSES], list)
    alone = inspect_body(TIDEPOOL, json.dumps(CBG).encode(), name="body", now=NOW)
    assert alone.tables["body"]


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (json.dumps([{**BASE, "type": "basal"}]).encode(), BadPayloadError, "holds basal"),
        (b'{"userid":"u","emails":[]}', BadPayloadError, "login answer"),
        (b'{"code":401,"reason":"no"}', NotConnectedError, "connect this user again"),
        (b'{"code":500,"reason":"no"}', BadPayloadError, "refusal"),
        (b"<html></html>", BadPayloadError, "web page"),
        (b'[{"type":"cbg",}]', BadPayloadError, "broken"),
        (b'[{"sgv":1}]', UsageError, "--resource"),
    ],
)
def test_what_is_no_readings_says_so(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect_body(TIDEPOOL, body, name="body", now=NOW)


# --- recorded at Tidepool


def recorded(corpus: Path, name: str, folder: str = "tidepool") -> Any:
    (file,) = (corpus / folder).glob(f"*{name}")
    return inspect_body(TIDEPOOL, file.read_bytes(), name=file.name, now=NOW)


def samples(found: Any, column: str, table: str = "body") -> list[dict[str, Any]]:
    return [one for row in found.tables.get(table, []) for one in row[column] or []]


@pytest.mark.corpus
def test_a_recorded_pump_is_counted_to_the_record(corpus: Path) -> None:
    found = recorded(corpus, "device-Omnipod.json")
    assert (found.rejected, found.unknown_fields) == ([], [])
    sticks = samples(found, GLUCOSE)
    assert len(sticks) == 78
    # 2019-07-31T15:23:18Z, six hours behind: 5.162195631672346 mmol/L were 93 mg/dL.
    newest = max(sticks, key=lambda one: one["timestamp"])
    assert newest["timestamp"] == datetime(2019, 7, 31, 15, 23, 18, tzinfo=UTC)
    assert newest["local_timestamp"] == naive("2019-07-31T09:23:18")
    assert newest["blood_glucose_mg_per_dl"] == pytest.approx(93, abs=0.001)
    assert newest["sample_kind"] == "manual"
    assert len(samples(found, DOSES)) == 109
    meals = samples(found, "meals", "nutrition")
    assert all(meal["macros_carbohydrates_g"] > 0 for meal in meals)
    (breakfast,) = [
        meal for meal in meals if meal["local_timestamp"] == naive("2019-07-31T09:23:18")
    ]
    assert breakfast["macros_carbohydrates_g"] == 45.0


@pytest.mark.corpus
def test_recorded_readings_of_dexcom_are_what_the_sensor_showed(corpus: Path) -> None:
    found = recorded(corpus, "service-dexcomapi.json", "dexcom_v3")
    told = [
        (s["timestamp"], s["local_timestamp"], round(s["blood_glucose_mg_per_dl"], 3))
        for s in samples(found, GLUCOSE)
    ]
    assert told == [
        (datetime(2019, 7, 22, 15, 12, 37, tzinfo=UTC), naive("2019-07-22T11:12:37"), 150.0),
        (datetime(2019, 7, 22, 15, 17, 36, tzinfo=UTC), naive("2019-07-22T11:17:36"), 149.0),
    ]


@pytest.mark.corpus
def test_recorded_values_of_one_moment_and_a_ketone(corpus: Path) -> None:
    found = recorded(corpus, "smbg_output.json")
    sticks = samples(found, GLUCOSE)
    twins = [s["native_value"] for s in sticks if s["timestamp"].year == 2015]
    assert (len(sticks), sorted(twins)) == (4, [4.8, 4.9])
    (ketone,) = samples(recorded(corpus, "type-bloodKetone.json"), "ketone_ketone_samples")
    assert ketone["timestamp"] == datetime(2015, 7, 30, 4, 27, tzinfo=UTC)
    assert ketone["local_timestamp"] == naive("2015-07-29T21:27:00")
    # 0.06 × 10.41
    assert ketone["ketone_mg_per_dl"] == pytest.approx(0.6246)
