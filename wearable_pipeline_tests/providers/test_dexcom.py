"""Dexcom's records as rows; expected values are worked out by hand from the records below."""

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.errors import BadPayloadError, NotConnectedError, UsageError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Connection, Page, Record, Window
from wearable_pipeline.providers.dexcom import LONGEST_QUERY, TRENDS, fetch, identify
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import connected, contents, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as poll_once

DEXCOM = get_provider("dexcom")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GLUCOSE = "glucose_blood_glucose_samples"
DOSES = "measurements_measurements"

EGV: dict[str, Any] = {
    "recordId": "egv-1",
    "systemTime": "2026-11-20T04:30:05Z",
    "displayTime": "2026-11-19T23:30:05-05:00",
    "transmitterId": "abc123",
    "transmitterTicks": 85273,
    "value": 149,
    "status": None,
    "trend": "fortyFiveDown",
    "trendRate": -1.3,
    "unit": "mg/dL",
    "rateUnit": "mg/dL/min",
    "displayDevice": "iOS",
    "transmitterGeneration": "g7",
    "displayApp": "G7",
}
EVENT: dict[str, Any] = {
    "recordId": "event-1",
    "systemTime": "2026-11-19T17:00:00Z",
    "displayTime": "2026-11-19T12:00:00-05:00",
    "eventType": "carbs",
    "eventSubType": None,
    "eventStatus": "created",
    "value": "45",
    "unit": "grams",
    "transmitterId": "abc123",
    "transmitterGeneration": "g7",
    "displayDevice": "iOS",
}
CALIBRATION: dict[str, Any] = {
    "recordId": "calibration-1",
    "systemTime": "2026-11-19T17:00:00",
    "displayTime": "2026-11-19T22:45:00",
    "transmitterId": "abc123",
    "value": 101,
    "unit": "mg/dL",
    "displayDevice": "receiver",
    "transmitterGeneration": "g6",
}


def answer(resource: str, *found: object) -> dict[str, object]:
    return {
        "recordType": resource.removesuffix("s"),
        "recordVersion": "3.0",
        "userId": "person",
        "records": list(found),
    }


def records(resource: str, *found: object, timezone: str | None = None) -> list[Record]:
    body = json.dumps(answer(resource, *found)).encode()
    return list(DEXCOM.resource(resource).split(Page(resource, body, NOW, {"timezone": timezone})))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("dexcom", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def one_sample(rows: Any, *found: object, resource: str = "egvs", **more: Any) -> dict[str, Any]:
    (sample,) = one_row(rows, "body", records(resource, *found, **more))[GLUCOSE]
    return dict(sample)


def test_a_reading_of_a_phone(rows: Any) -> None:
    row = one_row(rows, "body", records("egvs", EGV))
    expected = {
        # Half past eleven at night in New York.
        "local_date": date(2026, 11, 19),
        "utc_offset_seconds": -18000,
        "timezone": None,
        "tz_source": "provider",
        "device_manufacturer": "Dexcom",
        "device_name": "Dexcom G7",
    }
    assert {name: row[name] for name in expected} == expected
    (sample,) = row[GLUCOSE]
    assert sample == {
        "timestamp": at("2026-11-20T04:30:05+00:00"),
        "local_timestamp": naive("2026-11-19T23:30:05"),
        "blood_glucose_mg_per_dl": 149.0,
        "glucose_level_flag": None,
        "trend_arrow": "falling",
        "native_value": 149.0,
        "native_unit": "mg/dL",
        "sample_kind": "cgm",
        "out_of_range": None,
        "native_trend": "fortyFiveDown",
        "sensor_status": None,
        "device_id": "abc123",
        "occurrence": None,
    }


@pytest.mark.parametrize(
    ("system", "display", "instant", "local", "source"),
    [
        # A receiver five hours behind UTC, then one twelve seconds fast in Nepal.
        ("2026-11-19T17:00:00", "2026-11-19T12:00:00", "17:00:00", "12:00:00", "provider"),
        ("2026-11-19T17:00:00", "2026-11-19T22:45:12", "17:00:00", "22:45:00", "inferred"),
        # Without seconds, with fractions, an offset without a colon, one on both.
        ("2026-11-19T17:00Z", "2026-11-19T18:00+01:00", "17:00:00", "18:00:00", "provider"),
        (
            "2026-11-19T17:00:00.25Z",
            "2026-11-19T18:00:00+0100",
            "17:00:00.25",
            "18:00:00.25",
            "provider",
        ),
        (
            "2026-11-19T18:00:00+01:00",
            "2026-11-19T18:00:00+01:00",
            "17:00:00",
            "18:00:00",
            "provider",
        ),
        # A display that writes its local time as if it were UTC.
        ("2026-11-19T17:00:00Z", "2026-11-19T12:00:00Z", "17:00:00", "12:00:00", "provider"),
        # A display that was reset to another year, and none: nobody knows where that was.
        ("2026-11-19T17:00:00", "2009-01-01T00:00:00", "17:00:00", None, "unknown"),
        ("2026-11-19T17:00:00Z", None, "17:00:00", None, "unknown"),
        ("2026-11-19T17:00:00Z", "soon", "17:00:00", None, "unknown"),
    ],
)
def test_where_a_display_was(
    rows: Any, system: str, display: str | None, instant: str, local: str | None, source: str
) -> None:
    found = records("egvs", {**EGV, "systemTime": system, "displayTime": display})
    row = one_row(rows, "body", found)
    (sample,) = row[GLUCOSE]
    assert sample["timestamp"] == at(f"2026-11-19T{instant}+00:00")
    assert sample["local_timestamp"] == (naive(f"2026-11-19T{local}") if local else None)
    assert (row["tz_source"], row["local_date"]) == (source, date(2026, 11, 19))


def test_a_display_nobody_can_place_is_where_the_person_lives(rows: Any) -> None:
    found = records(
        "egvs",
        {**EGV, "systemTime": "2026-11-19T23:30:00Z", "displayTime": None},
        timezone="Europe/Berlin",
    )
    row = one_row(rows, "body", found)
    assert row["local_date"] == date(2026, 11, 20)
    assert (row["timezone"], row["tz_source"]) == ("Europe/Berlin", "profile")
    assert row[GLUCOSE][0]["local_timestamp"] == naive("2026-11-20T00:30:00")


def test_the_day_of_a_record_is_that_of_its_local_time(rows: Any) -> None:
    # The clock went back in Berlin at one o'clock UTC: two o'clock came twice.
    found = records(
        "egvs",
        {**EGV, "recordId": "a", "systemTime": "2026-10-24T22:30:00Z",
         "displayTime": "2026-10-25T00:30:00+02:00"},
        {**EGV, "recordId": "b", "systemTime": "2026-10-25T00:30:00Z",
         "displayTime": "2026-10-25T02:30:00+02:00"},
        {**EGV, "recordId": "c", "systemTime": "2026-10-25T01:30:00Z",
         "displayTime": "2026-10-25T02:30:00+01:00"},
    )  # fmt: skip
    row = one_row(rows, "body", found)
    assert row["local_date"] == date(2026, 10, 25)
    assert [s["local_timestamp"] for s in row[GLUCOSE]] == [
        naive("2026-10-25T00:30:00"),
        naive("2026-10-25T02:30:00"),
        naive("2026-10-25T02:30:00"),
    ]


@pytest.mark.parametrize(
    ("value", "status", "glucose", "beyond", "flag"),
    [
        (39, "low", 39.0, "low", "low"),
        (39, None, 39.0, "low", "low"),
        (40, None, 40.0, None, None),
        (400, "ok", 400.0, None, None),
        (401, None, 401.0, "high", "high"),
        (401, "high", 401.0, "high", "high"),
        (None, "low", None, "low", "low"),
        (None, "high", None, "high", "high"),
        # A word about a value inside the range is no claim that the sensor ended there.
        (250, "high", 250.0, None, "high"),
    ],
)
def test_values_beyond_the_range_of_the_sensor(
    rows: Any,
    value: int | None,
    status: str | None,
    glucose: float | None,
    beyond: str | None,
    flag: str | None,
) -> None:
    sample = one_sample(rows, {**EGV, "value": value, "status": status})
    assert sample["blood_glucose_mg_per_dl"] == glucose
    assert sample["native_value"] == glucose
    assert (sample["out_of_range"], sample["glucose_level_flag"]) == (beyond, flag)


@pytest.mark.parametrize(
    ("unit", "value", "glucose", "native"),
    [
        (None, 120, 120.0, "mg/dL"),
        ("unknown", 120, 120.0, "mg/dL"),
        # 5 mmol/L × 18.0156
        ("mmol/L", 5, 90.078, "mmol/L"),
    ],
)
def test_units(rows: Any, unit: str | None, value: float, glucose: float, native: str) -> None:
    sample = one_sample(rows, {**EGV, "value": value, "unit": unit})
    assert sample["blood_glucose_mg_per_dl"] == pytest.approx(glucose)
    assert (sample["native_value"], sample["native_unit"]) == (value, native)


@pytest.mark.parametrize(
    ("trend", "arrow"),
    [
        ("doubleUp", "rising_quickly"),
        ("singleUp", "rising_quickly"),
        ("flat", "flat"),
        ("notComputable", "unknown"),
        ("none", "unknown"),
        (None, None),
    ],
)
def test_trends(rows: Any, trend: str | None, arrow: str | None) -> None:
    sample = one_sample(rows, {**EGV, "trend": trend})
    assert (sample["trend_arrow"], sample["native_trend"]) == (arrow, trend)
    assert len(TRENDS) == 7


def test_a_calibration_is_a_finger_stick(rows: Any) -> None:
    sample = one_sample(rows, CALIBRATION, resource="calibrations")
    assert sample["timestamp"] == at("2026-11-19T17:00:00+00:00")
    # Five hours and three quarters ahead.
    assert sample["local_timestamp"] == naive("2026-11-19T22:45:00")
    assert (sample["blood_glucose_mg_per_dl"], sample["sample_kind"]) == (101.0, "fingerstick")
    assert sample["device_id"] is None


def test_carbohydrates_are_a_meal(rows: Any) -> None:
    row = one_row(rows, "nutrition", records("events", EVENT))
    assert row["local_date"] == date(2026, 11, 19)
    (meal,) = row["meals"]
    assert meal["id"] == "event-1"
    assert meal["timestamp"] == at("2026-11-19T17:00:00+00:00")
    assert meal["local_timestamp"] == naive("2026-11-19T12:00:00")
    assert (meal["macros_carbohydrates_g"], meal["macros_calories"]) == (45.0, None)
    assert (meal["type"], meal["quantity_amount"]) == ("unknown", None)


def test_two_meals_of_a_day_are_two_and_each_has_its_own_time(rows: Any) -> None:
    late = {
        **EVENT,
        "recordId": "event-2",
        "systemTime": "2026-11-20T03:45:30Z",
        "displayTime": "2026-11-19T22:45:30-05:00",
        "value": "12.5",
    }
    row = one_row(rows, "nutrition", records("events", late, EVENT))
    # The second was on the 20th in UTC.
    assert row["local_date"] == date(2026, 11, 19)
    meals = sorted(row["meals"], key=lambda meal: str(meal["timestamp"]))
    assert [
        (meal["id"], meal["local_timestamp"], meal["macros_carbohydrates_g"]) for meal in meals
    ] == [
        ("event-1", naive("2026-11-19T12:00:00"), 45.0),
        ("event-2", naive("2026-11-19T22:45:30"), 12.5),
    ]


@pytest.mark.parametrize(
    ("kind", "stored"), [("fastActing", "rapid"), ("longActing", "long"), (None, None)]
)
def test_insulin(rows: Any, kind: str | None, stored: str | None) -> None:
    dose = {**EVENT, "eventType": "insulin", "eventSubType": kind, "value": "4.5", "unit": "units"}
    (measured,) = one_row(rows, "body", records("events", dose))[DOSES]
    assert (measured["insulin_units"], measured["insulin_type"]) == (4.5, stored)
    assert measured["measurement_time"] == at("2026-11-19T17:00:00+00:00")


def test_notes_and_meter_values_are_measurements_of_the_body(rows: Any) -> None:
    note = {**EVENT, "eventType": "notes", "value": " felt dizzy ", "unit": None}
    (noted,) = one_row(rows, "body", records("events", note))[DOSES]
    assert noted["user_notes"] == "felt dizzy"
    meter = {**EVENT, "eventType": "bloodGlucose", "value": "118", "unit": "mg/dL"}
    sample = one_sample(rows, meter, resource="events")
    assert (sample["blood_glucose_mg_per_dl"], sample["sample_kind"]) == (118.0, "manual")


@pytest.mark.parametrize(
    ("intensity", "column"),
    [("light", "low"), ("medium", "moderate"), ("heavy", "vigorous"), (None, None)],
)
def test_exercise_is_an_activity_of_its_length(
    rows: Any, intensity: str | None, column: str | None
) -> None:
    exercise = {
        **EVENT, "eventType": "exercise", "eventSubType": intensity, "value": "30",
        "unit": "minutes",
    }  # fmt: skip
    row = one_row(rows, "activity", records("events", exercise))
    expected = {
        "metadata_summary_id": "event-1",
        "metadata_type": "other",
        "metadata_upload_type": "manual",
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-19T17:00:00+00:00"),
        "local_start_at": naive("2026-11-19T12:00:00"),
        "end_at": at("2026-11-19T17:30:00+00:00"),
        "local_end_at": naive("2026-11-19T12:30:00"),
        "utc_offset_seconds": -18000,
        "active_durations_activity_seconds": 1800.0,
    }
    assert {name: row[name] for name in expected} == expected
    told = {
        one: row[f"active_durations_{one}_intensity_seconds"]
        for one in ("low", "moderate", "vigorous")
    }
    assert told == {one: 1800.0 if one == column else None for one in told}


def test_health_is_kept_and_goes_nowhere(rows: Any) -> None:
    health = {**EVENT, "eventType": "health", "eventSubType": "illness", "value": "1", "unit": None}
    found = records("events", health)
    assert [record.record_id for record in found] == ["event-1"]
    for table in ("body", "nutrition", "activity"):
        result = rows("dexcom", table, found)
        assert result.rejected.is_empty()
        assert not any(row.get(DOSES) or row.get("meals") for row in result.rows.to_dicts())


def test_a_corrected_event_replaces_the_first_and_a_deleted_one_goes(rows: Any) -> None:
    updated = records("events", {**EVENT, "value": "60", "eventStatus": "updated"})
    result = rows("dexcom", "nutrition", records("events", EVENT), updated)
    (row,) = result.rows.to_dicts()
    assert [meal["macros_carbohydrates_g"] for meal in row["meals"]] == [60.0]
    deleted = records("events", {**EVENT, "eventStatus": "deleted"})
    assert deleted[0].is_deleted
    assert rows("dexcom", "nutrition", records("events", EVENT), deleted).rows.is_empty()


@pytest.mark.parametrize(
    ("resource", "good", "broken", "reason"),
    [
        ("egvs", EGV, {"systemTime": "2026-13-45T99:00:00Z"}, "systemTime"),
        ("egvs", EGV, {"systemTime": None}, "systemTime"),
        ("egvs", EGV, {"value": None}, "no glucose value"),
        ("egvs", EGV, {"value": "Low"}, "value"),
        ("calibrations", CALIBRATION, {"value": None}, "no glucose value"),
        ("events", EVENT, {"value": "a lot"}, "no number"),
        ("events", EVENT, {"value": "-4"}, "no number"),
        ("events", EVENT, {"value": "nan"}, "no number"),
        ("events", EVENT, {"eventType": "exercise", "value": "1e300"}, "no number"),
        ("events", EVENT, {"unit": "ounces"}, "unit"),
        ("events", EVENT, {"systemTime": "later"}, "systemTime"),
    ],
)
def test_a_broken_record_is_quarantined_and_the_next_one_kept(
    rows: Any,
    resource: str,
    good: dict[str, Any],
    broken: dict[str, Any],
    reason: str,
) -> None:
    table = "nutrition" if resource == "events" else "body"
    found = records(resource, {**good, "recordId": "broken", **broken}, good)
    result = rows("dexcom", table, found)
    assert result.rejected["record_id"].to_list() == ["broken"]
    assert reason in result.rejected["reason"][0]
    (row,) = result.rows.to_dicts()
    assert row["source_record_ids"] == [good["recordId"]]


def test_a_record_without_an_id_is_known_by_its_content() -> None:
    bare = {key: value for key, value in EGV.items() if key != "recordId"}
    first, again, other = (
        one for found in (bare, bare, {**bare, "value": 150}) for one in records("egvs", found)
    )
    assert first.record_id == again.record_id != other.record_id


# --- fetching

SINCE = "2026-11-20T10:00:00Z"


class Api:
    """Answers of the API; remembers what was asked for."""

    def __init__(self, **ranges: object) -> None:
        self.ranges = ranges
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.asked.append((name, dict(request.url.params)))
        if name == "dataRange":
            return httpx.Response(200, json={"userId": "person", **self.ranges})
        return httpx.Response(200, json=answer(name))


class AtBase:
    """A client for paths."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        return await self.client.request(method, f"https://api.example{url}", **more)


def fetched(client_for: Any, api: Api, window: Window, state: dict[str, object]) -> list[Page]:
    async def run() -> list[Page]:
        async with client_for(api) as client:
            connection = Connection("u", {}, {}, state, None, lambda: None)
            return [page async for page in fetch(AtBase(client), connection, window)]

    return asyncio.run(run())


def test_the_window_covers_every_clock_and_is_asked_for_in_utc(client_for: Any) -> None:
    api = Api()
    window = Window(date(2026, 11, 1), date(2026, 11, 5), NOW)
    pages = fetched(client_for, api, window, {})
    dates = {"startDate": "2026-10-31T10:00:00", "endDate": "2026-11-06T12:00:00"}
    assert api.asked == [(name, dates) for name in ("egvs", "events", "calibrations")]
    assert [page.resource for page in pages] == ["egvs", "events", "calibrations"]


def test_the_longest_window_is_one_the_provider_takes(client_for: Any) -> None:
    assert DEXCOM.max_window is not None
    api = Api()
    start = date(2026, 10, 1)
    window = Window(start, start + DEXCOM.max_window - timedelta(days=1), NOW)
    fetched(client_for, api, window, {})
    assert len(api.asked) == 3
    for _, asked in api.asked:
        length = naive(asked["endDate"]) - naive(asked["startDate"])
        assert timedelta(days=28) < length <= LONGEST_QUERY


def test_what_came_late_is_asked_for_as_far_back_as_it_goes(client_for: Any) -> None:
    state: dict[str, object] = {}
    window = Window(date(2026, 11, 20), date(2026, 11, 20), NOW)
    first = Api()
    fetched(client_for, first, window, state)
    # Nobody has asked before: nothing can have come since.
    assert [name for name, _ in first.asked] == ["egvs", "events", "calibrations"]
    assert state == {"synced_at": "2026-11-20T11:00:00Z"}

    state["synced_at"] = SINCE
    late = Api(
        egvs={"start": {"systemTime": "2026-10-10T08:00:00"}},
        events={"start": {"systemTime": "2026-11-20T09:00:00Z"}},
        calibrations=None,
    )
    fetched(client_for, late, window, state)
    assert late.asked == [
        ("dataRange", {"lastSyncTime": SINCE}),
        # The forty-two days since, in parts of thirty, newest first.
        ("egvs", {"startDate": "2026-10-22T12:00:00", "endDate": "2026-11-21T12:00:00"}),
        ("egvs", {"startDate": "2026-10-10T08:00:00", "endDate": "2026-10-22T12:00:00"}),
        ("events", {"startDate": "2026-11-19T10:00:00", "endDate": "2026-11-21T12:00:00"}),
        ("calibrations", {"startDate": "2026-11-19T10:00:00", "endDate": "2026-11-21T12:00:00"}),
    ]


def test_history_moves_no_mark_of_what_is_new(client_for: Any) -> None:
    state: dict[str, object] = {"synced_at": SINCE}
    api = Api()
    fetched(client_for, api, Window(date(2026, 9, 1), date(2026, 9, 20), NOW), state)
    assert state == {"synced_at": SINCE}
    assert "dataRange" not in {name for name, _ in api.asked}


def test_who_it_is(client_for: Any) -> None:
    async def run() -> str:
        async with client_for(Api()) as client:
            return (await identify(AtBase(client), {})).account_id

    assert asyncio.run(run()) == "person"


@pytest.mark.slow
def test_a_week_a_receiver_held_back_arrives_whole(
    tmp_path: Path, clock: StandingClock, hurried_client: None
) -> None:
    clock.at = NOW
    with SandboxProcess(now=NOW) as running, served(tmp_path, running, clock) as there:
        user = connected(there, "dexcom", "ivo")

        def days() -> dict[date, int]:
            rows = contents(there.workspace, [user])["body"]
            return {row["local_date"]: len(row[GLUCOSE] or []) for row in rows}  # type: ignore[misc,arg-type]

        assert poll_once(there.workspace, user, 12).failures == {}
        # It is Friday, and the receiver was last plugged in on Monday the 16th at nine o'clock UTC.
        assert max(days()) == date(2026, 11, 16)
        # Monday the 23rd, an hour after it was: the window itself reaches back to Friday.
        running.set_clock(clock.advance(days=2, hours=22))
        assert poll_once(there.workspace, user).failures == {}
        found = days()
        assert {date(2026, 11, day) for day in range(16, 24)} <= set(found)
        # Whole days but for the half hour a new sensor takes.
        assert all(found[date(2026, 11, day)] >= 280 for day in range(17, 23))


# --- bodies of unknown origin

KINDS: dict[str, dict[str, Any]] = {"egvs": EGV, "events": EVENT, "calibrations": CALIBRATION}


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("form", ["answer", "list", "alone"])
def test_a_body_is_recognised_as_what_it_is_alone(name: str, form: str) -> None:
    whole: object = {
        "answer": answer(name, KINDS[name]),
        "list": [KINDS[name]],
        "alone": KINDS[name],
    }[form]
    recognised = [r.name for r in DEXCOM.resources if r.recognise and r.recognise(whole)]
    assert recognised == [name]
    found = inspect_body(DEXCOM, json.dumps(whole).encode(), name="body", now=NOW)
    assert found.unknown_fields == []
    assert found.rejected == []
    assert found.tables


def test_an_empty_answer_is_no_error_and_an_unknown_field_is_told() -> None:
    empty = inspect_body(DEXCOM, json.dumps(answer("egvs")).encode(), name="body", now=NOW)
    assert (empty.tables, empty.rejected) == ({}, [])
    body = json.dumps(answer("egvs", {**EGV, "sensorAge": {"days": 3}})).encode()
    found = inspect_body(DEXCOM, body, name="body", now=NOW)
    assert found.unknown_fields == ["sensorAge.days"]
    assert found.tables["body"]


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        (b'{"recordType":"dataRange","userId":"u","egvs":null}', BadPayloadError, "range of data"),
        (b'{"recordType":"alert","records":[]}', BadPayloadError, "alerts"),
        (b'{"recordType":"device","records":[]}', BadPayloadError, "devices"),
        (
            b'{"fault":{"faultstring":"x","detail":{"errorcode":"oauth.v2.QuotaViolation"}}}',
            BadPayloadError,
            "refusal",
        ),
        (
            b'{"fault":{"detail":{"errorcode":"keymanagement.service.InvalidAccessToken"}}}',
            NotConnectedError,
            "connect this user again",
        ),
        (b'{"error":"invalid_grant"}', NotConnectedError, "connect this user again"),
        (b'{"errors":["startDate"]}', BadPayloadError, "refusal"),
        (b'[{"type":"cbg","deviceTime":"2026-11-19T12:00:00"}]', BadPayloadError, "Tidepool"),
        (b'{"recordType":"egv","records":[{"va', BadPayloadError, "cut off"),
        (b"<html></html>", BadPayloadError, "web page"),
        (b"{}", UsageError, "--resource"),
    ],
)
def test_what_is_no_records_says_so(body: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect_body(DEXCOM, body, name="body", now=NOW)


@pytest.mark.corpus
def test_recorded_conversions_of_somebody_else_are_told_apart(corpus: Path) -> None:
    files = sorted((corpus / "dexcom_v3").glob("*service-dexcomapi.json"))
    assert files
    for file in files:
        with pytest.raises(BadPayloadError, match="Tidepool"):
            inspect_body(DEXCOM, file.read_bytes(), name=file.name, now=NOW)


@pytest.mark.corpus
def test_readings_recorded_at_dexcom_keep_value_instant_and_offset(corpus: Path, rows: Any) -> None:
    # What Tidepool was given is still in `payload`; put back into the shape it came in.
    (file,) = (corpus / "dexcom_v3").glob("*service-dexcomapi.json")
    found = []
    for one in json.loads(file.read_text()):
        if one["type"] == "cbg":
            payload = one["payload"]
            found.append(
                {
                    "recordId": one["id"],
                    "systemTime": payload["systemTime"],
                    "displayTime": one["deviceTime"],
                    "value": payload["realTimeValue"],
                    "trend": payload["trend"],
                    "trendRate": payload["trendRate"],
                    "transmitterId": payload["transmitterId"],
                }
            )
    row = one_row(rows, "body", records("egvs", *found))
    assert row["utc_offset_seconds"] == -14400
    told = [
        (s["timestamp"], s["local_timestamp"], s["blood_glucose_mg_per_dl"], s["trend_arrow"])
        for s in row[GLUCOSE]
    ]
    assert told == [
        (at("2019-07-22T15:12:37+00:00"), naive("2019-07-22T11:12:37"), 150.0, "flat"),
        (at("2019-07-22T15:17:36+00:00"), naive("2019-07-22T11:17:36"), 149.0, "flat"),
    ]
