"""Garmin's summaries as rows; expected values are worked out by hand from the bodies below."""

import asyncio
import io
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from wearable_pipeline.connect import disconnect
from wearable_pipeline.errors import BadPayloadError, PermanentError
from wearable_pipeline.model.enums import ACTIVITY_TYPE
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import _garmin_api as api
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Connection,
    Delivered,
    Departed,
    ImportOptions,
    Linked,
    Page,
    PushRequest,
    Record,
    Window,
)
from wearable_pipeline.providers.garmin import SPORTS
from wearable_pipeline.raw import client as client_module
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.push import Inbox, has_pushes, keep, take_in
from wearable_pipeline.raw.store import Arrival
from wearable_pipeline.sandbox.garmin import PEOPLE
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import (
    PUSH_SECRET,
    connected,
    contents,
    served,
)
from wearable_pipeline_tests.providers.oauth_cast import fetch as fetch_user

GARMIN = get_provider("garmin")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
# 2026-11-18 23:00 UTC: midnight of the 19th in Berlin, an hour ahead.
MIDNIGHT = 1_795_042_800
HOUR = 3600


def summary(seconds: float = 0, **fields: object) -> dict[str, Any]:
    return {
        "userId": "wearer-1",
        "userAccessToken": "none-of-these",
        "summaryId": "x1-1",
        "startTimeInSeconds": MIDNIGHT + int(seconds),
        "startTimeOffsetInSeconds": HOUR,
        "durationInSeconds": 86_400,
        **fields,
    }


def records(kind: str, *summaries: object, fetched_at: datetime = NOW) -> list[Record]:
    body = json.dumps({kind: summaries}).encode()
    return list(GARMIN.resource(kind).split(Page(kind, body, fetched_at)))


def one_row(rows: Any, table: str, *found: list[Record]) -> dict[str, Any]:
    result = rows("garmin", table, *found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def told(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: v for name, v in one.items() if v is not None} for one in samples]


def test_midnight_is_what_the_tests_say_it_is() -> None:
    assert datetime.fromtimestamp(MIDNIGHT, UTC) == at("2026-11-18T23:00:00+00:00")


# --- days

DAY = summary(
    calendarDate="2026-11-19",
    activityType="WALKING",
    steps=4210,
    distanceInMeters=3146.5,
    activeTimeInSeconds=12_240,
    activeKilocalories=321,
    bmrKilocalories=1731,
    consumedCalories=1121,
    moderateIntensityDurationInSeconds=1870,
    vigorousIntensityDurationInSeconds=453,
    floorsClimbed=8,
    minHeartRateInBeatsPerMinute=59,
    averageHeartRateInBeatsPerMinute=64,
    maxHeartRateInBeatsPerMinute=112,
    restingHeartRateInBeatsPerMinute=61,
    timeOffsetHeartRateSamples={"15": 75, "3180": 76, "3195": 0},
    averageStressLevel=43,
    maxStressLevel=87,
    stressDurationInSeconds=13_620,
    restStressDurationInSeconds=7600,
    activityStressDurationInSeconds=3450,
    lowStressDurationInSeconds=6700,
    mediumStressDurationInSeconds=4350,
    highStressDurationInSeconds=10_800,
    stressQualifier="stressful_awake",
)


def test_a_day_with_everything_told_of_it(rows: Any) -> None:
    row = one_row(rows, "daily", records("dailies", DAY))
    expected = {
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-18T23:00:00+00:00"),
        "local_start_at": naive("2026-11-19T00:00:00"),
        "end_at": at("2026-11-19T23:00:00+00:00"),
        "utc_offset_seconds": 3600,
        "timezone": None,
        "tz_source": "provider",
        "distance_steps": 4210,
        "distance_distance_meters": 3146.5,
        "distance_floors_climbed": 8,
        "active_durations_activity_seconds": 12_240.0,
        "active_durations_moderate_intensity_seconds": 1870.0,
        "active_durations_vigorous_intensity_seconds": 453.0,
        "calories_net_activity_calories": 321.0,
        "calories_bmr_calories": 1731.0,
        # 321 + 1731
        "calories_total_burned_calories": 2052.0,
        "calories_net_intake_calories": 1121.0,
        "heart_rate_summary_min_hr_bpm": 59.0,
        "heart_rate_summary_max_hr_bpm": 112.0,
        "heart_rate_summary_resting_hr_bpm": 61.0,
        # Garmin's is the mean of a week.
        "heart_rate_summary_avg_hr_bpm": None,
        "stress_avg_stress_level": 43.0,
        "stress_max_stress_level": 87.0,
        "stress_stress_duration_seconds": 13_620.0,
        "stress_rest_stress_duration_seconds": 7600.0,
        "stress_activity_stress_duration_seconds": 3450.0,
        "stress_low_stress_duration_seconds": 6700.0,
        "stress_medium_stress_duration_seconds": 4350.0,
        "stress_high_stress_duration_seconds": 10_800.0,
    }
    assert {name: row[name] for name in expected} == expected
    # A pulse of zero is none.
    assert told(row["heart_rate_detailed_hr_samples"]) == [
        {
            "timestamp": at("2026-11-18T23:00:15+00:00"),
            "local_timestamp": naive("2026-11-19T00:00:15"),
            "bpm": 75.0,
        },
        {
            # 3180 s are 53 min.
            "timestamp": at("2026-11-18T23:53:00+00:00"),
            "local_timestamp": naive("2026-11-19T00:53:00"),
            "bpm": 76.0,
        },
    ]


def test_what_a_day_does_not_tell_is_null_and_minus_one_is_no_stress(rows: Any) -> None:
    row = one_row(
        rows,
        "daily",
        records("dailies", summary(averageStressLevel=-1, maxStressLevel=-1, bmrKilocalories=900)),
    )
    for name in ("stress_avg_stress_level", "stress_max_stress_level", "distance_steps"):
        assert row[name] is None, name
    assert row["heart_rate_detailed_hr_samples"] is None
    # Without what moving took there is no sum.
    assert row["calories_total_burned_calories"] is None
    # The day nobody names follows from start and offset.
    assert row["local_date"] == date(2026, 11, 19)


def test_the_other_spelling_of_the_mean_stress_counts_too(rows: Any) -> None:
    row = one_row(rows, "daily", records("dailies", summary(averageStresslevel=37, steps=1)))
    assert row["stress_avg_stress_level"] == 37.0


def test_of_a_day_that_grows_what_reaches_furthest_counts_however_it_arrives(rows: Any) -> None:
    noon = records("dailies", summary(durationInSeconds=43_200, steps=2000))
    night = records("dailies", summary(durationInSeconds=86_400, steps=5000))
    again = records("dailies", summary(durationInSeconds=86_400, steps=5100))
    assert one_row(rows, "daily", noon, night)["distance_steps"] == 5000
    # A post that had to be repeated comes after the newer one.
    assert one_row(rows, "daily", night, noon)["distance_steps"] == 5000
    assert one_row(rows, "daily", night, again)["distance_steps"] == 5100


def test_one_broken_time_loses_that_summary_only(rows: Any) -> None:
    bad = summary(summaryId="bad", startTimeInSeconds="yesterday", steps=1)
    result = rows("garmin", "daily", records("dailies", bad, DAY, {"summaryId": "bare"}))
    (row,) = result.rows.to_dicts()
    assert row["distance_steps"] == 4210
    reasons = dict(result.rejected.select("record_id", "reason").rows())
    assert reasons["bad"] == "startTimeInSeconds: not a whole number"
    assert "start: missing or no time" in reasons["bare"]


def test_without_an_offset_the_zone_of_the_person_counts_and_without_both_nobody_knows() -> None:
    bare = {name: value for name, value in DAY.items() if "Offset" not in name}
    bare.pop("calendarDate")
    body = json.dumps({"dailies": [bare]}).encode()

    def row(timezone: str | None) -> dict[str, Any]:
        found = inspect_body(
            GARMIN, body, name="x", now=NOW, options=ImportOptions(timezone=timezone)
        )
        (only,) = found.tables["daily"]
        return only

    known, unknown = row("Europe/Berlin"), row(None)
    assert (known["local_date"], known["timezone"]) == (date(2026, 11, 19), "Europe/Berlin")
    assert known["tz_source"] == "profile"
    assert known["utc_offset_seconds"] == 3600
    assert unknown["local_date"] == date(2026, 11, 18)
    assert (unknown["tz_source"], unknown["utc_offset_seconds"]) == ("unknown", None)


def test_a_quarter_of_an_hour_adds_up_its_kinds_of_movement(rows: Any) -> None:
    quarter = {"durationInSeconds": 900}
    walking = summary(
        10 * HOUR,
        **{**quarter, "summaryId": "w", "activityType": "WALKING", "steps": 93},
        distanceInMeters=49.5,
        activeTimeInSeconds=449,
        met=3.25,
        intensity="ACTIVE",
    )
    running = summary(
        10 * HOUR,
        **{**quarter, "summaryId": "r", "activityType": "RUNNING", "steps": 200},
        distanceInMeters=150.25,
        activeTimeInSeconds=120,
        met=8.0,
        intensity="HIGHLY_ACTIVE",
    )
    later = summary(
        10 * HOUR + 900,
        **{**quarter, "summaryId": "s", "activityType": "SEDENTARY"},
        intensity="SEDENTARY",
        met=1.0,
    )
    row = one_row(rows, "daily", records("epochs", walking, running, later))
    start = {
        "timestamp": at("2026-11-19T09:00:00+00:00"),
        "local_timestamp": naive("2026-11-19T10:00:00"),
    }
    after = {
        "timestamp": at("2026-11-19T09:15:00+00:00"),
        "local_timestamp": naive("2026-11-19T10:15:00"),
    }
    # 93 + 200, and 49.5 + 150.25; the third tells neither.
    assert told(row["distance_detailed_step_samples"]) == [{**start, "steps": 293.0}]
    assert told(row["distance_detailed_distance_samples"]) == [{**start, "distance_meters": 199.75}]
    # Of effort only what took most of the time speaks.
    assert told(row["met_met_samples"]) == [{**start, "level": 3.25}, {**after, "level": 1.0}]
    assert told(row["active_durations_activity_levels_samples"]) == [
        {**start, "activity_level": "medium_intensity"},
        {**after, "activity_level": "inactive"},
    ]


def test_negative_levels_of_stress_are_no_levels(rows: Any) -> None:
    body = summary(
        timeOffsetStressLevelValues={"0": -1, "180": 25, "360": -2, "540": 0},
        timeOffsetBodyBatteryValues={"0": 55, "180": 54},
    )
    row = one_row(rows, "daily", records("stressDetails", body))
    first = {
        "timestamp": at("2026-11-18T23:03:00+00:00"),
        "local_timestamp": naive("2026-11-19T00:03:00"),
    }
    assert [one["level"] for one in row["stress_samples"]] == [25.0, 0.0]
    assert told(row["stress_samples"])[0] == {**first, "level": 25.0}
    assert [one["level"] for one in row["stress_body_battery_samples"]] == [55.0, 54.0]


def test_saturation_and_variability_are_of_the_day_they_are_dated(rows: Any) -> None:
    night = {"calendarDate": "2026-11-19", "durationInSeconds": 7200}
    row = one_row(
        rows,
        "daily",
        records("pulseox", summary(-HOUR, **night, timeOffsetSpo2Values={"0": 97.5, "60": 0})),
        records(
            "hrv",
            summary(-HOUR, **night, lastNightAvg=44, lastNight5MinHigh=72, hrvValues={"300": 32}),
        ),
    )
    assert row["local_date"] == date(2026, 11, 19)
    assert row["heart_rate_summary_avg_hrv_rmssd"] == 44.0
    assert told(row["oxygen_saturation_samples"]) == [
        {
            "timestamp": at("2026-11-18T22:00:00+00:00"),
            "local_timestamp": naive("2026-11-18T23:00:00"),
            "percentage": 97.5,
            "type": "blood",
        }
    ]
    assert told(row["heart_rate_detailed_hrv_samples_rmssd"]) == [
        {
            "timestamp": at("2026-11-18T22:05:00+00:00"),
            "local_timestamp": naive("2026-11-18T23:05:00"),
            "hrv_rmssd": 32.0,
        }
    ]


def test_a_snapshot_tells_its_two_minutes_and_leaves_its_means(rows: Any) -> None:
    body = summary(9 * HOUR, calendarDate="2026-11-19", durationInSeconds=120)
    body["offsetStartTimeInSeconds"] = body.pop("startTimeOffsetInSeconds")
    body["summaries"] = [
        {"summaryType": kind, "minValue": 1, "avgValue": 2, "epochSummaries": {"5": value}}
        for kind, value in (
            ("heart_rate", 62),
            ("stress", 21),
            ("spo2", 97),
            ("rmssd_hrv", 41.5),
            ("sdrr_hrv", 55),
            ("respiration", 14),
        )
    ]
    found = records("healthSnapshot", body)
    row = one_row(rows, "daily", found)
    moment = {
        "timestamp": at("2026-11-19T08:00:05+00:00"),
        "local_timestamp": naive("2026-11-19T09:00:05"),
    }
    assert told(row["heart_rate_detailed_hr_samples"]) == [{**moment, "bpm": 62.0}]
    assert told(row["stress_samples"]) == [{**moment, "level": 21.0}]
    assert told(row["heart_rate_detailed_hrv_samples_rmssd"]) == [{**moment, "hrv_rmssd": 41.5}]
    assert told(row["heart_rate_detailed_hrv_samples_sdnn"]) == [{**moment, "hrv_sdnn": 55.0}]
    assert told(row["oxygen_saturation_samples"]) == [
        {**moment, "percentage": 97.0, "type": "blood"}
    ]
    assert row["heart_rate_summary_avg_hrv_rmssd"] is None
    # Where the day has a series of its own that is the day's; what was measured on purpose stays in the body.
    both = one_row(rows, "daily", found, records("dailies", DAY))
    assert [one["bpm"] for one in both["heart_rate_detailed_hr_samples"]] == [75.0, 76.0]
    body_row = one_row(rows, "body", found, records("dailies", DAY))
    assert told(body_row["heart_heart_rate_detailed_hr_samples"]) == [{**moment, "bpm": 62.0}]
    assert told(body_row["heart_heart_rate_detailed_hrv_samples_rmssd"]) == [
        {**moment, "hrv_rmssd": 41.5}
    ]


def test_fitness_is_of_a_date_without_a_time(rows: Any) -> None:
    metrics = {"summaryId": "m", "calendarDate": "2026-11-19", "vo2Max": 48.0, "fitnessAge": 32}
    found = records("userMetrics", metrics)
    day = one_row(rows, "daily", found)
    assert (day["local_date"], day["oxygen_vo2max_ml_per_min_per_kg"]) == (date(2026, 11, 19), 48.0)
    assert (day["start_at"], day["tz_source"]) == (None, "unknown")
    body = one_row(rows, "body", found)
    assert body["measurements_day_avg_estimated_fitness_age"] == 32.0
    undated = rows("garmin", "daily", records("userMetrics", {"summaryId": "m", "vo2Max": 48.0}))
    assert undated.rows.is_empty()
    assert undated.rejected["reason"].to_list()[0].startswith("calendarDate: missing")


# --- nights

NIGHT = summary(
    -HOUR,
    summaryId="n1",
    calendarDate="2026-11-19",
    durationInSeconds=9000,
    deepSleepDurationInSeconds=3000,
    lightSleepDurationInSeconds=4000,
    remSleepInSeconds=1500,
    awakeDurationInSeconds=500,
    unmeasurableSleepDurationInSeconds=0,
    sleepLevelsMap={
        "light": [
            {
                "startTimeInSeconds": MIDNIGHT - HOUR + 3000,
                "endTimeInSeconds": MIDNIGHT - HOUR + 7000,
            }
        ],
        "deep": [
            {"startTimeInSeconds": MIDNIGHT - HOUR, "endTimeInSeconds": MIDNIGHT - HOUR + 3000}
        ],
        "awake": [],
    },
    validation="ENHANCED_FINAL",
    timeOffsetSleepRespiration={"60": 15.31, "120": -1},
    timeOffsetSleepSpo2={"0": 95},
    overallSleepScore={"value": 87, "qualifierKey": "GOOD"},
    sleepScores={"stress": {"qualifierKey": "FAIR"}},
)


def test_a_night_with_its_stages_and_scores(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleeps", NIGHT))
    expected = {
        "metadata_summary_id": "n1",
        "metadata_is_nap": False,
        "metadata_upload_type": "automatic",
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-18T22:00:00+00:00"),
        "local_start_at": naive("2026-11-18T23:00:00"),
        # The parts are 9000 s with the time awake: the duration holds it, 2 h 30 min.
        "end_at": at("2026-11-19T00:30:00+00:00"),
        "local_end_at": naive("2026-11-19T01:30:00"),
        # 3000 + 4000 + 1500
        "sleep_durations_asleep_duration_asleep_state_seconds": 8500.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 3000.0,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 4000.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 1500.0,
        "sleep_durations_awake_duration_awake_state_seconds": 500.0,
        "sleep_durations_other_duration_unmeasurable_sleep_seconds": 0.0,
        "sleep_durations_other_duration_in_bed_seconds": None,
        "scores_sleep": 87.0,
        "data_enrichment_sleep_score": 87.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert told(row["sleep_durations_hypnogram_samples"]) == [
        {
            "timestamp": at("2026-11-18T22:00:00+00:00"),
            "local_timestamp": naive("2026-11-18T23:00:00"),
            "level": "deep_sleep",
        },
        {
            "timestamp": at("2026-11-18T22:50:00+00:00"),
            "local_timestamp": naive("2026-11-18T23:50:00"),
            "level": "light_sleep",
        },
    ]
    assert [one["breaths_per_min"] for one in row["respiration_breaths_samples"]] == [15.31]
    (saturation,) = told(row["respiration_oxygen_saturation_samples"])
    assert saturation == {
        "timestamp": at("2026-11-18T22:00:00+00:00"),
        "local_timestamp": naive("2026-11-18T23:00:00"),
        "percentage": 95.0,
    }


def test_a_duration_of_sleep_alone_ends_later_by_the_time_awake(rows: Any) -> None:
    # 3000 + 4000 + 1500 are all of the 8500: 500 s awake come on top.
    row = one_row(rows, "sleep", records("sleeps", {**NIGHT, "durationInSeconds": 8500}))
    assert row["end_at"] == at("2026-11-19T00:30:00+00:00")


def test_an_older_watch_tells_no_dreams_and_the_older_name_of_the_unmeasured(rows: Any) -> None:
    older = {name: value for name, value in NIGHT.items() if name != "remSleepInSeconds"}
    older |= {"unmeasurableSleepInSeconds": 60, "validation": "Device"}
    older.pop("unmeasurableSleepDurationInSeconds")
    row = one_row(rows, "sleep", records("sleeps", older))
    assert row["sleep_durations_asleep_duration_rem_sleep_state_seconds"] is None
    # The sum of what is not all known is not known.
    assert row["sleep_durations_asleep_duration_asleep_state_seconds"] is None
    assert row["sleep_durations_other_duration_unmeasurable_sleep_seconds"] == 60.0
    assert row["metadata_upload_type"] == "automatic"


def test_a_tentative_night_gives_way_to_the_final_one(rows: Any) -> None:
    early = records("sleeps", {**NIGHT, "validation": "AUTO_TENTATIVE", "durationInSeconds": 9500})
    assert one_row(rows, "sleep", early)["metadata_upload_type"] == "tentative"
    row = one_row(rows, "sleep", early, records("sleeps", NIGHT))
    assert row["metadata_upload_type"] == "automatic"
    assert row["end_at"] == at("2026-11-19T00:30:00+00:00")


def test_naps_are_rows_of_their_own_beside_the_night(rows: Any) -> None:
    nap = {
        "napStartTimeInSeconds": MIDNIGHT + 13 * HOUR,
        "napOffsetInSeconds": 2 * HOUR,
        "napDurationInSeconds": 600,
        "napValidation": "MANUAL",
    }
    result = rows("garmin", "sleep", records("sleeps", {**NIGHT, "naps": [nap, None, {}]}))
    assert result.rejected.is_empty()
    night, row = sorted(result.rows.to_dicts(), key=lambda one: str(one["metadata_summary_id"]))
    assert night["metadata_is_nap"] is False
    assert row["metadata_summary_id"] == f"n1/nap/{MIDNIGHT + 13 * HOUR}"
    assert (row["metadata_is_nap"], row["metadata_upload_type"]) == (True, "manual")
    assert row["start_at"] == at("2026-11-19T12:00:00+00:00")
    assert row["local_start_at"] == naive("2026-11-19T14:00:00")
    assert row["end_at"] == at("2026-11-19T12:10:00+00:00")
    assert row["sleep_durations_hypnogram_samples"] is None
    assert row["scores_sleep"] is None


def test_a_night_nobody_dates_is_of_the_morning_it_ends() -> None:
    bare = {name: value for name, value in NIGHT.items() if name != "calendarDate"}
    (record,) = records("sleeps", bare)
    assert record.local_date == date(2026, 11, 19)


# --- activities

RUN: dict[str, Any] = summary(
    17 * HOUR,
    summaryId="5001",
    activityId=5001,
    activityType="TRAIL_RUNNING",
    activityName="Evening run",
    durationInSeconds=1824,
    distanceInMeters=5012.5,
    activeKilocalories=448,
    averageHeartRateInBeatsPerMinute=141,
    maxHeartRateInBeatsPerMinute=171,
    averageSpeedInMetersPerSecond=2.75,
    maxSpeedInMetersPerSecond=4.5,
    averagePaceInMinutesPerKilometer=6.06,
    averageRunCadenceInStepsPerMinute=163.0,
    maxRunCadenceInStepsPerMinute=180.0,
    totalElevationGainInMeters=42.5,
    totalElevationLossInMeters=41.0,
    startingLatitudeInDegree=52.5,
    startingLongitudeInDegree=13.25,
    steps=4900,
    deviceName="Example Watch 7",
)


def test_an_activity_with_everything_told_of_it(rows: Any) -> None:
    row = one_row(rows, "activity", records("activities", RUN))
    expected = {
        "metadata_summary_id": "5001",
        "metadata_name": "Evening run",
        "metadata_type": "trail_running",
        "metadata_upload_type": "automatic",
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-19T16:00:00+00:00"),
        "local_start_at": naive("2026-11-19T17:00:00"),
        # 1824 s are 30 min 24 s.
        "end_at": at("2026-11-19T16:30:24+00:00"),
        "local_end_at": naive("2026-11-19T17:30:24"),
        "device_name": "Example Watch 7",
        "calories_net_activity_calories": 448.0,
        "calories_total_burned_calories": None,
        "distance_summary_distance_meters": 5012.5,
        "distance_summary_steps": 4900,
        "distance_summary_elevation_gain_actual_meters": 42.5,
        "distance_summary_elevation_loss_actual_meters": 41.0,
        # Of the activity, not of a week.
        "heart_rate_summary_avg_hr_bpm": 141.0,
        "heart_rate_summary_max_hr_bpm": 171.0,
        "movement_avg_speed_meters_per_second": 2.75,
        "movement_max_speed_meters_per_second": 4.5,
        "movement_avg_pace_minutes_per_kilometer": 6.06,
        "movement_avg_cadence_rpm": 163.0,
        "movement_max_cadence_rpm": 180.0,
        "position_start_pos_lat_lng_deg": [52.5, 13.25],
    }
    assert {name: row[name] for name in expected} == expected


def test_an_activity_typed_in_has_no_device_and_no_place(rows: Any) -> None:
    typed = summary(
        summaryId="7",
        activityId=7,
        activityType="CHESS",
        durationInSeconds=60,
        manual=True,
        deviceName="unknown",
    )
    body = json.dumps({"manuallyUpdatedActivities": [typed]}).encode()
    found = list(GARMIN.resource("activities").split(Page("activities", body, NOW)))
    row = one_row(rows, "activity", found)
    expected = {
        "metadata_type": "other",
        "metadata_upload_type": "manual",
        "device_name": None,
        "position_start_pos_lat_lng_deg": None,
        "distance_summary_distance_meters": None,
        "heart_rate_summary_avg_hr_bpm": None,
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("is_nested", [True, False])
def test_what_was_recorded_joins_its_activity(rows: Any, is_nested: bool) -> None:
    start = MIDNIGHT + 17 * HOUR
    own = {name: value for name, value in RUN.items() if name not in ("summaryId", "userId")}
    samples = [
        {
            "startTimeInSeconds": start + 10,
            "heartRate": 0,
            "speedMetersPerSecond": 2.5,
            "totalDistanceInMeters": 30.25,
            "elevationInMeters": 34.5,
            "timerDurationInSeconds": 8,
            "bikeCadenceInRPM": 71,
        },
        {
            "startTimeInSeconds": start,
            "heartRate": 101,
            "latitudeInDegree": 52.5,
            "longitudeInDegree": 13.25,
            "totalDistanceInMeters": 5.0,
            "powerInWatts": 210.5,
            "stepsPerMinute": 160.0,
        },
        {"startTimeInSeconds": None, "heartRate": 99},
    ]
    detail = {
        "summaryId": "5001-detail",
        "activityId": 5001,
        **({"summary": own} if is_nested else own),
        "samples": samples,
        "laps": [{"startTimeInSeconds": start}, {"startTimeInSeconds": start + 600}],
    }
    row = one_row(rows, "activity", records("activities", RUN), records("activityDetails", detail))
    assert row["metadata_summary_id"] == "5001"
    assert row["metadata_type"] == "trail_running"
    first = {
        "timestamp": at("2026-11-19T16:00:00+00:00"),
        "local_timestamp": naive("2026-11-19T17:00:00"),
    }
    second = {
        "timestamp": at("2026-11-19T16:00:10+00:00"),
        "local_timestamp": naive("2026-11-19T17:00:10"),
        "timer_duration_seconds": 8.0,
    }
    assert told(row["heart_rate_detailed_hr_samples"]) == [{**first, "bpm": 101.0}]
    # 30.25 - 5
    assert told(row["distance_detailed_distance_samples"]) == [
        {**first, "distance_meters": 5.0},
        {**second, "distance_meters": 25.25},
    ]
    assert told(row["distance_detailed_elevation_samples"]) == [{**second, "elev_meters": 34.5}]
    assert told(row["movement_speed_samples"]) == [{**second, "speed_meters_per_second": 2.5}]
    assert told(row["movement_cadence_samples"]) == [
        {**first, "cadence_rpm": 160.0},
        {**second, "cadence_rpm": 71.0},
    ]
    assert told(row["power_power_samples"]) == [{**first, "watts": 210.5}]
    assert told(row["position_position_samples"]) == [
        {**first, "coords_lat_lng_deg": [52.5, 13.25]}
    ]
    assert [one["local_start_time"] for one in row["lap_laps"]] == [
        naive("2026-11-19T17:00:00"),
        naive("2026-11-19T17:10:00"),
    ]


def test_movement_that_was_noticed_is_an_activity(rows: Any) -> None:
    move = summary(12 * HOUR, summaryId="q1", durationInSeconds=738, activityType="Running")
    move["offsetInSeconds"] = move.pop("startTimeOffsetInSeconds")
    row = one_row(rows, "activity", records("moveIQActivities", move))
    assert (row["metadata_summary_id"], row["metadata_type"]) == ("q1", "running")
    assert row["local_start_at"] == naive("2026-11-19T12:00:00")
    # 738 s are 12 min 18 s.
    assert row["local_end_at"] == naive("2026-11-19T12:12:18")


@pytest.mark.parametrize("seconds", [None, -1, 1e24, "soon"])
def test_a_duration_that_is_none_loses_that_activity_only(rows: Any, seconds: object) -> None:
    bad = {**RUN, "summaryId": "bad", "durationInSeconds": seconds}
    result = rows("garmin", "activity", records("activities", bad, RUN))
    assert result.rows["metadata_summary_id"].to_list() == ["5001"]
    (reason,) = result.rejected.filter(result.rejected["record_id"] == "bad")["reason"].to_list()
    assert reason.startswith("durationInSeconds: ")


def test_every_sport_has_a_name_of_the_list() -> None:
    assert set(SPORTS.values()) <= set(ACTIVITY_TYPE.names.values())


# --- body and cycle


def test_a_weighing_is_in_kilograms_and_two_of_a_day_stay_two(rows: Any) -> None:
    def weighing(hours: int, **fields: object) -> dict[str, object]:
        return {
            "summaryId": f"b{hours}",
            "measurementTimeInSeconds": MIDNIGHT + hours * HOUR,
            "measurementTimeOffsetInSeconds": HOUR,
            **fields,
        }

    full = weighing(
        7,
        weightInGrams=75_450,
        bodyMassIndex=23.2,
        bodyFatInPercent=17.1,
        bodyWaterInPercent=59.4,
        muscleMassInGrams=25_478,
        boneMassInGrams=2437,
    )
    row = one_row(rows, "body", records("bodyComps", full, weighing(20, weightInGrams=75_173)))
    assert told(row["measurements_measurements"]) == [
        {
            "measurement_time": at("2026-11-19T06:00:00+00:00"),
            "local_measurement_time": naive("2026-11-19T07:00:00"),
            "weight_kg": 75.45,
            "bmi": 23.2,
            "bodyfat_percentage": 17.1,
            "water_percentage": 59.4,
            "muscle_mass_g": 25_478.0,
            "bone_mass_g": 2437.0,
        },
        {
            "measurement_time": at("2026-11-19T19:00:00+00:00"),
            "local_measurement_time": naive("2026-11-19T20:00:00"),
            "weight_kg": 75.173,
        },
    ]
    assert row["measurements_day_avg_weight_kg"] is None


def test_a_pressure_brings_its_pulse(rows: Any) -> None:
    reading = {
        "summaryId": "p",
        "systolic": 118,
        "diastolic": 76,
        "pulse": 61,
        "sourceType": "MANUAL",
        "measurementTimeInSeconds": MIDNIGHT + 20 * HOUR,
        "measurementTimeOffsetInSeconds": HOUR,
    }
    row = one_row(rows, "body", records("bloodPressures", reading))
    moment = {
        "timestamp": at("2026-11-19T19:00:00+00:00"),
        "local_timestamp": naive("2026-11-19T20:00:00"),
    }
    assert told(row["blood_pressure_blood_pressure_samples"]) == [
        {**moment, "systolic_bp": 118.0, "diastolic_bp": 76.0}
    ]
    assert told(row["heart_heart_rate_detailed_hr_samples"]) == [{**moment, "bpm": 61.0}]


CYCLE: dict[str, Any] = {
    "summaryId": "c1",
    "periodStartDate": "2026-11-15",
    "dayInCycle": 5,
    "periodLength": 6,
    "currentPhase": 1,
    "currentPhaseType": "MENSTRUAL",
    "lengthOfCurrentPhase": 5,
    "daysUntilNextPhase": 1,
    "fertileWindowStart": 11,
    "lengthOfFertileWindow": 7,
    "predictedCycleLength": 28,
    "isPredictedCycle": True,
    "cycleLength": 29,
    "lastUpdatedTimeInSeconds": MIDNIGHT + 6 * HOUR,
    "pregnancySnapshot": {},
}


def test_a_day_of_the_cycle(rows: Any) -> None:
    row = one_row(rows, "menstruation", records("mct", CYCLE))
    expected = {
        # The 15th is the first day, so the fifth is the 19th.
        "local_date": date(2026, 11, 19),
        "menstruation_period_start_date": date(2026, 11, 15),
        "menstruation_day_in_cycle": 5,
        "menstruation_period_length_days": 6,
        "menstruation_current_phase": "period",
        "menstruation_length_of_current_phase_days": 5,
        "menstruation_days_until_next_phase": 1,
        "menstruation_cycle_length_days": 29,
        "menstruation_predicted_cycle_length_days": 28,
        "menstruation_is_predicted_cycle": True,
        "menstruation_last_updated_time": at("2026-11-19T05:00:00+00:00"),
        # Nobody says from which day the number counts.
        "menstruation_fertility_window_start": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_late_day_of_a_cycle_that_is_over_its_period(rows: Any) -> None:
    cycle = {
        "summaryId": "c2",
        "periodStartDate": "2026-10-25",
        "dayInCycle": 20,
        "periodLength": 4,
        "currentPhaseType": "LUTEAL",
        "lengthOfCurrentPhase": 13,
        "daysUntilNextPhase": 9,
        "cycleLength": 28,
        "isPredictedCycle": False,
        "lastUpdatedTimeInSeconds": MIDNIGHT - HOUR,
    }
    row = one_row(rows, "menstruation", records("mct", cycle))
    expected = {
        # Seven days from the 25th to the end of October, thirteen of November.
        "local_date": date(2026, 11, 13),
        "menstruation_period_start_date": date(2026, 10, 25),
        "menstruation_day_in_cycle": 20,
        "menstruation_period_length_days": 4,
        "menstruation_current_phase": "luteal",
        "menstruation_length_of_current_phase_days": 13,
        "menstruation_days_until_next_phase": 9,
        "menstruation_cycle_length_days": 28,
        "menstruation_predicted_cycle_length_days": None,
        "menstruation_is_predicted_cycle": False,
        "menstruation_last_updated_time": at("2026-11-18T22:00:00+00:00"),
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("day", ["9999-12-31", "1970-01-01", "soon", None])
def test_a_day_of_the_cycle_nobody_can_date_is_quarantined(rows: Any, day: str | None) -> None:
    lost = {"summaryId": "m", "calendarDate": day, "periodStartDate": day, "dayInCycle": 3}
    result = rows("garmin", "menstruation", records("mct", lost, CYCLE))
    assert result.rows.height == 1
    assert result.rejected["reason"].to_list() == [
        "periodStartDate: no date, and nothing else says of which day this is"
    ]


def test_a_summary_that_moves_through_the_cycle_leaves_each_day_behind(rows: Any) -> None:
    later = {**CYCLE, "dayInCycle": 6, "currentPhaseType": "NOBODY_KNOWS"}
    found = rows("garmin", "menstruation", records("mct", CYCLE), records("mct", later))
    assert found.rows["local_date"].to_list() == [date(2026, 11, 19), date(2026, 11, 20)]
    assert found.rows["menstruation_current_phase"].to_list() == ["period", "unknown"]


def test_what_no_table_has_a_column_for_is_kept_and_makes_no_row(rows: Any) -> None:
    breaths = records("allDayRespiration", summary(timeOffsetEpochToBreaths={"0": 14.5}))
    skin = records("skinTemp", summary(avgDeviationCelsius=0.3))
    assert [len(found) for found in (breaths, skin)] == [1, 1]
    assert rows("garmin", "daily", breaths, skin).rows.is_empty()


# --- records


def test_ids_come_from_garmin_and_people_of_one_post_stay_apart() -> None:
    one, two, nameless = records(
        "activities", RUN, {**RUN, "userId": "wearer-2"}, {"startTimeInSeconds": MIDNIGHT}
    )
    assert (one.record_id, two.record_id) == ("5001", "wearer-2/5001")
    assert nameless.record_id.startswith("sha256:")
    (alone,) = records("activities", {**RUN, "userId": "wearer-2"})
    assert alone.record_id == "5001"


def test_bodies_keep_their_bytes_and_a_link_leads_to_a_bare_list() -> None:
    item = b'{ "summaryId":"a",  "startTimeInSeconds": 1795042800 }'
    (record,) = GARMIN.resource("dailies").split(Page("dailies", b"[" + item + b"]", NOW))
    assert record.body == item
    with pytest.raises(BadPayloadError, match="holds no such summaries"):
        list(GARMIN.resource("dailies").split(Page("dailies", b"{}", NOW)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("dailies", DAY),
        ("sleeps", NIGHT),
        ("activities", RUN),
        ("mct", CYCLE),
        ("bloodPressures", {"summaryId": "a", "systolic": 1}),
        ("bodyComps", {"summaryId": "a", "weightInGrams": 1}),
        ("pulseox", {"summaryId": "a", "timeOffsetSpo2Values": {}}),
        ("allDayRespiration", {"summaryId": "a", "timeOffsetEpochToBreaths": {}}),
        ("stressDetails", {"summaryId": "a", "timeOffsetStressLevelValues": {}}),
        ("hrv", {"summaryId": "a", "hrvValues": {}}),
        ("healthSnapshot", {"summaryId": "a", "summaries": []}),
        ("skinTemp", {"summaryId": "a", "avgDeviationCelsius": 0.5}),
        ("userMetrics", {"summaryId": "a", "vo2Max": 40}),
        ("epochs", {"summaryId": "a", "steps": 3, "met": 1.5, "intensity": "ACTIVE"}),
        ("activityDetails", {"summaryId": "a", "activityId": 3, "samples": []}),
        ("moveIQActivities", {"summaryId": "a", "activitySubType": "x"}),
    ],
)
def test_a_lone_summary_is_recognised_as_one_kind_only(kind: str, body: object) -> None:
    for form in (body, [body], {kind: [body]}):
        names = [r.name for r in GARMIN.resources if r.recognise and r.recognise(form)]
        assert names == [kind]


def test_a_list_of_the_same_name_by_somebody_else_is_nobodys() -> None:
    for body in (
        {"activities": [{"logId": 7, "activityName": "Run"}, 7]},
        {"activities": [], "goals": {}},
    ):
        assert [r.name for r in GARMIN.resources if r.recognise and r.recognise(body)] == []
    assert [r.name for r in GARMIN.resources if r.recognise and r.recognise({"hrv": []})] == ["hrv"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"deregistrations": [{"userId": "u"}]}, "people have left"),
        ({"userPermissionsChange": []}, "changed permissions"),
        ({"dailies": [{"userId": "u", "callbackURL": "https://x"}]}, "links to summaries"),
        ({"activityFiles": []}, "links to files"),
        ({"userId": "u"}, "name of an account"),
        (["HEALTH_EXPORT"], "list of permissions"),
        ({"errorMessage": "no"}, "a refusal"),
        ({"access_token": "x"}, "a token answer"),
    ],
)
def test_bodies_without_summaries_are_explained(body: object, says: str) -> None:
    with pytest.raises(BadPayloadError, match=says):
        api.explain(json.dumps(body).encode())


TOKEN = "a-token-nobody-may-see"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"summaryId":"s","userAccessToken":"%s","x":1}', b'{"summaryId":"s","x":1}'),
        (b'{"userAccessToken" : "%s" , "summaryId":"s"}', b'{"summaryId":"s"}'),
        (b'{"summaryId":"s",\n  "userAccessToken": "%s"\n}', b'{"summaryId":"s"\n}'),
        (
            b'{"summaryId":"s","summary":{"userAccessToken":"%s"},"y":[]}',
            b'{"summaryId":"s","summary":{},"y":[]}',
        ),
        # A quotation mark inside, and a name that only looks like it.
        (
            b'{"userAccessToken":"\\"%s","summaryId":"s","activityName":"\\"userAccessToken\\":\\"x\\""}',
            b'{"summaryId":"s","activityName":"\\"userAccessToken\\":\\"x\\""}',
        ),
        (b'{"summaryId":"s","activityName":"userAccessToken"}', None),
    ],
)
def test_a_token_in_a_summary_is_cut_out_and_every_other_byte_stays(
    sent: bytes, kept: bytes | None
) -> None:
    item = sent.replace(b"%s", TOKEN.encode())
    for body in (item, b'{"activities":[' + item + b"]}", b"[" + item + b"]"):
        page = Page("activities", body, NOW)
        assert [record.body for record in GARMIN.resource("activities").split(page)] == [
            item if kept is None else kept
        ]


def test_no_byte_of_the_lake_holds_a_token_once_its_post_is_taken_in(
    workspace: Workspace,
) -> None:
    registry = workspace.registry
    user = registry.add_user("garmin", account_hash=registry.hash_account("garmin", "account-1"))
    sent = {**DAY, "userId": "account-1", "userAccessToken": TOKEN}
    request = PushRequest("POST", {}, {}, json.dumps({"dailies": [sent]}).encode())
    storage = workspace.lake.storage
    inbox = Inbox(storage, registry, workspace.now)
    assert GARMIN.push is not None
    asyncio.run(inbox.put("garmin", keep(GARMIN.push, request, workspace.now()), None))
    (waiting,) = storage.list("inbox/")
    assert TOKEN.encode() not in storage.read(waiting.path)
    taken = take_in(workspace, GARMIN)
    assert taken is not None
    assert (taken.appended.new, taken.parked) == (1, 0)
    entries = list(storage.list(""))
    assert not any(entry.path.startswith("inbox/") for entry in entries)
    raw = [entry.path for entry in entries if entry.path.startswith("raw/garmin/")]
    (body,) = pl.read_parquet(io.BytesIO(storage.read(raw[0])))["body"]
    assert json.loads(body) == {key: sent[key] for key in sent if key != "userAccessToken"}
    assert user.user_id in pl.read_parquet(io.BytesIO(storage.read(raw[0])))["user_id"]


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "1970-01-01"])
def test_a_date_of_no_reading_stops_nobody_else(workspace: Workspace, day: str) -> None:
    users = [workspace.registry.add_user("garmin") for _ in range(2)]
    bare = {"summaryId": "x", "calendarDate": day}
    cycle = {"summaryId": "m", "periodStartDate": day, "dayInCycle": 5}
    arrivals = [
        Arrival(users[0].user_id, [*records("dailies", bare), *records("mct", cycle)], NOW),
        Arrival(users[1].user_id, records("dailies", DAY), NOW),
    ]
    assert ingest(workspace, GARMIN, arrivals, "push").new == 3
    found = {record.local_date for arrival in arrivals for record in arrival.records}
    # Of two of them nobody knows the date: they lie where they came in.
    assert found == {NOW.date(), date(2026, 11, 19)}


def test_an_activity_moved_over_midnight_leaves_its_old_day(
    workspace: Workspace, clock: StandingClock
) -> None:
    user = workspace.registry.add_user("garmin")

    def days(start: int) -> list[date]:
        clock.advance(minutes=1)
        body = json.dumps({"activities": [{**RUN, "startTimeInSeconds": start}]}).encode()
        found = list(GARMIN.resource("activities").split(Page("activities", body, NOW)))
        ingest(workspace, GARMIN, [Arrival(user.user_id, found, workspace.now())], "push")
        cells = [Partition(NOW.date(), workspace.lake.scheme.cohort_of(user.user_id))]
        update_table(workspace, "activity", cells)
        glob = f"{workspace.lake.storage.url}/activity/**/*.parquet"
        return pl.read_parquet(glob, hive_partitioning=False)["local_date"].sort().to_list()

    assert days(RUN["startTimeInSeconds"]) == [date(2026, 11, 19)]
    assert days(RUN["startTimeInSeconds"] - 86_400) == [date(2026, 11, 18)]


def test_fields_nobody_reads_are_told() -> None:
    body = {"sleeps": [{**NIGHT, "novel": 1, "naps": [{"napMood": "good"}]}]}
    found = inspect_body(GARMIN, json.dumps(body).encode(), name="x", now=NOW)
    assert found.unknown_fields == ["napMood", "novel"]


# --- posts


def read(**told: object) -> list[object]:
    return list(api.read_push(PushRequest("POST", {}, {}, json.dumps(told).encode())))


def test_a_post_is_taken_apart_by_account_and_kind() -> None:
    def item(owner: str, number: int) -> dict[str, object]:
        return {"userId": owner, "summaryId": f"s{number}"}

    found = read(
        dailies=[item("a", 1), item("b", 2), item("a", 3)],
        manuallyUpdatedActivities=[item("b", 4)],
        activityFiles=[{"userId": "a", "callbackURL": "https://apis.garmin.com/x"}],
    )
    assert all(isinstance(one, Delivered) for one in found)
    told_of = [
        (
            one.account_id,
            one.resource,
            [
                r.record_id
                for r in GARMIN.resource(one.resource).split(Page(one.resource, one.body, NOW))
            ],
        )
        for one in found
        if isinstance(one, Delivered)
    ]
    assert told_of == [
        ("a", "dailies", ["s1", "s3"]),
        ("b", "dailies", ["s2"]),
        ("b", "activities", ["s4"]),
    ]


def test_departures_and_changed_permissions_are_told_and_links_are_handed_on() -> None:
    assert read(deregistrations=[{"userId": "a"}, {"userId": "b"}]) == [
        Departed("a"),
        Departed("b"),
    ]
    change = {"userId": "a", "permissions": ["HEALTH_EXPORT"]}
    assert read(userPermissionsChange=[change]) == [Changed("a")]
    url = "https://apis.garmin.com/wellness-api/rest/pulseOx?uploadStartTimeInSeconds=1&token=t"
    assert read(pulseox=[{"userId": "a", "callbackURL": url}]) == [Linked("a", "pulseox", url)]


def test_summaries_of_nobody_are_kept_for_nobody_and_others_are_read() -> None:
    named, nameless = read(dailies=[{"userId": "a", "summaryId": "1"}, {"summaryId": "2"}])
    assert isinstance(named, Delivered)
    assert isinstance(nameless, Delivered)
    assert (named.account_id, nameless.account_id) == ("a", "")


@pytest.mark.parametrize(
    "told_of",
    [
        {"novelties": [{"userId": "a"}]},
        {"dailies": {"userId": "a"}},
        {"dailies": [{"userId": "a", "callbackURL": 7}]},
        {"dailies": [{"userId": "a", "callbackURL": "https://apis.garmin.com/oauth/token"}]},
        {"dailies": [{"userId": "a", "callbackURL": "http://169.254.169.254/latest/meta-data"}]},
        {
            "dailies": [
                {"userId": "a", "callbackURL": "https://apis.garmin.com/wellness-api/rest/user/id"}
            ]
        },
    ],
)
def test_posts_of_another_form_are_refused(told_of: dict[str, object]) -> None:
    with pytest.raises(BadPayloadError):
        read(**told_of)


# --- asking


def test_spans_are_cut_to_what_is_missing_and_to_what_garmin_takes() -> None:
    assert api.missing([(0, 100)], [(20, 40), (90, 200)]) == [(40, 90), (0, 20)]
    assert api.missing([(0, 100)], [(0, 100)]) == []
    day = 86_400
    pieces = api.missing([(0, 70 * day)], [])
    assert pieces[0][1] == 70 * day
    assert pieces[-1][0] == 0
    assert all(end - begin < 30 * day for begin, end in pieces)
    assert [late[0] for late in pieces[:-1]] == [early[1] for early in pieces[1:]]


class Service:
    """Answers of Garmin: permissions, and a status for every order."""

    def __init__(self, *permissions: str) -> None:
        self.permissions = permissions or ("HEALTH_EXPORT", "HISTORICAL_DATA_EXPORT")
        self.orders: list[tuple[str, int, int]] = []
        self.statuses: dict[str, int] = {}
        self.body = b""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/user/permissions"):
            return httpx.Response(200, json=list(self.permissions))
        kind = path.rpartition("/backfill/")[2]
        params = request.url.params
        begin, end = (int(params[f"summary{which}TimeInSeconds"]) for which in ("Start", "End"))
        self.orders.append((kind, begin, end))
        return httpx.Response(self.statuses.get(kind, 202), content=self.body)


class AtBase:
    """A client for paths."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        return await self.client.request(method, f"https://garmin.example{url}", **more)


def ask(
    client_for: Any,
    service: Service,
    state: dict[str, object],
    start: date,
    end: date,
    *,
    now: datetime = NOW,
    registered_at: int = int(NOW.timestamp()),
) -> None:
    config: dict[str, object] = {"registered_at": registered_at}
    connection = Connection("u", config, {}, state, None, lambda: None)

    async def run() -> None:
        async with client_for(service) as client:
            assert [
                page
                async for page in api.fetch(AtBase(client), connection, Window(start, end, now))
            ] == []

    asyncio.run(run())


TODAY = NOW.date()


def test_history_is_ordered_once_up_to_the_moment_garmin_began_to_post(client_for: Any) -> None:
    state: dict[str, object] = {}
    service = Service()
    ask(client_for, service, state, TODAY - timedelta(days=3), TODAY)
    assert len(service.orders) == len(api.KINDS)
    (_, begin, end) = service.orders[0]
    # 2026-11-17 begins in the east fourteen hours early.
    assert begin == int(at("2026-11-16T10:00:00+00:00").timestamp())
    assert end == int(NOW.timestamp())
    # What came since was posted; older days are ordered as far as they were not.
    service.orders.clear()
    later = NOW + timedelta(days=1)
    ask(client_for, service, state, TODAY - timedelta(days=2), later.date(), now=later)
    assert service.orders == []
    ask(client_for, service, state, date(2026, 11, 1), date(2026, 11, 18), now=later)
    assert {order[1:] for order in service.orders} == {
        (int(at("2026-10-31T10:00:00+00:00").timestamp()), begin)
    }


def test_an_order_garmin_has_already_is_no_failure(client_for: Any) -> None:
    service = Service()
    service.statuses = dict.fromkeys(api.KINDS.values(), 409)
    state: dict[str, object] = {}
    ask(client_for, service, state, TODAY, TODAY)
    assert set(state["asked"]) == set(api.KINDS)  # type: ignore[call-overload]


def test_days_before_what_garmin_gives_are_not_asked_for_again(client_for: Any) -> None:
    service = Service()
    service.statuses = dict.fromkeys(api.KINDS.values(), 400)
    service.body = b'{"errorMessage":"start 2024 before min start time of 2026"}'
    state: dict[str, object] = {}
    ask(client_for, service, state, TODAY, TODAY)
    service.orders.clear()
    ask(client_for, service, state, TODAY, TODAY)
    assert service.orders == []
    service.body = b'{"errorMessage":"something else"}'
    with pytest.raises(PermanentError, match="history is refused"):
        ask(client_for, service, {}, TODAY, TODAY)


def test_of_a_span_that_begins_too_far_back_the_rest_is_ordered(client_for: Any) -> None:
    class Limited(Service):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            answer = super().__call__(request)
            earliest = at("2026-11-05T06:07:08+00:00")
            if self.orders and self.orders[-1][1] < earliest.timestamp():
                told = "start 2026-11-01 before min start time of 2026-11-05T06:07:08.123456789Z"
                return httpx.Response(400, json={"errorMessage": told})
            return answer

    service = Limited()
    state: dict[str, Any] = {}
    ask(client_for, service, state, date(2026, 11, 2), date(2026, 11, 10))
    begin, end = at("2026-11-01T10:00:00+00:00"), at("2026-11-11T12:00:00+00:00")
    first = at("2026-11-05T06:08:08+00:00")
    told = [order[1:] for order in service.orders if order[0] == "sleeps"]
    assert told == [
        (int(begin.timestamp()), int(end.timestamp())),
        (int(first.timestamp()), int(end.timestamp())),
    ]
    service.orders.clear()
    ask(client_for, service, state, date(2026, 11, 2), date(2026, 11, 10))
    assert service.orders == []


def test_a_kind_the_app_does_not_have_stops_none_of_the_others(
    client_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    service.statuses = {"mct": 403, "dailies": 412, "activities": 400}
    service.body = b'{"errorMessage":"Endpoint not enabled for summary type: CONNECT_ACTIVITY"}'
    refused = {"mct", "dailies", "activities"}
    state: dict[str, Any] = {}
    for _ in range(2):
        ask(client_for, service, state, date(2026, 11, 1), TODAY)
        assert set(api.KINDS) - set(state["asked"]) == refused
    assert sorted(record.message for record in caplog.records) == [
        f"garmin: history of {kind} is refused" for kind in sorted(refused)
    ]
    # Once they are there, all that was wanted is ordered, whatever is asked for now.
    granted = Service()
    ask(client_for, granted, state, TODAY, TODAY)
    assert {kind for kind, _, _ in granted.orders} == refused
    assert {begin for _, begin, _ in granted.orders} == {
        int(at("2026-10-31T10:00:00+00:00").timestamp())
    }
    granted.orders.clear()
    ask(client_for, granted, state, TODAY, TODAY)
    assert granted.orders == []
    assert (state["wanted"], state["refused"]) == ([], [])
    service.statuses = dict.fromkeys(api.KINDS.values(), 412)
    with pytest.raises(PermanentError, match="every kind"):
        ask(client_for, service, {}, TODAY, TODAY)


def test_history_not_permitted_is_ordered_once_it_is(client_for: Any) -> None:
    state: dict[str, object] = {}
    service = Service("HEALTH_EXPORT")
    ask(client_for, service, state, date(2026, 10, 25), TODAY)
    assert service.orders == []
    service = Service()
    later = NOW + timedelta(days=2)
    ask(client_for, service, state, TODAY, later.date(), now=later)
    spans = {order[1:] for order in service.orders}
    assert min(begin for begin, _ in spans) == int(at("2026-10-24T10:00:00+00:00").timestamp())
    # The moment Garmin began to post, not that of the permission.
    assert max(end for _, end in spans) == int(NOW.timestamp())


def test_what_happened_while_nobody_was_connected_is_ordered(client_for: Any) -> None:
    state: dict[str, object] = {}
    ask(client_for, Service(), state, TODAY, TODAY)
    service = Service()
    back = NOW + timedelta(days=20)
    ask(
        client_for,
        service,
        state,
        back.date(),
        back.date(),
        now=back,
        registered_at=int(back.timestamp()),
    )
    assert {order[1:] for order in service.orders} == {
        (int(NOW.timestamp()), int(back.timestamp()))
    }


def test_somebody_who_permits_nothing_is_told(client_for: Any) -> None:
    with pytest.raises(PermanentError, match="no permission was given"):
        ask(client_for, Service("WORKOUT_IMPORT"), {}, TODAY, TODAY)


# --- over HTTP


@pytest.fixture
def calm_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that paces nothing and hardly waits between tries."""
    real = client_module.HttpClient.__init__

    def init(self: object, *args: object, **kwargs: object) -> None:
        kwargs |= {"wait_initial": 0.001, "requests_per_second": 1e6, "pace": client_module.Pace}
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(client_module.HttpClient, "__init__", init)


@pytest.mark.slow
@pytest.mark.usefixtures("calm_client")
def test_links_bring_what_pushes_bring_and_lead_nowhere_else(tmp_path: Path) -> None:
    clock = StandingClock(NOW)
    with SandboxProcess(now=NOW) as sandbox, served(tmp_path / "home", sandbox, clock) as there:
        workspace = there.workspace
        address = f"{there.url}/in/garmin?key={PUSH_SECRET}"
        sandbox.set_endpoint("garmin", address, "ping")
        linked = connected(there, "garmin", "mara")
        assert fetch_user(workspace, linked, 6).failures == {}
        sandbox.deliver("garmin")

        # Told to slow down, the link is followed later, and so are those behind it; nothing is parked.
        sandbox.fault("429", path="^/garmin/wellness-api/rest/sleeps$")
        report = take_in(workspace, GARMIN)
        assert report is not None
        assert report.parked == 0
        assert report.postponed > 0
        state = workspace.registry.load_states([linked.user_id])[linked.user_id]
        assert state.locked_until is not None
        clock.at = state.locked_until + timedelta(seconds=1)
        report = take_in(workspace, GARMIN)
        assert report is not None
        assert (report.parked, report.postponed) == (0, 0)
        by_links = contents(workspace, [linked])
        assert all(by_links.values())
        assert len(by_links["daily"]) >= 6

        sandbox.clear_requests()
        account = PEOPLE["mara"].account_id

        def post(**told_of: object) -> int:
            return httpx.post(address, json=told_of, trust_env=False).status_code

        rest = "/wellness-api/rest/dailies"
        for url in (
            f"http://127.0.0.1:1{rest}?token=x",
            f"{sandbox.url}.example.org{rest}",
            f"{sandbox.url}/garmin@evil.example{rest}",
            f"{sandbox.url}/garmin.evil{rest}",
            f"//evil.example{rest}",
            f"{sandbox.url}/oura{rest}",
        ):
            assert post(dailies=[{"userId": account, "callbackURL": url}]) == 200
            report = take_in(workspace, GARMIN)
            assert report is not None
            assert (report.parked, report.appended.new) == (1, 0), url
        # A token nobody saw leave.
        assert sandbox.requests() == {}
        assert workspace.registry.get_user(linked.user_id).status == "connected"
        # Without the secret there is no door.
        body = {"deregistrations": [{"userId": account}]}
        refused = httpx.post(f"{there.url}/in/garmin", json=body, trust_env=False)
        assert refused.status_code == 401

        clock.at = NOW
        sandbox.set_clock(NOW)
        with served(tmp_path / "whole", sandbox, clock) as elsewhere:
            sandbox.set_endpoint("garmin", f"{elsewhere.url}/in/garmin?key={PUSH_SECRET}")
            pushed = connected(elsewhere, "garmin", "mara")
            assert fetch_user(elsewhere.workspace, pushed, 6).failures == {}
            sandbox.deliver("garmin")
            report = take_in(elsewhere.workspace, GARMIN)
            assert report is not None
            assert (report.parked, report.postponed) == (0, 0)
            assert contents(elsewhere.workspace, [pushed]) == by_links


@pytest.mark.slow
@pytest.mark.usefixtures("calm_client")
def test_a_link_that_leads_to_nothing_stops_no_other_and_trouble_ends(tmp_path: Path) -> None:
    clock = StandingClock(NOW)
    with SandboxProcess(now=NOW) as sandbox, served(tmp_path / "home", sandbox, clock) as there:
        workspace = there.workspace
        address = f"{there.url}/in/garmin?key={PUSH_SECRET}"
        sandbox.set_endpoint("garmin", address, "ping")
        user = connected(there, "garmin", "mara")
        due = clock.advance(minutes=1)
        # Its token has ended, or never was one.
        gone = {
            "userId": PEOPLE["mara"].account_id,
            "callbackURL": f"{sandbox.url}/garmin/wellness-api/rest/dailies?token=gone",
        }
        assert httpx.post(address, json={"dailies": [gone]}, trust_env=False).status_code == 200
        assert fetch_user(workspace, user, 3).failures == {}
        before = workspace.registry.load_states([user.user_id])[user.user_id]
        sandbox.deliver("garmin")
        sandbox.fault("500", path="^/garmin/wellness-api/rest/sleeps$", times=None)
        report = take_in(workspace, GARMIN)
        assert report is not None
        # Lost is the one that leads to nothing; nights are tried again, all others are there.
        assert (report.parked, report.postponed) == (1, 1)
        rows = contents(workspace, [user])
        assert rows["sleep"] == []
        assert all(rows[table] for table in ("activity", "body", "daily", "menstruation"))
        # Following links is no fetch: the next one is due when it was.
        after = workspace.registry.load_states([user.user_id])[user.user_id]
        assert (after.next_due_at, after.failures) == (before.next_due_at, 0)
        assert before.next_due_at is not None
        assert before.next_due_at > due
        for attempt in range(2, 12):
            report = take_in(workspace, GARMIN)
            assert report is not None
            assert (report.parked, report.postponed) == (0, 1), attempt
        report = take_in(workspace, GARMIN)
        assert report is not None
        assert (report.parked, report.postponed) == (1, 0)
        assert take_in(workspace, GARMIN) is not None
        assert not has_pushes(workspace.lake.storage, "garmin")


@pytest.mark.slow
@pytest.mark.usefixtures("calm_client")
def test_permissions_that_change_and_people_who_leave(tmp_path: Path) -> None:
    clock = StandingClock(NOW)
    with SandboxProcess(now=NOW) as sandbox, served(tmp_path / "home", sandbox, clock) as there:
        workspace = there.workspace
        sandbox.set_endpoint("garmin", f"{there.url}/in/garmin?key={PUSH_SECRET}")
        mara, nilo = (connected(there, "garmin", name) for name in ("mara", "nilo"))

        def permit(*permissions: str) -> None:
            url = f"{sandbox.url}/garmin/control/permissions"
            body = {"person": "mara", "permissions": permissions}
            httpx.post(url, json=body, trust_env=False).raise_for_status()
            sandbox.deliver("garmin")

        permit("HEALTH_EXPORT")
        take_in(workspace, GARMIN)
        assert fetch_user(workspace, mara, 5).failures == {}
        sandbox.deliver("garmin")
        take_in(workspace, GARMIN)
        assert contents(workspace, [mara])["daily"] == []

        # Let history out: the note makes the person due, and what was missed is ordered.
        later = clock.advance(minutes=5)
        sandbox.set_clock(later)
        assert mara.user_id not in {
            one.user_id for one in workspace.registry.due_users(later, ["garmin"])
        }
        permit("HEALTH_EXPORT", "HISTORICAL_DATA_EXPORT")
        take_in(workspace, GARMIN)
        assert mara.user_id in {
            one.user_id for one in workspace.registry.due_users(later, ["garmin"])
        }
        assert fetch_user(workspace, mara).failures == {}
        sandbox.deliver("garmin")
        report = take_in(workspace, GARMIN)
        assert report is not None
        assert report.parked == 0
        assert len(contents(workspace, [mara])["daily"]) >= 5

        # Of two people one leaves through us, the other at Garmin: it tells us of both.
        disconnect(workspace, mara, GARMIN)
        assert workspace.registry.load_credentials(mara.user_id) == {}
        sandbox.deliver("garmin")
        take_in(workspace, GARMIN)
        body = {"deregistrations": [{"userId": PEOPLE["nilo"].account_id}]}
        url = f"{there.url}/in/garmin?key={PUSH_SECRET}"
        assert httpx.post(url, json=body, trust_env=False).status_code == 200
        take_in(workspace, GARMIN)
        gone = workspace.registry.get_user(nilo.user_id)
        assert gone.status == "revoked"
        assert str(gone.status_reason).startswith("access_revoked")


# --- recorded elsewhere


def normalized(corpus: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    body = (corpus / "garmin" / name).read_bytes()
    found = inspect_body(GARMIN, body, name=name, now=NOW)
    assert (found.unknown_fields, found.rejected) == ([], [])
    return found.tables


@pytest.mark.corpus
def test_documented_days_and_epochs(corpus: Path) -> None:
    first, second = normalized(corpus, "dailies__1.json")["daily"]
    assert (first["local_date"], second["local_date"]) == (date(2016, 1, 11), date(2016, 1, 12))
    assert (first["distance_steps"], second["distance_steps"]) == (4210, 3305)
    assert first["stress_avg_stress_level"] == 43.0
    assert first["heart_rate_summary_avg_hr_bpm"] is None
    # 1452470400 is 2016-01-11 00:00 UTC; an hour ahead, and 15 s later.
    assert first["heart_rate_detailed_hr_samples"][0]["local_timestamp"] == naive(
        "2016-01-11T01:00:15"
    )
    (day,) = normalized(corpus, "epochs__1.json")["daily"]
    # 1519679700 is 2018-02-26 21:15 UTC, six hours behind.
    (steps,) = day["distance_detailed_step_samples"]
    assert (steps["local_timestamp"], steps["steps"]) == (naive("2018-02-26T15:15:00"), 93.0)


@pytest.mark.corpus
def test_documented_nights_and_variability(corpus: Path) -> None:
    first, second = normalized(corpus, "sleeps__1.json")["sleep"]
    # 11231 + 3541 + 0, and 9446 + 0 + 2142
    column = "sleep_durations_asleep_duration_asleep_state_seconds"
    assert (first[column], second[column]) == (14_772.0, 11_588.0)
    # 1452419581 is 09:53:01 UTC; 15264 s are 4 h 14 min 24 s.
    assert first["end_at"] == at("2016-01-10T14:07:25+00:00")
    assert second["scores_sleep"] == 87.0
    assert len(second["respiration_oxygen_saturation_samples"]) == 7
    night, nap = normalized(corpus, "sleeps__2.json")["sleep"]
    assert (night["metadata_is_nap"], nap["metadata_is_nap"]) == (False, True)
    # 1690916700 is 2023-08-01 19:05 UTC, five hours behind.
    assert nap["local_start_at"] == naive("2023-08-01T14:05:00")
    (day,) = normalized(corpus, "hrv__1.json")["daily"]
    assert day["heart_rate_summary_avg_hrv_rmssd"] == 44.0
    assert [s["hrv_rmssd"] for s in day["heart_rate_detailed_hrv_samples_rmssd"]][:3] == [
        *(32.0, 24.0, 31.0)
    ]


@pytest.mark.corpus
def test_documented_bodies_and_activities(corpus: Path) -> None:
    first, second = normalized(corpus, "bodyComps__1.json")["body"]
    weights = [row["measurements_measurements"][0]["weight_kg"] for row in (first, second)]
    assert weights == [75.45, 75.173]
    (pressure,) = normalized(corpus, "bloodPressures__2.json")["body"]
    (sample,) = pressure["blood_pressure_blood_pressure_samples"]
    # 1781643600 is 2026-06-16 21:00 UTC, five hours behind.
    assert sample["local_timestamp"] == naive("2026-06-16T16:00:00")
    assert (sample["systolic_bp"], sample["diastolic_bp"]) == (112.0, 73.0)
    run, ride = normalized(corpus, "activities__1.json")["activity"]
    assert (run["metadata_type"], ride["metadata_type"]) == ("running", "biking")
    # Doc samples hold a run of 519 km.
    assert run["distance_summary_distance_meters"] == 519_818.125
    longer, _ = normalized(corpus, "activities__2.json")["activity"]
    # Nobody says the offset of 2024-01-15 09:00 UTC.
    assert (longer["start_at"], longer["local_start_at"]) == (
        at("2024-01-15T09:00:00+00:00"),
        None,
    )
    (move,) = normalized(corpus, "moveIQActivities__1.json")["activity"]
    assert move["metadata_type"] == "running"
