"""Strava's activities as rows; expected values are worked out by hand from the bodies below."""

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.connect import disconnect
from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    UsageError,
)
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Departed,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Removed,
    Subscriber,
    Subscription,
    Window,
)
from wearable_pipeline.providers.strava import (
    SPORTS,
    answer_challenge,
    fetch,
    identify,
    read_push,
    revoke,
    subscribe,
    unsubscribe,
)
from wearable_pipeline.raw import push as pushes
from wearable_pipeline.raw.push import RefusedError, check_proof, take_in
from wearable_pipeline.sandbox._oauth_server import CLIENT_SECRET
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.sandbox.strava import PEOPLE
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import connected, contents, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as fetch_user
from wearable_pipeline_tests.providers.paper_api import AtBase, fetched_pages

STRAVA = get_provider("strava")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

# In July New York is four hours behind, whatever the zone's own words say.
RUN: dict[str, Any] = {
    "resource_state": 3,
    "athlete": {"id": 7, "resource_state": 1},
    "name": "Evening run",
    "distance": 5012.5,
    "moving_time": 1500,
    "elapsed_time": 1530,
    "total_elevation_gain": 42.5,
    "type": "Run",
    "sport_type": "TrailRun",
    "id": 90000000001,
    "start_date": "2026-07-11T02:30:00Z",
    "start_date_local": "2026-07-10T22:30:00Z",
    "timezone": "(GMT-05:00) America/New_York",
    "utc_offset": -14400.0,
    "location_city": "Springfield",
    "location_state": None,
    "location_country": "United States",
    "kudos_count": 3,
    "map": {"id": "a9", "polyline": "abcd", "summary_polyline": "ab", "resource_state": 3},
    "manual": False,
    "private": True,
    "start_latlng": [40.75, -73.5],
    "end_latlng": [40.8, -73.25],
    "average_speed": 3.34,
    "max_speed": 5.5,
    "average_cadence": 81.5,
    "has_heartrate": True,
    "average_heartrate": 141.5,
    "max_heartrate": 171.0,
    "elev_high": 61.5,
    "elev_low": 33.0,
    "suffer_score": 50.0,
    "calories": 402.3,
    "device_name": "Example Watch 3",
    "laps": [
        {
            "id": 1,
            "name": "Lap 1",
            "elapsed_time": 800,
            "moving_time": 790,
            "start_date": "2026-07-11T02:30:00Z",
            "start_date_local": "2026-07-10T22:30:00Z",
            "distance": 2500.5,
            "average_speed": 3.1,
            "average_heartrate": 139.5,
            "average_watts": 233.1,
            "lap_index": 1,
        }
    ],
}
# As the listing or an entry by hand has it.
BY_HAND: dict[str, Any] = {
    "resource_state": 2,
    "id": 90000000002,
    "name": "Weights",
    "distance": 0.0,
    "moving_time": 3600,
    "elapsed_time": 3600,
    "type": "Workout",
    "start_date": "2026-11-19T17:00:00Z",
    "start_date_local": "2026-11-19T18:00:00Z",
    "timezone": "(GMT+01:00) Europe/Berlin",
    "utc_offset": 3600.0,
    "map": {"id": "a2", "summary_polyline": None, "resource_state": 2},
    "manual": True,
    "start_latlng": [],
    "end_latlng": None,
    "has_heartrate": False,
    "average_heartrate": 0.0,
}


def stream(*data: object) -> dict[str, object]:
    return {"data": data, "series_type": "time", "original_size": len(data), "resolution": "high"}


STREAMS = {
    "time": stream(0, 1, 5, 6),
    "distance": stream(0.0, 2.5, 2.25, 15.0),
    "heartrate": stream(100, None, 104, 105),
    "cadence": stream(80, 81, 82, 83),
    "latlng": stream([40.75, -73.5], [40.76, -73.49]),
    "altitude": stream(33.0, 33.5, 34.0, 33.0),
    "velocity_smooth": stream(0.0, 2.5, 3.0, 3.5),
    "moving": {**stream(), "data": [False, True, True, True]},
    "temp": stream(21, 21, 21, 21),
}
OF_RUN = {
    "activity": "90000000001",
    "start_date": RUN["start_date"],
    "start_date_local": RUN["start_date_local"],
    "utc_offset": -14400.0,
    "sport": "TrailRun",
}


def records(*activities: object) -> list[Record]:
    body = json.dumps(activities).encode()
    return list(STRAVA.resource("activity").split(Page("activity", body, NOW)))


def recorded(streams: object, **context: object) -> list[Record]:
    page = Page("streams", json.dumps(streams).encode(), NOW, {**OF_RUN, **context})
    return list(STRAVA.resource("streams").split(page))


def one_row(rows: Any, *found: list[Record]) -> dict[str, Any]:
    result = rows("strava", "activity", *found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def test_an_activity_with_everything_told_of_it(rows: Any) -> None:
    row = one_row(rows, records(RUN))
    expected = {
        "metadata_summary_id": "90000000001",
        "metadata_name": "Evening run",
        "metadata_type": "trail_running",
        "metadata_upload_type": "automatic",
        "metadata_city": "Springfield",
        "metadata_state": None,
        "metadata_country": "United States",
        "local_date": date(2026, 7, 10),
        "start_at": at("2026-07-11T02:30:00+00:00"),
        "local_start_at": naive("2026-07-10T22:30:00"),
        # 1530 s are 25 min 30 s.
        "end_at": at("2026-07-11T02:55:30+00:00"),
        "local_end_at": naive("2026-07-10T22:55:30"),
        "utc_offset_seconds": -14400,
        "timezone": "America/New_York",
        "tz_source": "provider",
        "device_name": "Example Watch 3",
        "active_durations_activity_seconds": 1500.0,
        "calories_total_burned_calories": 402.3,
        "work_work_kilojoules": None,
        "distance_summary_distance_meters": 5012.5,
        "distance_summary_elevation_gain_actual_meters": 42.5,
        "distance_summary_elevation_max_meters": 61.5,
        "distance_summary_elevation_min_meters": 33.0,
        "distance_summary_steps": None,
        "heart_rate_summary_avg_hr_bpm": 141.5,
        "heart_rate_summary_max_hr_bpm": 171.0,
        "movement_avg_speed_meters_per_second": 3.34,
        "movement_max_speed_meters_per_second": 5.5,
        # One leg was counted.
        "movement_avg_cadence_rpm": 163.0,
        "power_avg_watts": None,
        "polyline_map_summary_polyline": "ab",
        "position_start_pos_lat_lng_deg": [40.75, -73.5],
        "position_end_pos_lat_lng_deg": [40.8, -73.25],
    }
    assert {name: row[name] for name in expected} == expected
    (lap,) = row["lap_laps"]
    told = {name: value for name, value in lap.items() if value is not None}
    assert told == {
        "start_time": at("2026-07-11T02:30:00+00:00"),
        "local_start_time": naive("2026-07-10T22:30:00"),
        # 800 s are 13 min 20 s.
        "end_time": at("2026-07-11T02:43:20+00:00"),
        "local_end_time": naive("2026-07-10T22:43:20"),
        "distance_meters": 2500.5,
        "avg_hr_bpm": 139.5,
        "avg_speed_meters_per_second": 3.1,
        "avg_watts": 233.1,
        "active_duration_seconds": 790,
    }


def test_an_entry_by_hand_has_no_heart_rate_no_place_and_no_laps(rows: Any) -> None:
    row = one_row(rows, records(BY_HAND))
    expected = {
        # `Workout` is anything; the older word counts where there is no newer one.
        "metadata_type": "other",
        "metadata_upload_type": "manual",
        "local_date": date(2026, 11, 19),
        "local_end_at": naive("2026-11-19T19:00:00"),
        "distance_summary_distance_meters": 0.0,
        "heart_rate_summary_avg_hr_bpm": None,
        "calories_total_burned_calories": None,
        "position_start_pos_lat_lng_deg": None,
        "position_end_pos_lat_lng_deg": None,
        "polyline_map_summary_polyline": None,
        "lap_laps": None,
        "device_name": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_ride_counts_turns_and_work(rows: Any) -> None:
    ride = {
        **RUN,
        "type": "Ride",
        "sport_type": "Ride",
        "kilojoules": 780.5,
        "average_watts": 185.5,
        "max_watts": 743,
        "average_cadence": 78.5,
    }
    row = one_row(rows, records(ride))
    assert row["movement_avg_cadence_rpm"] == 78.5
    assert row["work_work_kilojoules"] == 780.5
    assert (row["power_avg_watts"], row["power_max_watts"]) == (185.5, 743.0)


@pytest.mark.parametrize(
    ("changes", "local", "offset", "zone"),
    [
        ({"utc_offset": None}, naive("2026-07-10T22:30:00"), -14400, "America/New_York"),
        ({"start_date_local": None}, naive("2026-07-10T22:30:00"), -14400, "America/New_York"),
        ({"start_date_local": "soon"}, naive("2026-07-10T22:30:00"), -14400, "America/New_York"),
        ({"timezone": None}, naive("2026-07-10T22:30:00"), -14400, None),
        ({"timezone": "(GMT-05:00) Nowhere/Else"}, naive("2026-07-10T22:30:00"), -14400, None),
        ({"utc_offset": None, "start_date_local": None, "timezone": None}, None, None, None),
    ],
)
def test_the_local_time_is_what_somebody_said(
    rows: Any,
    changes: dict[str, object],
    local: datetime | None,
    offset: int | None,
    zone: str | None,
) -> None:
    row = one_row(rows, records({**RUN, **changes}))
    assert row["start_at"] == at("2026-07-11T02:30:00+00:00")
    assert (row["local_start_at"], row["utc_offset_seconds"], row["timezone"]) == (
        local,
        offset,
        zone,
    )
    assert row["tz_source"] == ("provider" if local else "unknown")
    assert row["local_date"] == (date(2026, 7, 10) if local else date(2026, 7, 11))


@pytest.mark.parametrize(
    ("word", "kind"),
    [("EBikeRide", "e_biking"), ("Soccer", "english_football"), ("Quidditch", "other")],
)
def test_words_for_sports(rows: Any, word: str, kind: str) -> None:
    assert one_row(rows, records({**RUN, "sport_type": word}))["metadata_type"] == kind
    assert set(SPORTS.values()) <= set(ACTIVITY_TYPE.names.values())


@pytest.mark.parametrize(
    "broken",
    [
        {"start_date": "yesterday"},
        {"start_date": None},
        {"elapsed_time": None},
        {"elapsed_time": -5},
        {"distance": "far"},
        {"laps": "none"},
    ],
)
def test_one_broken_value_loses_that_activity_only(rows: Any, broken: dict[str, object]) -> None:
    result = rows("strava", "activity", records({**RUN, **broken, "id": 13}, BY_HAND))
    assert result.rows["metadata_summary_id"].to_list() == ["90000000002"]
    assert result.rejected["record_id"].to_list() == ["13"]


def test_what_was_recorded_joins_the_row_of_its_activity(rows: Any) -> None:
    row = one_row(rows, records(RUN), recorded(STREAMS))
    assert row["metadata_name"] == "Evening run"
    assert row["end_at"] == at("2026-07-11T02:55:30+00:00")
    start, local = at("2026-07-11T02:30:00+00:00"), naive("2026-07-10T22:30:00")

    def told(column: str, field: str) -> list[tuple[float, object]]:
        for sample in row[column]:
            assert sample["local_timestamp"] - local == sample["timestamp"] - start
        return [((s["timestamp"] - start).total_seconds(), s[field]) for s in row[column]]

    # What was not measured is no sample.
    assert told("heart_rate_detailed_hr_samples", "bpm") == [(0, 100), (5, 104), (6, 105)]
    # Metres since the sample before; the way back of 0.25 m is noise of the place.
    assert told("distance_detailed_distance_samples", "distance_meters") == [
        (0, 0.0),
        (1, 2.5),
        (5, 0.0),
        (6, 12.5),
    ]
    assert told("movement_cadence_samples", "cadence_rpm") == [
        (0, 160),
        (1, 162),
        (5, 164),
        (6, 166),
    ]
    assert told("movement_speed_samples", "speed_meters_per_second")[3] == (6, 3.5)
    assert told("distance_detailed_elevation_samples", "elev_meters")[2] == (5, 34.0)
    # Two places were told for four times.
    assert told("position_position_samples", "coords_lat_lng_deg") == [
        (0, [40.75, -73.5]),
        (1, [40.76, -73.49]),
    ]
    assert row["power_power_samples"] is None


def test_streams_of_two_activities_do_not_mix(rows: Any) -> None:
    second = recorded(
        {"time": stream(0, 2), "watts": stream(150, 160), "cadence": stream(70, 75)},
        activity="90000000003",
        start_date="2026-07-11T05:00:00Z",
        sport="Ride",
    )
    later = {**RUN, "id": 90000000003, "start_date": "2026-07-11T05:00:00Z", "sport_type": "Ride"}
    later |= {"start_date_local": "2026-07-11T01:00:00Z", "laps": []}
    result = rows("strava", "activity", [*records(RUN, later), *recorded(STREAMS), *second])
    assert result.rejected.is_empty(), result.rejected["reason"].to_list()
    by_id = {row["metadata_summary_id"]: row for row in result.rows.to_dicts()}
    assert len(by_id) == 2
    # On a bike both legs turn at once.
    ride = by_id["90000000003"]
    assert [s["cadence_rpm"] for s in ride["movement_cadence_samples"]] == [70.0, 75.0]
    assert [s["watts"] for s in ride["power_power_samples"]] == [150.0, 160.0]
    assert ride["power_power_samples"][1]["timestamp"] == at("2026-07-11T05:00:02+00:00")
    assert by_id["90000000001"]["power_power_samples"] is None
    assert len(by_id["90000000001"]["movement_cadence_samples"]) == 4


def test_streams_without_times_or_without_anything_are_no_samples(rows: Any) -> None:
    for streams in ({"heartrate": stream(100)}, {"time": stream(), "heartrate": stream()}, {}):
        row = one_row(rows, records(RUN), recorded(streams))
        assert row["heart_rate_detailed_hr_samples"] is None


def test_streams_keep_to_the_day_of_their_activity_past_midnight() -> None:
    (record,) = recorded(STREAMS, start_date="2026-07-11T03:59:58Z")
    assert record.local_date == date(2026, 7, 10)


# --- fetching


class Service:
    """The API with activities written down in the test; remembers what was asked for."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        self.pages = list(pages)
        self.gone: set[str] = set()
        self.asked: list[httpx.URL] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url)
        path = request.url.path.removeprefix("/api/v3")
        if path == "/athlete/activities":
            page = int(request.url.params["page"])
            return httpx.Response(200, json=self.pages[page - 1] if page <= len(self.pages) else [])
        number = path.split("/")[2]
        if number in self.gone:
            return httpx.Response(404, json={"message": "Record Not Found", "errors": []})
        if path.endswith("/streams"):
            return httpx.Response(200, json=STREAMS)
        return httpx.Response(200, json={**RUN, "id": int(number)})

    def paths(self) -> list[str]:
        found = [url.path.removeprefix("/api/v3") for url in self.asked]
        self.asked.clear()
        return found


def listed(number: int, **changes: object) -> dict[str, Any]:
    return {**BY_HAND, "id": number, "manual": False, **changes}


def pages_of(client_for: Any, service: Any, state: dict[str, object]) -> list[Page]:
    window = Window(date(2026, 11, 1), date(2026, 11, 20), NOW)
    return fetched_pages(fetch, client_for, service, window, state)


def test_the_listing_is_followed_until_a_page_is_empty(client_for: Any) -> None:
    service = Service([listed(1)], [listed(2, manual=True)])
    found = pages_of(client_for, service, {})
    assert [page.resource for page in found] == ["activity", "streams", "activity"]
    first = dict(service.asked[0].params)
    # 2026-11-01 begins in the east fourteen hours early, 2026-11-20 ends in the west twelve late.
    assert int(first["after"]) == int(at("2026-10-31T10:00:00+00:00").timestamp())
    assert int(first["before"]) == int(at("2026-11-21T12:00:00+00:00").timestamp())
    assert (first["per_page"], first["page"]) == ("200", "1")
    assert service.paths() == [
        "/athlete/activities",
        "/athlete/activities",
        "/athlete/activities",
        "/activities/1",
        "/activities/1/streams",
        "/activities/2",
    ]
    assert found[1].context == {
        "timezone": None,
        "former": None,
        "activity": "1",
        "start_date": "2026-11-19T17:00:00Z",
        "start_date_local": "2026-11-19T18:00:00Z",
        "utc_offset": 3600.0,
        "sport": "Workout",
    }


def test_only_what_changed_is_asked_for_again_and_kudos_change_nothing(client_for: Any) -> None:
    state: dict[str, object] = {}
    pages_of(client_for, Service([listed(1), listed(2)]), state)
    service = Service([listed(1, kudos_count=9), listed(2, name="Renamed")])
    found = pages_of(client_for, service, state)
    assert [page.resource for page in found] == ["activity", "streams"]
    assert service.paths()[2:] == ["/activities/2", "/activities/2/streams"]


def test_an_entry_moved_to_another_day_leaves_the_old_one(client_for: Any) -> None:
    state: dict[str, object] = {}
    pages_of(client_for, Service([listed(1)]), state)
    moved = listed(1, start_date="2026-11-18T17:00:00Z", start_date_local="2026-11-18T18:00:00Z")
    activity, streams = pages_of(client_for, Service([moved]), state)
    (record,) = STRAVA.resource("activity").split(activity)
    assert record.former_date == date(2026, 11, 19)
    (record,) = STRAVA.resource("streams").split(streams)
    assert (record.local_date, record.former_date) == (date(2026, 11, 18), date(2026, 11, 19))
    assert set(record.context) == {"start_date", "start_date_local", "utc_offset", "sport"}


def test_what_is_no_longer_listed_soon_is_forgotten(client_for: Any) -> None:
    state: dict[str, object] = {}
    old = listed(1, start_date="2026-09-01T10:00:00Z")
    pages_of(client_for, Service([old, listed(2)]), state)
    assert set(state["listed"]) == {"2"}  # type: ignore[call-overload]


def test_an_activity_deleted_since_it_was_listed_harms_nobody(client_for: Any) -> None:
    service = Service([listed(1), listed(2)])
    service.gone.add("1")
    found = pages_of(client_for, service, {})
    assert [page.resource for page in found] == ["activity", "streams"]
    assert b'"id":2' in found[0].body.replace(b" ", b"")


def test_a_fetch_that_fails_remembers_nothing(client_for: Any) -> None:
    state: dict[str, object] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        if "activities/" in request.url.path:
            return httpx.Response(500)
        return httpx.Response(200, json=[listed(1)] if request.url.params["page"] == "1" else [])

    with pytest.raises(Exception, match="server trouble"):
        pages_of(client_for, answer, state)
    assert state == {}


def test_somebody_who_unticked_activities_is_told_at_once(client_for: Any) -> None:
    async def run(status: int) -> str:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/activities"):
                return httpx.Response(status, json=[])
            return httpx.Response(200, json={"id": 7})

        async with client_for(answer) as client:
            named = await identify(AtBase(client), {"athlete": {"id": 8}})
            asked = await identify(AtBase(client), {})
            return f"{named.account_id} {asked.account_id}"

    assert asyncio.run(run(200)) == "8 7"
    with pytest.raises(NotConnectedError, match="leave it ticked"):
        asyncio.run(run(401))


def test_a_permission_unticked_is_told_from_a_token_that_ended() -> None:
    def body(field: str) -> bytes:
        error = {"resource": "AccessToken", "field": field, "code": "missing"}
        return json.dumps({"message": "Authorization Error", "errors": [error]}).encode()

    def meant(status: int, field: str) -> list[str]:
        return [one.meaning for one in STRAVA.refusals if one.fits(status, body(field))]

    assert meant(401, "activity:read_permission") == ["not_connected"]
    # The token is renewed then.
    assert meant(401, "access_token") == []


def test_access_is_given_back(client_for: Any) -> None:
    asked: list[tuple[str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, request.content))
        return httpx.Response(200, json={"access_token": "t"})

    async def run() -> None:
        async with client_for(answer) as client:
            await revoke(AtBase(client), {"access_token": "t"})

    asyncio.run(run())
    assert asked == [("POST", "/oauth/deauthorize", b"access_token=t")]


# --- bodies of unknown origin


@pytest.mark.parametrize("whole", [RUN, [RUN, BY_HAND], [BY_HAND]])
def test_activities_are_recognised_alone_and_in_a_list(whole: Any) -> None:
    recognised = [r.name for r in STRAVA.resources if r.recognise and r.recognise(whole)]
    assert recognised == ["activity"]
    found = inspect_body(STRAVA, json.dumps(whole).encode(), name="body", now=NOW)
    assert (found.unknown_fields, found.rejected) == ([], [])


def test_fields_nobody_knows_are_named_and_harm_nobody() -> None:
    body = json.dumps([{**BY_HAND, "mood": 1, "map": None}]).encode()
    found = inspect_body(STRAVA, body, name="body", now=NOW)
    assert found.unknown_fields == ["mood"]
    assert len(found.tables["activity"]) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (json.dumps(STREAMS).encode(), "of which activity"),
        (json.dumps([{"type": "time", **stream(0, 1)}]).encode(), "of which activity"),
        (b'{"message":"Authorization Error","errors":[{"code":"invalid"}]}', "refusal"),
        (b'{"errors":"Rate Limit Exceeded","status":429,"message":"x"}', "refusal"),
        (b'[{"id":1,"lap_index":1,"elapsed_time":5,"start_date":"x"}]', "laps"),
        (b'[{"distribution_buckets":[],"type":"heartrate"}]', "zones"),
        (b'{"id":7,"firstname":"A","weight":70.5}', "profile"),
        (b'{"all_ride_totals":{},"all_run_totals":{}}', "totals"),
        (b'{"object_type":"activity","aspect_type":"create","object_id":1}', "webhook"),
        (b"[]", "looks like none"),
        (b"<html>", "web page"),
        (b'[{"id":1', "cut off"),
    ],
)
def test_what_is_no_activities_says_so(body: bytes, says: str) -> None:
    with pytest.raises((BadPayloadError, UsageError), match=says):
        inspect_body(STRAVA, body, name="body", now=NOW)


# --- pushes


def event(**said: object) -> PushRequest:
    body = {
        "object_type": "activity",
        "object_id": 90000000001,
        "aspect_type": "create",
        "updates": {},
        "owner_id": 7,
        "subscription_id": 3,
        "event_time": 1795176000,
        **said,
    }
    return PushRequest("POST", {}, {}, json.dumps(body).encode())


def test_what_events_say() -> None:
    assert list(read_push(event())) == [Changed("7")]
    assert list(read_push(event(aspect_type="update", updates={"title": "x"}))) == [Changed("7")]
    assert list(read_push(event(aspect_type="delete"))) == [
        Removed("7", "activity", ("90000000001",)),
        Removed("7", "streams", ("90000000001",)),
    ]
    left = {"object_type": "athlete", "object_id": 7, "aspect_type": "update"}
    assert list(read_push(event(**left, updates={"authorized": "false"}))) == [Departed("7")]
    assert list(read_push(event(**left, updates={"weight": "70"}))) == []
    with pytest.raises(BadPayloadError):
        list(read_push(PushRequest("POST", {}, {}, b"[]")))


def test_an_event_is_proven_by_its_time_and_its_bytes() -> None:
    push = STRAVA.push
    assert push is not None
    secrets = PushSecrets("app", "hush", "")
    body = event().body
    stamp = str(int(NOW.timestamp()))
    mark = hmac.new(b"hush", stamp.encode() + b"." + body, hashlib.sha256).hexdigest()

    def check(header: str, sent: bytes = body, now: datetime = NOW) -> None:
        asked = PushRequest("POST", {"x-strava-signature": header}, {}, sent)
        check_proof(push, asked, secrets, now)

    check(f"t={stamp},v1={mark}")
    for header in ("", f"v1={mark}", f"t={stamp}", f"t={stamp},v1={'0' * 64}", "nonsense"):
        with pytest.raises(RefusedError):
            check(header)
    with pytest.raises(RefusedError):
        check(f"t={stamp},v1={mark}", sent=body + b" ")
    with pytest.raises(RefusedError):
        check(f"t={stamp},v1={mark}", now=NOW + timedelta(seconds=301))


def test_a_challenge_is_answered_only_to_who_knows_the_secret() -> None:
    def answer(token: str, secret: str) -> tuple[int, bytes]:
        query = {"hub.mode": "subscribe", "hub.verify_token": token, "hub.challenge": "x1"}
        found = answer_challenge(PushRequest("GET", {}, query, b""), PushSecrets("a", "b", secret))
        assert found is not None
        return found.status, found.body

    assert answer("s", "s") == (200, b'{"hub.challenge":"x1"}')
    assert answer("other", "s")[0] == 401
    assert answer("", "")[0] == 401
    assert answer_challenge(event(), PushSecrets("a", "b", "s")) is None


def test_the_app_has_one_subscription_and_takes_nobody_elses(client_for: Any) -> None:
    there: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            assert dict(request.url.params) == {"client_id": "app", "client_secret": "hush"}
            return httpx.Response(200, json=there)
        if request.method == "DELETE":
            there.clear()
            return httpx.Response(204)
        there.append({"id": 3, "callback_url": "https://here.example/in/strava"})
        return httpx.Response(201, json={"id": 3})

    ours = Subscriber("https://here.example/in/strava", PushSecrets("app", "hush", "s"))
    others = Subscriber("https://there.example/in/strava", PushSecrets("app", "hush", "s"))

    async def run() -> None:
        async with client_for(answer) as client:
            at_base = AtBase(client)
            made = [Subscription("3", "activity and athlete")]
            assert await subscribe(at_base, ours) == made
            assert await subscribe(at_base, ours) == made
            assert len(there) == 1
            with pytest.raises(PermanentError, match="another address"):
                await subscribe(at_base, others)
            assert await unsubscribe(at_base, others) == 0
            assert await unsubscribe(at_base, ours) == 1
            assert there == []

    asyncio.run(run())


@pytest.mark.slow
def test_over_http_a_subscription_brings_events_and_events_bring_and_take_activities(
    tmp_path: Path,
) -> None:
    clock = StandingClock(NOW)
    with SandboxProcess(now=NOW) as sandbox, served(tmp_path / "home", sandbox, clock) as there:
        workspace = there.workspace
        workspace.settings.providers["strava"].requests_per_second = 1e4
        workspace.settings.providers["strava"].quota_factor = 100
        (made,) = pushes.subscribe(workspace, STRAVA)
        assert pushes.subscribe(workspace, STRAVA) == [made]

        user = connected(there, "strava", "mara")
        assert fetch_user(workspace, user).failures == {}
        before = contents(workspace, [user])["activity"]
        assert sum(row["heart_rate_detailed_hr_samples"] is not None for row in before) > 10

        def post(**said: object) -> int:
            body = event(owner_id=PEOPLE["mara"].account_id, **said).body
            stamp = str(int(clock.at.timestamp()))
            mark = hmac.digest(CLIENT_SECRET.encode(), stamp.encode() + b"." + body, "sha256")
            headers = {"x-strava-signature": f"t={stamp},v1={mark.hex()}"}
            url = f"{there.url}/in/strava"
            return httpx.post(url, content=body, headers=headers, trust_env=False).status_code

        later = clock.advance(minutes=1)
        assert workspace.registry.due_users(later, ["strava"]) == []
        assert post() == 200
        report = take_in(workspace, STRAVA)
        assert report is not None
        assert (report.pushes, report.made_due, report.parked) == (1, 1, 0)

        # Gone with all that was recorded in it.
        gone = str(before[-1]["metadata_summary_id"])
        assert post(aspect_type="delete", object_id=int(gone)) == 200
        take_in(workspace, STRAVA)
        assert contents(workspace, [user])["activity"] == [
            row for row in before if row["metadata_summary_id"] != gone
        ]

        left = {
            "object_type": "athlete",
            "aspect_type": "update",
            "updates": {"authorized": "false"},
        }
        assert post(**left) == 200
        take_in(workspace, STRAVA)
        assert workspace.registry.get_user(user.user_id).status == "revoked"
        assert pushes.unsubscribe(workspace, STRAVA) == 1

        again = connected(there, "strava", "nilo")
        # The token has ended since.
        sandbox.set_clock(clock.advance(hours=7))
        disconnect(workspace, again, STRAVA)
        # Kept only where the provider could not be told.
        assert workspace.registry.load_credentials(again.user_id) == {}
