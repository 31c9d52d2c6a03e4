"""Google Health's points as rows; expected values are worked out by hand from the bodies below."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from wearable_pipeline.destinations.delivery import user_info
from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Connection,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Removed,
    Window,
)
from wearable_pipeline.providers._oauth import app_of
from wearable_pipeline.providers.google_health import (
    EXERCISES,
    answer_challenge,
    fetch,
    identify,
    read_push,
)
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.push import RefusedError, check_proof, take_in
from wearable_pipeline.raw.store import Arrival
from wearable_pipeline.sandbox.google_health import PEOPLE
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import ProviderSettings
from wearable_pipeline.tables.inspect import Inspection, inspect_body
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import PUSH_SECRET, connected, contents, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as fetch_days

HEALTH = get_provider("google_health")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def records(resource: str, *points: object, timezone: str | None = None) -> list[Record]:
    body = json.dumps({"dataPoints": points}).encode()
    return list(HEALTH.resource(resource).split(Page(resource, body, NOW, {"timezone": timezone})))


def one_row(rows: Any, table: str, *found: list[Record]) -> dict[str, Any]:
    result = rows("google_health", table, [record for some in found for record in some])
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def has(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: row[name] for name in expected} == expected


def civil(text: str) -> dict[str, Any]:
    day = date.fromisoformat(text)
    return {"date": {"year": day.year, "month": day.month, "day": day.day}}


def rolled(key: str, value: object, day: str = "2026-11-19", end: str = "2026-11-20") -> Any:
    start = {**civil(day), "time": {}}
    return {"civilStartTime": start, "civilEndTime": civil(end), key: value}


def span(start: str, end: str, offset: str = "-18000s") -> dict[str, str]:
    return {
        "startTime": start,
        "startUtcOffset": offset,
        "endTime": end,
        "endUtcOffset": offset,
    }


def moment(stamp: str, offset: str | None = "3600s") -> dict[str, str]:
    return {"physicalTime": stamp, **({"utcOffset": offset} if offset else {})}


def inspect(body: object, resource: str | None = None) -> Inspection:
    told = body if isinstance(body, bytes) else json.dumps(body).encode()
    return inspect_body(HEALTH, told, name="body", now=NOW, resource_name=resource)


# --- days


def test_all_roll_ups_of_a_day_are_one_row(rows: Any) -> None:
    levels = [
        {"activityLevel": "LIGHT", "activeMinutesSum": "180"},
        {"activityLevel": "MODERATE", "activeMinutesSum": "25"},
        {"activityLevel": "VIGOROUS", "activeMinutesSum": "10"},
    ]
    zones = [
        {"heartRateZone": "LIGHT", "duration": "5400s"},
        {"heartRateZone": "PEAK", "duration": "90.5s"},
    ]
    told = {
        "steps": ("steps", {"countSum": "9876"}),
        "distance": ("distance", {"millimetersSum": "7654321"}),
        "floors": ("floors", {"countSum": "12"}),
        "altitude": ("altitude", {"gainMillimetersSum": "36576"}),
        "active_energy_burned": ("activeEnergyBurned", {"kcalSum": 612.5}),
        "total_calories": ("totalCalories", {"kcalSum": 2431.25}),
        "active_minutes": ("activeMinutes", {"activeMinutesRollupByActivityLevel": levels}),
        "sedentary_period": ("sedentaryPeriod", {"durationSum": "36000s"}),
        "time_in_heart_rate_zone": ("timeInHeartRateZone", {"timeInHeartRateZones": zones}),
        "swim_lengths_data": ("swimLengthsData", {"strokeCountSum": "420"}),
        "heart_rate": (
            "heartRate",
            {"beatsPerMinuteAvg": 71.5, "beatsPerMinuteMin": 47, "beatsPerMinuteMax": 164},
        ),
    }
    found = [
        record
        for name, (key, value) in told.items()
        for record in records(f"{name}_roll_up", rolled(key, value))
    ]
    row = one_row(rows, "daily", found)
    has(
        row,
        {
            "local_date": date(2026, 11, 19),
            "start_at": None,
            "local_start_at": naive("2026-11-19T00:00:00"),
            "local_end_at": naive("2026-11-20T00:00:00"),
            "utc_offset_seconds": None,
            "tz_source": "unknown",
            "distance_steps": 9876,
            "distance_distance_meters": 7654.321,
            "distance_floors_climbed": 12,
            "distance_elevation_gain_actual_meters": 36.576,
            "calories_net_activity_calories": 612.5,
            "calories_total_burned_calories": 2431.25,
            # 180, 25 and 10 minutes.
            "active_durations_low_intensity_seconds": 10_800.0,
            "active_durations_moderate_intensity_seconds": 1500.0,
            "active_durations_vigorous_intensity_seconds": 600.0,
            "active_durations_inactivity_seconds": 36_000.0,
            "distance_swimming_num_strokes": 420,
            "heart_rate_summary_avg_hr_bpm": 71.5,
            "heart_rate_summary_min_hr_bpm": 47.0,
            "heart_rate_summary_max_hr_bpm": 164.0,
        },
    )
    told_zones = [
        (zone["zone"], zone["name"], zone["duration_seconds"])
        for zone in row["heart_rate_summary_hr_zone"]
    ]
    assert told_zones == [(1, "light", 5400.0), (4, "peak", 90.5)]


def test_whole_numbers_are_read_with_and_without_quotes(rows: Any) -> None:
    for sent in ("10500", 10500, 10500.0):
        found = records("steps_roll_up", rolled("steps", {"countSum": sent}))
        assert one_row(rows, "daily", found)["distance_steps"] == 10500


def test_days_without_data_are_absent_and_a_zero_is_a_zero(rows: Any) -> None:
    empty = records("steps_roll_up", rolled("steps", {}))
    assert rows("google_health", "daily", empty).rows.is_empty()
    zero = records("steps_roll_up", rolled("steps", {"countSum": "0"}))
    assert one_row(rows, "daily", zero)["distance_steps"] == 0


def test_a_sum_of_several_days_is_not_taken_for_one(rows: Any) -> None:
    week = records("steps_roll_up", rolled("steps", {"countSum": "70000"}, end="2026-11-26"))
    result = rows("google_health", "daily", week)
    assert result.rows.is_empty()
    assert "one whole day" in result.rejected["reason"][0]


def test_a_day_nobody_can_read_is_lost_alone(rows: Any) -> None:
    broken = rolled("steps", {"countSum": "1"})
    broken["civilStartTime"] = {"date": {"year": 2026, "month": 13, "day": 1}}
    found = records("steps_roll_up", broken, rolled("steps", {"countSum": "2"}))
    result = rows("google_health", "daily", found)
    assert result.rows["distance_steps"].to_list() == [2]
    assert result.rejected["reason"].to_list() == ["time: missing or not a date"]


def test_values_of_a_day_have_a_date_and_no_time(rows: Any) -> None:
    day = civil("2026-11-19")
    found = [
        records(
            "daily_resting_heart_rate", {"dailyRestingHeartRate": {**day, "beatsPerMinute": "54"}}
        ),
        records(
            "daily_heart_rate_variability",
            {
                "dailyHeartRateVariability": {
                    **day,
                    "averageHeartRateVariabilityMilliseconds": 41.25,
                    "entropy": 2.5,
                }
            },
        ),
        records(
            "daily_oxygen_saturation", {"dailyOxygenSaturation": {**day, "averagePercentage": 96.5}}
        ),
        records("daily_vo2_max", {"dailyVo2Max": {**day, "vo2Max": 44.5, "estimated": True}}),
    ]
    has(
        one_row(rows, "daily", *found),
        {
            "local_date": date(2026, 11, 19),
            "start_at": None,
            "heart_rate_summary_resting_hr_bpm": 54.0,
            "heart_rate_summary_avg_hrv_rmssd": 41.25,
            "oxygen_avg_saturation_percentage": 96.5,
            "oxygen_vo2max_ml_per_min_per_kg": 44.5,
        },
    )


def test_breaths_and_the_warmth_of_the_skin_belong_to_the_main_night_of_their_date(
    rows: Any,
) -> None:
    day = civil("2026-11-19")
    breaths = records(
        "daily_respiratory_rate", {"dailyRespiratoryRate": {**day, "breathsPerMinute": 14.25}}
    )
    warmth = {
        **day,
        "nightlyTemperatureCelsius": 34.5,
        "baselineTemperatureCelsius": 34.25,
        "relativeNightlyStddev30dCelsius": 0.5,
    }
    temperature = records(
        "daily_sleep_temperature_derivations", {"dailySleepTemperatureDerivations": warmth}
    )
    # Whatever comes first.
    for found in ([breaths, temperature, records("sleep", NIGHT)], [records("sleep", NIGHT)]):
        row = one_row(rows, "sleep", *found, *([] if len(found) > 1 else [breaths, temperature]))
        has(
            row,
            {
                "metadata_summary_id": "night-1",
                "local_date": date(2026, 11, 19),
                "respiration_breaths_avg_breaths_per_min": 14.25,
                "temperature_delta": 0.25,
            },
        )
    alone = one_row(rows, "sleep", breaths)
    has(alone, {"metadata_summary_id": "night-2026-11-19", "temperature_delta": None})


def test_the_warmth_of_a_night_without_a_baseline_is_no_difference(rows: Any) -> None:
    value = {**civil("2026-11-19"), "nightlyTemperatureCelsius": 34.5}
    found = records(
        "daily_sleep_temperature_derivations", {"dailySleepTemperatureDerivations": value}
    )
    assert rows("google_health", "sleep", found).rows.is_empty()


def test_samples_of_a_day(rows: Any) -> None:
    found = [
        records(
            "heart_rate",
            {
                "heartRate": {
                    "sampleTime": moment("2026-11-19T23:30:00Z"),
                    "beatsPerMinute": "61",
                    "metadata": {"motionContext": "SEDENTARY"},
                }
            },
        ),
        records(
            "steps",
            {
                "steps": {
                    "interval": span("2026-11-20T08:00:00Z", "2026-11-20T08:01:00Z", "3600s"),
                    "count": "87",
                }
            },
        ),
        records(
            "heart_rate_variability",
            {
                "heartRateVariability": {
                    "sampleTime": moment("2026-11-20T02:00:00.5Z"),
                    "rootMeanSquareOfSuccessiveDifferencesMilliseconds": 38.25,
                }
            },
        ),
    ]
    row = one_row(rows, "daily", *found)
    # 23:30 in UTC is half past midnight where the person was.
    assert row["local_date"] == date(2026, 11, 20)
    assert row["heart_rate_detailed_hr_samples"] == [
        {
            "timestamp": at("2026-11-19T23:30:00+00:00"),
            "local_timestamp": naive("2026-11-20T00:30:00"),
            "bpm": 61.0,
            "timer_duration_seconds": None,
            "context": "not_active",
        }
    ]
    (steps,) = row["distance_detailed_step_samples"]
    assert (steps["local_timestamp"], steps["steps"]) == (naive("2026-11-20T09:00:00"), 87)
    (rmssd,) = row["heart_rate_detailed_hrv_samples_rmssd"]
    assert (rmssd["timestamp"], rmssd["hrv_rmssd"]) == (at("2026-11-20T02:00:00.5+00:00"), 38.25)
    assert row["heart_rate_detailed_hrv_samples_sdnn"] is None
    assert (row["tz_source"], row["utc_offset_seconds"]) == ("provider", 3600)


# --- measurements


def test_weight_and_fat_are_measurements_in_kilograms_and_percent(rows: Any) -> None:
    weight = {"weight": {"weightGrams": 80250.0, "sampleTime": moment("2026-11-19T06:30:00Z")}}
    fat = {"bodyFat": {"percentage": 21.5, "sampleTime": moment("2026-11-19T06:30:00Z")}}
    height = {"height": {"heightMillimeters": "1785", "sampleTime": moment("2026-11-19T06:31:00Z")}}
    row = one_row(
        rows,
        "body",
        records("weight", weight),
        records("body_fat", fat),
        records("height", height),
        records("weight_roll_up", rolled("weight", {"weightGramsAvg": 80300.0})),
        records(
            "hydration_log_roll_up",
            rolled("hydrationLog", {"amountConsumed": {"millilitersSum": 1750}}),
        ),
    )
    told = [
        (one["weight_kg"], one["bodyfat_percentage"], one["height_cm"])
        for one in row["measurements_measurements"]
    ]
    assert sorted(told, key=str) == [(80.25, None, None), (None, 21.5, None), (None, None, 178.5)]
    assert {one["local_measurement_time"] for one in row["measurements_measurements"]} == {
        naive("2026-11-19T07:30:00"),
        naive("2026-11-19T07:31:00"),
    }
    has(
        row,
        {
            "measurements_day_avg_weight_kg": 80.3,
            "hydration_day_total_water_consumption_ml": 1750.0,
        },
    )


def test_without_an_offset_the_zone_of_the_person_counts_or_nothing(rows: Any) -> None:
    weight = {
        "weight": {"weightGrams": 80000.0, "sampleTime": {"physicalTime": "2026-11-19T23:30:00Z"}}
    }
    row = one_row(rows, "body", records("weight", weight))
    has(
        row,
        {
            "local_date": date(2026, 11, 19),
            "local_start_at": None,
            "utc_offset_seconds": None,
            "timezone": None,
            "tz_source": "unknown",
        },
    )
    assert row["measurements_measurements"][0]["local_measurement_time"] is None
    row = one_row(rows, "body", records("weight", weight, timezone="Europe/Berlin"))
    has(
        row, {"local_date": date(2026, 11, 20), "timezone": "Europe/Berlin", "tz_source": "profile"}
    )
    assert row["measurements_measurements"][0]["local_measurement_time"] == naive(
        "2026-11-20T00:30:00"
    )


def test_glucose_keeps_its_unit_its_meter_and_how_it_was_taken(rows: Any) -> None:
    point = {
        "name": "users/me/dataTypes/blood-glucose/dataPoints/7",
        "dataSource": {"platform": "HEALTH_CONNECT", "device": {"displayName": "Meter 3"}},
        "bloodGlucose": {
            "bloodGlucoseMilligramsPerDeciliter": 104.5,
            "measurementSource": "SELF_MONITORING_BLOOD_GLUCOSE",
            "mealType": "LUNCH",
            "sampleTime": moment("2026-11-19T12:00:00Z"),
        },
    }
    (sample,) = one_row(rows, "body", records("blood_glucose", point))[
        "glucose_blood_glucose_samples"
    ]
    has(
        sample,
        {
            "timestamp": at("2026-11-19T12:00:00+00:00"),
            "blood_glucose_mg_per_dl": 104.5,
            "native_value": 104.5,
            "native_unit": "mg/dL",
            "sample_kind": "fingerstick",
            "device_id": "Meter 3",
        },
    )


def test_an_electrocardiogram_is_in_microvolts_and_an_offset_of_zero_says_nothing(
    rows: Any,
) -> None:
    reading = {
        "name": "users/me/dataTypes/electrocardiogram/dataPoints/9",
        "electrocardiogram": {
            "interval": span("2026-11-19T10:00:00Z", "2026-11-19T10:00:30Z", "0s"),
            "beatsPerMinuteAvg": "62",
            "resultClassification": "ATRIAL_FIBRILLATION",
            "samplingFrequencyHertz": 250,
            "millivoltsScalingFactor": 10000,
            "waveformSamples": [100, -250],
        },
    }
    row = one_row(rows, "body", records("electrocardiogram", reading))
    (found,) = row["heart_ecg_signal"]
    assert (found["avg_hr_bpm"], found["afib_classification"]) == (62.0, "positive")
    assert found["local_start_timestamp"] is None
    # 100 of 10,000 to the millivolt are 10 microvolts; 250 in a second are one every 4 ms.
    assert [(p["timestamp"], p["potential_uv"]) for p in found["raw_signal"]] == [
        (at("2026-11-19T10:00:00+00:00"), 10.0),
        (at("2026-11-19T10:00:00.004+00:00"), -25.0),
    ]
    zoned = one_row(rows, "body", records("electrocardiogram", reading, timezone="Asia/Tokyo"))
    assert zoned["heart_ecg_signal"][0]["local_start_timestamp"] == naive("2026-11-19T19:00:00")


# --- sessions

NIGHT: dict[str, Any] = {
    "dataPointName": "users/me/dataTypes/sleep/dataPoints/night-1",
    "sleep": {
        "interval": span("2026-11-19T03:30:00Z", "2026-11-19T05:00:00Z"),
        "type": "STAGES",
        "stages": [
            {**span("2026-11-19T03:30:00Z", "2026-11-19T04:00:00Z"), "type": "LIGHT"},
            {**span("2026-11-19T04:00:00Z", "2026-11-19T04:20:00Z"), "type": "DEEP"},
            {**span("2026-11-19T04:20:00Z", "2026-11-19T04:30:00Z"), "type": "AWAKE"},
            {**span("2026-11-19T04:30:00Z", "2026-11-19T05:00:00Z"), "type": "REM"},
        ],
        "summary": {
            "minutesInSleepPeriod": "90",
            "minutesAsleep": "80",
            "minutesAwake": "10",
            "minutesToFallAsleep": "0",
            "minutesAfterWakeUp": "3",
            "stagesSummary": [
                {"type": "AWAKE", "minutes": "10", "count": "1"},
                {"type": "LIGHT", "minutes": "30", "count": "1"},
                {"type": "DEEP", "minutes": "20", "count": "1"},
                {"type": "REM", "minutes": "30", "count": "2"},
            ],
        },
        "metadata": {"mainSleep": True, "processed": True, "stagesStatus": "SUCCEEDED"},
        "updateTime": "2026-11-19T06:00:00.123456789Z",
    },
}


def test_a_night(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleep", NIGHT))
    has(
        row,
        {
            "metadata_summary_id": "night-1",
            "metadata_is_nap": False,
            "metadata_upload_type": "unknown",
            "local_date": date(2026, 11, 19),
            "start_at": at("2026-11-19T03:30:00+00:00"),
            "local_start_at": naive("2026-11-18T22:30:00"),
            "end_at": at("2026-11-19T05:00:00+00:00"),
            "local_end_at": naive("2026-11-19T00:00:00"),
            "utc_offset_seconds": -18000,
            "sleep_durations_asleep_duration_asleep_state_seconds": 4800.0,
            "sleep_durations_asleep_duration_light_sleep_state_seconds": 1800.0,
            "sleep_durations_asleep_duration_deep_sleep_state_seconds": 1200.0,
            "sleep_durations_asleep_duration_rem_sleep_state_seconds": 1800.0,
            "sleep_durations_asleep_num_rem_events": 2,
            "sleep_durations_awake_duration_awake_state_seconds": 600.0,
            "sleep_durations_awake_sleep_latency_seconds": 0.0,
            "sleep_durations_awake_wake_up_latency_seconds": 180.0,
            "sleep_durations_awake_num_wakeup_events": 1,
            "sleep_durations_other_duration_in_bed_seconds": 5400.0,
            "sleep_durations_sleep_efficiency": None,
        },
    )
    assert [
        (one["local_timestamp"], one["level"]) for one in row["sleep_durations_hypnogram_samples"]
    ] == [
        (naive("2026-11-18T22:30:00"), "light_sleep"),
        (naive("2026-11-18T23:00:00"), "deep_sleep"),
        (naive("2026-11-18T23:20:00"), "awake"),
        (naive("2026-11-18T23:30:00"), "rem_sleep"),
    ]


def test_short_awakenings_lie_over_the_stages_and_ways_out_of_bed_over_both(rows: Any) -> None:
    def stretch(start: str, end: str, kind: str | None = None) -> dict[str, str]:
        told = span(f"2026-11-19T{start}:00Z", f"2026-11-19T{end}:00Z")
        return {**told, **({"type": kind} if kind else {})}

    night = {
        "dataPointName": "users/me/dataTypes/sleep/dataPoints/restless",
        "sleep": {
            "interval": span("2026-11-19T03:00:00Z", "2026-11-19T05:00:00Z"),
            "stages": [stretch("03:00", "04:00", "LIGHT"), stretch("04:00", "05:00", "DEEP")],
            # The second goes on into the next stage, and ends out of bed.
            "shortAwakenings": [
                stretch("03:10", "03:12", "AWAKE"),
                stretch("03:58", "04:03", "AWAKE"),
            ],
            "outOfBedSegments": [stretch("04:01", "04:05")],
        },
    }
    row = one_row(rows, "sleep", records("sleep", night))
    assert [
        (f"{one['timestamp']:%H:%M}", one["level"])
        for one in row["sleep_durations_hypnogram_samples"]
    ] == [
        ("03:00", "light_sleep"),
        ("03:10", "awake"),
        ("03:12", "light_sleep"),
        ("03:58", "awake"),
        # A stage began under it.
        ("04:00", "awake"),
        ("04:01", "out_of_bed"),
        ("04:03", "out_of_bed"),
        ("04:05", "deep_sleep"),
    ]


def test_a_stage_whose_time_nobody_can_read_is_named_and_the_night_stays(rows: Any) -> None:
    night = json.loads(json.dumps(NIGHT).replace("2026-11-19T04:20:00Z", "soon"))
    result = rows("google_health", "sleep", records("sleep", night))
    (levels,) = result.rows["sleep_durations_hypnogram_samples"].to_list()
    # When the deep sleep began is known, only not when it ended.
    assert [one["level"] for one in levels] == ["light_sleep", "deep_sleep", "rem_sleep"]
    assert result.rejected.height == 1
    assert "timestamp" in result.rejected["reason"][0]


@pytest.mark.parametrize("count", ["NaN", 1e300, 10**20, "many"])
def test_a_count_that_is_none_is_left_out_and_the_night_stays(rows: Any, count: object) -> None:
    night = json.loads(json.dumps(NIGHT))
    night["sleep"]["summary"]["stagesSummary"] = [
        {"type": "REM", "minutes": "30", "count": count},
        {"type": "AWAKE", "minutes": "10", "count": "1"},
    ]
    has(
        one_row(rows, "sleep", records("sleep", night)),
        {
            "sleep_durations_asleep_num_rem_events": None,
            "sleep_durations_asleep_duration_rem_sleep_state_seconds": 1800.0,
            "sleep_durations_awake_num_wakeup_events": 1,
        },
    )


def test_the_night_the_clocks_change_is_as_long_as_it_was(rows: Any) -> None:
    # Paris, 25 October 2026: at 03:00 it is 02:00 again. 23:00 to 07:00 on the wall are nine hours.
    night = {
        "dataPointName": "users/me/dataTypes/sleep/dataPoints/long",
        "sleep": {
            "interval": {
                "startTime": "2026-10-24T21:00:00Z",
                "startUtcOffset": "7200s",
                "endTime": "2026-10-25T06:00:00Z",
                "endUtcOffset": "3600s",
            }
        },
    }
    row = one_row(rows, "sleep", records("sleep", night))
    assert row["local_start_at"] == naive("2026-10-24T23:00:00")
    assert row["local_end_at"] == naive("2026-10-25T07:00:00")
    assert row["end_at"] - row["start_at"] == timedelta(hours=9)
    assert row["local_date"] == date(2026, 10, 25)


def test_somebody_still_asleep_has_no_row_and_nothing_is_refused(rows: Any) -> None:
    asleep = {
        "name": "users/me/dataTypes/sleep/dataPoints/open",
        "sleep": {"interval": {"startTime": "2026-11-20T03:00:00Z", "startUtcOffset": "-07:00"}},
    }
    result = rows("google_health", "sleep", records("sleep", asleep, NIGHT))
    assert result.rows["metadata_summary_id"].to_list() == ["night-1"]
    assert result.rejected.is_empty()


def test_a_nap_of_a_classic_tracker_that_is_not_scored_yet(rows: Any) -> None:
    nap = {
        "name": "users/me/dataTypes/sleep/dataPoints/nap",
        "dataSource": {"recordingMethod": "DERIVED", "device": {"displayName": "Band"}},
        "sleep": {
            "interval": span("2026-11-19T18:00:00Z", "2026-11-19T18:40:00Z"),
            "type": "CLASSIC",
            "stages": [
                {**span("2026-11-19T18:00:00Z", "2026-11-19T18:30:00Z"), "type": "ASLEEP"},
                {**span("2026-11-19T18:30:00Z", "2026-11-19T18:40:00Z"), "type": "RESTLESS"},
            ],
            "metadata": {"nap": True, "mainSleep": False, "processed": False},
        },
    }
    row = one_row(rows, "sleep", records("sleep", nap))
    has(row, {"metadata_is_nap": True, "metadata_upload_type": "tentative", "device_name": "Band"})
    levels = [one["level"] for one in row["sleep_durations_hypnogram_samples"]]
    assert levels == ["sleeping", "awake"]
    nap["sleep"]["metadata"] = {"nap": True}  # type: ignore[index]
    row = one_row(rows, "sleep", records("sleep", nap))
    assert row["metadata_upload_type"] == "automatic"


def test_an_end_before_the_start_is_refused_alone(rows: Any) -> None:
    backwards = {
        "name": "users/me/dataTypes/sleep/dataPoints/bad",
        "sleep": {"interval": span("2026-11-19T05:00:00Z", "2026-11-19T03:00:00Z")},
    }
    unreadable = {
        "name": "users/me/dataTypes/sleep/dataPoints/worse",
        "sleep": {"interval": span("2026-03-0B01:29:00Z", "2026-11-19T03:00:00Z")},
    }
    result = rows("google_health", "sleep", records("sleep", backwards, unreadable, NIGHT))
    assert result.rows["metadata_summary_id"].to_list() == ["night-1"]
    assert sorted(result.rejected["record_id"].to_list()) == ["bad", "worse"]


RUN: dict[str, Any] = {
    "name": "users/77/dataTypes/exercise/dataPoints/run-1",
    "dataSource": {
        "recordingMethod": "ACTIVELY_MEASURED",
        "platform": "FITBIT",
        "device": {"displayName": "Watch 9", "manufacturer": "Maker", "formFactor": "WATCH"},
    },
    "exercise": {
        "interval": span("2026-11-19T22:00:00Z", "2026-11-19T22:31:00Z"),
        "exerciseType": "TRAIL_RUN",
        "displayName": "Trail run",
        "activeDuration": "1800.5s",
        "exerciseMetadata": {"hasGps": True},
        "metricsSummary": {
            "caloriesKcal": 321,
            "distanceMillimeters": 5000000.0,
            "steps": "5432",
            "averageHeartRateBeatsPerMinute": "151",
            "averageSpeedMillimetersPerSecond": 2777.5,
            "averagePaceSecondsPerMeter": 0.36,
            "elevationGainMillimeters": 120500.0,
            "runVo2Max": 47.5,
            "activeZoneMinutes": "40",
            "heartRateZoneDurations": {
                "lightTime": "300s",
                "moderateTime": "900s",
                "vigorousTime": "600s",
                "peakTime": "0s",
            },
        },
        "splitSummaries": [
            {
                **span("2026-11-19T22:00:00Z", "2026-11-19T22:06:00Z"),
                "splitType": "DISTANCE",
                "activeDuration": "360s",
                "metricsSummary": {
                    "distanceMillimeters": 1000000.0,
                    "averageHeartRateBeatsPerMinute": "140",
                },
            }
        ],
        "updateTime": "2026-11-19T23:00:00Z",
    },
}


def test_a_run(rows: Any) -> None:
    row = one_row(rows, "activity", records("exercise", RUN))
    has(
        row,
        {
            "metadata_summary_id": "run-1",
            "metadata_name": "Trail run",
            "metadata_type": "trail_running",
            "metadata_upload_type": "automatic",
            "device_name": "Watch 9",
            "device_manufacturer": "Maker",
            "local_date": date(2026, 11, 19),
            "start_at": at("2026-11-19T22:00:00+00:00"),
            "local_end_at": naive("2026-11-19T17:31:00"),
            "active_durations_activity_seconds": 1800.5,
            "calories_total_burned_calories": 321.0,
            "distance_summary_distance_meters": 5000.0,
            "distance_summary_steps": 5432,
            "distance_summary_elevation_gain_actual_meters": 120.5,
            "heart_rate_summary_avg_hr_bpm": 151.0,
            "movement_avg_speed_meters_per_second": 2.7775,
            # 0.36 seconds a metre are six minutes a kilometre.
            "movement_avg_pace_minutes_per_kilometer": 6.0,
            "oxygen_vo2max_ml_per_min_per_kg": 47.5,
        },
    )
    zones = [(z["zone"], z["duration_seconds"]) for z in row["heart_rate_summary_hr_zone"]]
    assert zones == [(1, 300.0), (2, 900.0), (3, 600.0), (4, 0.0)]
    (lap,) = row["lap_laps"]
    has(
        lap,
        {
            "local_start_time": naive("2026-11-19T17:00:00"),
            "end_time": at("2026-11-19T22:06:00+00:00"),
            "distance_meters": 1000.0,
            "avg_hr_bpm": 140.0,
            "calories": None,
            "active_duration_seconds": 360.0,
        },
    )


def test_a_swim_written_down_by_hand_over_midnight_is_of_the_day_it_began(rows: Any) -> None:
    swim = {
        "dataPointName": "users/me/dataTypes/exercise/dataPoints/swim-1",
        "dataSource": {"recordingMethod": "MANUAL"},
        "exercise": {
            "interval": span("2026-11-19T14:50:00Z", "2026-11-19T15:20:00Z", "32400s"),
            "exerciseType": "SWIMMING_POOL",
            "activeDuration": "1500s",
            "exerciseMetadata": {"poolLengthMillimeters": "50000"},
            "metricsSummary": {
                "caloriesKcal": 255.5,
                "distanceMillimeters": 1200000,
                "totalSwimLengths": "24",
            },
        },
    }
    row = one_row(rows, "activity", records("exercise", swim))
    has(
        row,
        {
            "metadata_summary_id": "swim-1",
            "metadata_name": None,
            "metadata_type": "swimming_in_pool",
            "metadata_upload_type": "manual",
            "device_name": None,
            # Ten to midnight, nine hours ahead.
            "local_date": date(2026, 11, 19),
            "local_start_at": naive("2026-11-19T23:50:00"),
            "local_end_at": naive("2026-11-20T00:20:00"),
            "utc_offset_seconds": 32400,
            "active_durations_activity_seconds": 1500.0,
            "calories_total_burned_calories": 255.5,
            "distance_summary_distance_meters": 1200.0,
            "distance_summary_swimming_num_laps": 24,
            "distance_summary_swimming_pool_length_meters": 50,
            "distance_summary_steps": None,
            "heart_rate_summary_avg_hr_bpm": None,
            "lap_laps": None,
        },
    )


def test_a_name_with_the_number_of_the_account_is_the_same_exercise() -> None:
    mine = {**RUN, "name": "users/me/dataTypes/exercise/dataPoints/run-1"}
    merged = {"dataPointName": mine["name"], "exercise": RUN["exercise"]}
    assert {records("exercise", one)[0].record_id for one in (RUN, mine, merged)} == {"run-1"}


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("WALKING", "walking"),
        ("CARDIO_WORKOUT", "cardio_training"),
        ("YOGA_BIKRAM", "yoga"),
        ("PICKELBALL", "other"),
        ("SOMETHING_NEW", "other"),
        ("EXERCISE_TYPE_UNSPECIFIED", "unknown"),
    ],
)
def test_words_for_exercises(rows: Any, word: str, kind: str) -> None:
    point = {**RUN, "exercise": {**RUN["exercise"], "exerciseType": word}}
    assert one_row(rows, "activity", records("exercise", point))["metadata_type"] == kind
    assert all(name == name.lower() for name in EXERCISES)


@pytest.mark.parametrize(("sent", "metres"), [("25000", 25), ("22860", None), (None, None)])
def test_a_pool_measured_in_yards_has_no_length_in_whole_metres(
    rows: Any, sent: str | None, metres: int | None
) -> None:
    told = {"poolLengthMillimeters": sent} if sent else {}
    point = {**RUN, "exercise": {**RUN["exercise"], "exerciseMetadata": told}}
    row = one_row(rows, "activity", records("exercise", point))
    assert row["distance_summary_swimming_pool_length_meters"] == metres


# --- food, drink, periods

MEAL: dict[str, Any] = {
    "dataPointName": "users/me/dataTypes/nutrition-log/dataPoints/meal-1",
    "nutritionLog": {
        "interval": span("2026-11-19T12:30:00Z", "2026-11-19T12:31:00Z", "3600s"),
        "mealType": "BEFORE_DINNER",
        "foodDisplayName": "Oats",
        "serving": {"amount": 1.5, "foodMeasurementUnitDisplayName": "Cups"},
        "energy": {"kcal": 310.5, "userProvidedUnit": "KILOCALORIE"},
        "totalCarbohydrate": {"grams": 54.0},
        "totalFat": {"grams": 5.25},
        "nutrients": [
            {"nutrient": "PROTEIN", "quantity": {"grams": 11.5}},
            {"nutrient": "SODIUM", "quantity": {"grams": 0.125}},
            {
                "nutrient": "VITAMIN_C",
                "quantity": {"grams": 0.0625, "userProvidedUnit": "MILLIGRAM"},
            },
            {"nutrient": "UNSATURATED_FAT", "quantity": {"grams": 3}},
        ],
    },
}


def test_a_meal_and_its_nutrients_in_their_units(rows: Any) -> None:
    (meal,) = one_row(rows, "nutrition", records("nutrition_log", MEAL))["meals"]
    has(
        meal,
        {
            "id": "meal-1",
            "name": "Oats",
            "local_timestamp": naive("2026-11-19T13:30:00"),
            "type": "afternoon_snack",
            "quantity_unit": "cup",
            "quantity_amount": 1.5,
            "macros_calories": 310.5,
            "macros_carbohydrates_g": 54.0,
            "macros_fat_g": 5.25,
            "macros_protein_g": 11.5,
            # Everything comes in grams.
            "macros_sodium_mg": 125.0,
            "micros_vitamin_c_mg": 62.5,
            "macros_sugar_g": None,
        },
    )


def test_a_day_of_food_and_drink(rows: Any) -> None:
    eaten = {
        "energy": {"kcalSum": 1800.0},
        "totalFat": {"gramsSum": 61.5},
        "nutrients": [
            {"nutrient": "CARBOHYDRATES", "quantity": {"gramsSum": 210}},
            {"nutrient": "CAFFEINE", "quantity": {"gramsSum": 0.25}},
        ],
    }
    water = {"amountConsumed": {"millilitersSum": 2500.0, "userProvidedUnitLast": "LITER"}}
    glass = {
        "dataPointName": "users/me/dataTypes/hydration-log/dataPoints/glass",
        "hydrationLog": {
            "interval": span("2026-11-19T09:00:00Z", "2026-11-19T09:00:00Z", "3600s"),
            "amountConsumed": {"milliliters": 250},
        },
    }
    found = [
        *records("nutrition_log_roll_up", rolled("nutritionLog", eaten)),
        *records("hydration_log_roll_up", rolled("hydrationLog", water)),
        *records("hydration_log", glass),
    ]
    row = one_row(rows, "nutrition", found)
    has(
        row,
        {
            "summary_macros_calories": 1800.0,
            "summary_macros_carbohydrates_g": 210.0,
            "summary_macros_fat_g": 61.5,
            "summary_macros_protein_g": None,
            "summary_micros_caffeine_mg": 250.0,
            "summary_water_ml": 2500.0,
        },
    )
    (drink,) = row["drink_samples"]
    assert (drink["drink_volume"], drink["drink_unit"]) == (250.0, "milliliter")
    assert one_row(rows, "daily", found)["calories_net_intake_calories"] == 1800.0


def test_a_period_is_a_span_and_says_nothing_of_its_flow(rows: Any) -> None:
    period = {
        "name": "users/me/dataTypes/menstrual-period/dataPoints/p-1",
        "dataSource": {"platform": "FITBIT", "recordingMethod": "MANUAL"},
        "menstrualPeriod": {
            "interval": span("2026-11-10T05:00:00Z", "2026-11-15T05:00:00Z"),
            "notes": "n",
        },
    }
    row = one_row(rows, "menstruation", records("menstrual_period", period))
    assert row["local_date"] == date(2026, 11, 10)
    assert row["menstruation_period_start_date"] == date(2026, 11, 10)
    assert row["menstruation_menstruation_flow"] is None
    assert row["menstruation_intervals"] == [
        {
            "start_timestamp": at("2026-11-10T05:00:00+00:00"),
            "local_start_timestamp": naive("2026-11-10T00:00:00"),
            "end_timestamp": at("2026-11-15T05:00:00+00:00"),
            "local_end_timestamp": naive("2026-11-15T00:00:00"),
            "phase": "period",
        }
    ]


def test_a_period_over_the_change_of_clocks_ends_at_midnight_as_it_began(rows: Any) -> None:
    # Clocks in New York went back an hour on the first of November.
    interval = {
        "startTime": "2026-10-30T04:00:00Z",
        "startUtcOffset": "-14400s",
        "endTime": "2026-11-03T05:00:00Z",
        "endUtcOffset": "-18000s",
    }
    point = {"name": "p-2", "menstrualPeriod": {"interval": interval}}
    row = one_row(rows, "menstruation", records("menstrual_period", point))
    assert row["local_date"] == date(2026, 10, 30)
    assert row["menstruation_period_start_date"] == date(2026, 10, 30)
    assert row["menstruation_intervals"] == [
        {
            "start_timestamp": at("2026-10-30T04:00:00+00:00"),
            "local_start_timestamp": naive("2026-10-30T00:00:00"),
            "end_timestamp": at("2026-11-03T05:00:00+00:00"),
            "local_end_timestamp": naive("2026-11-03T00:00:00"),
            "phase": "period",
        }
    ]


# --- fetching

WINDOW = Window(date(2026, 11, 12), date(2026, 11, 20), NOW)


class Answers:
    """Answers by data type and call (`steps:dailyRollUp`); remembers what was asked for."""

    def __init__(self, **of: object) -> None:
        self.of = {name.replace("__", ":").replace("_", "-"): answer for name, answer in of.items()}
        self.asked: list[tuple[str, httpx.Request]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        data_type, _, call = request.url.path.partition("/dataTypes/")[2].partition("/dataPoints")
        self.asked.append((data_type + call, request))
        planned = self.of.get(data_type + call, {})
        if isinstance(planned, list):
            planned = planned.pop(0)
        return planned if isinstance(planned, httpx.Response) else httpx.Response(200, json=planned)

    def filters(self, call: str) -> list[str]:
        return [asked.url.params["filter"] for name, asked in self.asked if name == call]


class AtBase:
    """A client for paths, with what the error table calls absent let through."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        more["accept"] = (200, 400, 403, 404)
        return await self.client.request(method, f"https://api.example{url}", **more)


def pages_of(
    client_for: Any, answers: Any, state: dict[str, object] | None = None, window: Window = WINDOW
) -> list[Page]:
    async def run() -> list[Page]:
        connection = Connection("u", {}, {}, {} if state is None else state, None, lambda: None)
        async with client_for(answers) as client:
            return [page async for page in fetch(AtBase(client), connection, window)]

    return asyncio.run(run())


def test_each_type_is_asked_for_by_the_call_and_the_time_it_has(client_for: Any) -> None:
    answers = Answers()
    pages_of(client_for, answers)
    told = {name: asked.url.params.get("filter") for name, asked in answers.asked}
    # Today and, for those who are further on, tomorrow.
    days = '>= "2026-11-12" AND {} < "2026-11-22"'
    for call, member in {
        "weight:reconcile": "weight.sample_time.civil_time",
        "sleep:reconcile": "sleep.interval.civil_end_time",
        "exercise:reconcile": "exercise.interval.civil_start_time",
        "daily-resting-heart-rate:reconcile": "daily_resting_heart_rate.date",
        "menstrual-period": "menstrual_period.interval.civil_start_time",
        "blood-glucose": "blood_glucose.sample_time.civil_time",
    }.items():
        assert told[call] == f"{member} {days.format(member)}"
    assert told["electrocardiogram"] == (
        'electrocardiogram.interval.start_time >= "2026-11-11T10:00:00Z"'
    )
    # Nothing new by the roll-ups: no samples are asked for.
    assert not {"heart-rate:reconcile", "steps:reconcile", "distance:reconcile"} & told.keys()
    sizes = {name: asked.url.params.get("pageSize") for name, asked in answers.asked}
    assert (sizes["sleep:reconcile"], sizes["weight:reconcile"]) == ("25", "10000")


def test_roll_ups_that_are_dear_are_asked_for_in_two_weeks_at_most(client_for: Any) -> None:
    answers = Answers()
    window = Window(date(2026, 11, 1), date(2026, 11, 20), NOW)
    pages_of(client_for, answers, window=window)

    def ranges(call: str) -> list[tuple[int, int]]:
        told = [json.loads(asked.content) for name, asked in answers.asked if name == call]
        assert {one["windowSizeDays"] for one in told} == {1}
        return [
            (one["range"]["start"]["date"]["day"], one["range"]["end"]["date"]["day"])
            for one in told
        ]

    # The end is left out.
    assert ranges("heart-rate:dailyRollUp") == [(1, 15), (15, 22)]
    assert ranges("steps:dailyRollUp") == [(1, 22)]
    old = Answers()
    pages_of(client_for, old, window=Window(date(2026, 10, 1), date(2026, 10, 5), NOW))
    assert old.filters("sleep:reconcile") == [
        'sleep.interval.civil_end_time >= "2026-10-01" AND sleep.interval.civil_end_time < "2026-10-06"'
    ]


def test_samples_are_asked_for_of_the_days_whose_roll_up_is_new(client_for: Any) -> None:
    state: dict[str, object] = {}

    def asked(last: str) -> list[str]:
        days = [("2026-11-15", "1"), ("2026-11-16", "2"), ("2026-11-19", last)]
        answers = Answers(
            steps__dailyRollUp={
                "rollupDataPoints": [
                    rolled(
                        "steps",
                        {"countSum": count},
                        day,
                        str(date.fromisoformat(day) + timedelta(days=1)),
                    )
                    for day, count in days
                ]
            }
        )
        pages_of(client_for, answers, state)
        return [
            text.split('"')[1] + " " + text.split('"')[3]
            for text in answers.filters("steps:reconcile")
        ]

    assert asked("3") == ["2026-11-15 2026-11-17", "2026-11-19 2026-11-20"]
    assert asked("3") == []
    assert asked("4") == ["2026-11-19 2026-11-20"]


def test_pages_are_followed_to_the_end(client_for: Any) -> None:
    answers = Answers(
        sleep__reconcile=[{"dataPoints": [NIGHT], "nextPageToken": "more"}, {"nextPageToken": ""}],
        steps__dailyRollUp=[{"nextPageToken": "next"}, {}],
    )
    found = pages_of(client_for, answers)
    assert [page.resource for page in found].count("sleep") == 2
    tokens = [
        a.url.params.get("pageToken") for name, a in answers.asked if name == "sleep:reconcile"
    ]
    assert tokens == [None, "more"]
    bodies = [json.loads(a.content) for name, a in answers.asked if name == "steps:dailyRollUp"]
    assert bodies[1] == {**bodies[0], "pageToken": "next"}


def test_pages_that_turn_in_a_circle_fail_the_fetch(client_for: Any) -> None:
    answers = Answers(exercise__reconcile={"nextPageToken": "again"})
    with pytest.raises(BadPayloadError, match="repeat themselves"):
        pages_of(client_for, answers)


def test_a_type_without_permission_is_left_out_and_none_at_all_is_an_error(client_for: Any) -> None:
    answers = Answers(nutrition_log__reconcile=httpx.Response(403))
    names = {page.resource for page in pages_of(client_for, answers)}
    assert "nutrition_log" not in names
    assert {"sleep", "exercise", "steps_roll_up"} <= names
    with pytest.raises(PermanentError, match="no permission"):
        pages_of(client_for, lambda _: httpx.Response(403))


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_type_that_is_refused_stops_no_other_and_is_said_once(
    client_for: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    state: dict[str, object] = {}
    answers = Answers(
        daily_vo2_max__reconcile=httpx.Response(status, json={"error": {"message": "anna@mail"}}),
        sleep__reconcile={"dataPoints": [NIGHT]},
    )
    everything = {page.resource for page in pages_of(client_for, Answers())}
    for _ in range(2):
        found = {page.resource for page in pages_of(client_for, answers, state)}
        assert found == everything - {"daily_vo2_max"}
    # Asked for each time, and logged without a word of the answer.
    assert [name for name, _ in answers.asked].count("daily-vo2-max:reconcile") == 2
    assert [record.message for record in caplog.records] == [
        f"google_health: daily_vo2_max is refused (HTTP {status})"
    ]


def days_asked(answers: Answers, call: str) -> list[tuple[str, str]]:
    """First days of the filters, and the days after the last."""
    return [(text.split('"')[1], text.split('"')[3]) for text in answers.filters(call)]


def test_days_a_type_was_refused_for_are_asked_for_when_it_is_not(client_for: Any) -> None:
    state: dict[str, object] = {}
    refused = Answers(weight__reconcile=httpx.Response(403))
    # Forty days of history, and a fetch of the present two weeks ago.
    pages_of(client_for, refused, state, Window(date(2026, 9, 1), date(2026, 10, 10), NOW))
    earlier = NOW - timedelta(days=14)
    pages_of(client_for, refused, state, Window(date(2026, 10, 30), earlier.date(), earlier))
    stored = json.loads(json.dumps(state))

    granted = Answers()
    pages_of(client_for, granted, stored)
    present = ("2026-11-12", "2026-11-22")
    # The present, and what is newest of the others.
    assert days_asked(granted, "weight:reconcile") == [present, ("2026-10-30", "2026-11-08")]
    assert days_asked(granted, "height:reconcile") == [present]
    # Then history, thirty days at a time, and no more.
    for following in [
        [present, ("2026-09-11", "2026-10-11")],
        [present, ("2026-09-01", "2026-09-11")],
        [present],
    ]:
        granted.asked.clear()
        pages_of(client_for, granted, stored)
        assert days_asked(granted, "weight:reconcile") == following
    # History does not wait for what history was refused.
    elsewhere = json.loads(json.dumps(state))
    old = Answers()
    pages_of(client_for, old, elsewhere, Window(date(2026, 8, 1), date(2026, 8, 5), NOW))
    assert days_asked(old, "weight:reconcile") == [("2026-08-01", "2026-08-06")]


def test_days_google_never_gives_are_asked_for_once_a_day(client_for: Any) -> None:
    state: dict[str, object] = {}

    def weighed(now: datetime) -> list[str]:
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            if not request.url.path.endswith("weight/dataPoints:reconcile"):
                return httpx.Response(200, json={})
            asked.append(request.url.params["filter"].split('"')[1])
            return httpx.Response(400 if asked[-1] < "2026-11-01" else 200, json={})

        pages_of(client_for, answer, state, Window(date(2026, 11, 12), now.date(), now))
        return asked

    pages_of(
        client_for,
        Answers(weight__reconcile=httpx.Response(400)),
        state,
        Window(date(2026, 9, 1), date(2026, 9, 9), NOW),
    )
    assert weighed(NOW) == ["2026-11-12", "2026-09-01"]
    assert weighed(NOW + timedelta(hours=1)) == ["2026-11-12"]
    assert weighed(NOW + timedelta(hours=2)) == ["2026-11-12"]
    assert weighed(NOW + timedelta(days=1)) == ["2026-11-12", "2026-09-01"]


def test_samples_that_were_refused_are_asked_for_though_their_roll_up_is_old(
    client_for: Any,
) -> None:
    state: dict[str, object] = {}
    day = {"rollupDataPoints": [rolled("steps", {"countSum": "7"})]}
    refused = Answers(steps__dailyRollUp=day, steps__reconcile=httpx.Response(404))
    pages_of(client_for, refused, state)
    assert days_asked(refused, "steps:reconcile") == [("2026-11-19", "2026-11-20")]
    for expected in ([("2026-11-19", "2026-11-20")], []):
        again = Answers(steps__dailyRollUp=day)
        pages_of(client_for, again, state)
        assert days_asked(again, "steps:reconcile") == expected


def test_a_type_refused_at_its_second_page_keeps_the_first_and_deletes_nothing(
    client_for: Any,
) -> None:
    state: dict[str, object] = {}
    pages_of(client_for, Answers(sleep__reconcile={"dataPoints": [NIGHT]}), state)
    broken = Answers(sleep__reconcile=[{"nextPageToken": "more"}, httpx.Response(400)])
    found = pages_of(client_for, broken, state)
    assert [page.resource for page in found].count("sleep") == 1
    assert gone(found) == {}
    assert gone(pages_of(client_for, Answers(), state)) == {"night-1": date(2026, 11, 19)}


def test_when_every_type_is_refused_the_fetch_fails_and_forgets_nothing(client_for: Any) -> None:
    state: dict[str, object] = {}
    with pytest.raises(PermanentError, match=r"^google_health: every kind of data is .*HTTP 404"):
        pages_of(client_for, lambda _: httpx.Response(404), state)
    # It will be asked for as a whole.
    assert state == {}


@pytest.mark.parametrize(
    ("status", "error"), [(401, NotConnectedError), (429, RateLimitedError), (503, TransientError)]
)
def test_trouble_that_is_not_of_one_type_fails_the_fetch(
    client_for: Any, status: int, error: type[PipelineError]
) -> None:
    with pytest.raises(error):
        pages_of(client_for, Answers(height__reconcile=httpx.Response(status)))


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (400, b'{"error":{"status":"INVALID_ARGUMENT"}}', "absent"),
        (400, b'{"error":{"details":[{"reason":"ACCOUNT_NOT_LINKED"}]}}', "permanent"),
        (403, b'{"error":{"details":[{"reason":"SERVICE_DISABLED"}]}}', "permanent"),
        (403, b'{"error":{"details":[{"reason":"RATE_LIMIT_EXCEEDED"}]}}', "rate_limited"),
        (403, b'{"error":{"status":"PERMISSION_DENIED"}}', "absent"),
        (404, b"", "absent"),
    ],
)
def test_what_speaks_of_one_type_and_what_of_the_account(
    status: int, body: bytes, meaning: str
) -> None:
    assert next(one for one in HEALTH.refusals if one.fits(status, body)).meaning == meaning


def gone(pages: list[Page], resource: str = "sleep") -> dict[str, date]:
    found = [
        record
        for page in pages
        if page.resource == resource
        for record in HEALTH.resource(resource).split(page)
    ]
    return {record.record_id: record.local_date for record in found if record.is_deleted}


def test_what_a_whole_listing_no_longer_has_is_deleted(client_for: Any) -> None:
    state: dict[str, object] = {}
    listed = {"dataPoints": [NIGHT]}
    assert gone(pages_of(client_for, Answers(sleep__reconcile=listed), state)) == {}
    # No permission, or a window that does not reach it: nothing follows from its absence.
    refused = Answers(sleep__reconcile=httpx.Response(403))
    assert gone(pages_of(client_for, refused, state)) == {}
    later = Window(date(2026, 11, 20), date(2026, 11, 20), NOW)
    assert gone(pages_of(client_for, Answers(), state, later)) == {}
    assert gone(pages_of(client_for, Answers(), state)) == {"night-1": date(2026, 11, 19)}
    assert gone(pages_of(client_for, Answers(), state)) == {}


def test_a_session_whose_offset_nobody_knows_is_never_missed(client_for: Any) -> None:
    state: dict[str, object] = {}
    bare = json.loads(json.dumps(NIGHT))
    del bare["sleep"]["interval"]["endUtcOffset"]
    pages_of(client_for, Answers(sleep__reconcile={"dataPoints": [bare]}), state)
    assert gone(pages_of(client_for, Answers(), state)) == {}


def test_a_failed_page_deletes_nothing_and_remembers_nothing(client_for: Any) -> None:
    state: dict[str, object] = {}
    pages_of(client_for, Answers(sleep__reconcile={"dataPoints": [NIGHT]}), state)
    before = json.dumps(state)
    broken = Answers(
        sleep__reconcile=[{"nextPageToken": "more"}, httpx.Response(200, content=b'{"dataPo')]
    )
    with pytest.raises(BadPayloadError):
        pages_of(client_for, broken, state)
    assert json.dumps(state) == before


def test_a_deleted_night_leaves_the_table_and_comes_back_with_the_listing(
    workspace: Workspace, clock: StandingClock, client_for: Any
) -> None:
    user = workspace.registry.add_user("google_health")
    state: dict[str, object] = {}

    def nights(answer: object) -> list[date]:
        clock.advance(minutes=1)
        pages = pages_of(client_for, Answers(sleep__reconcile=answer), state)
        found = [
            record
            for page in pages
            for record in HEALTH.resource(page.resource).split(page)
            if page.resource == "sleep"
        ]
        ingest(workspace, HEALTH, [Arrival(user.user_id, found, workspace.now())], "poll")
        cells = [Partition(NOW.date(), workspace.lake.scheme.cohort_of(user.user_id))]
        update_table(workspace, "sleep", cells)
        return dates_in(workspace)

    listed = {"dataPoints": [NIGHT]}
    assert nights(listed) == [date(2026, 11, 19)]
    assert nights({}) == []
    assert nights(listed) == [date(2026, 11, 19)]
    # Its end is moved past midnight: one night, under its new date.
    moved = json.loads(json.dumps(NIGHT).replace("2026-11-19T05:00:00Z", "2026-11-20T05:30:00Z"))
    assert nights({"dataPoints": [moved]}) == [date(2026, 11, 20)]


def dates_in(workspace: Workspace) -> list[date]:
    if not list(workspace.lake.storage.list("sleep/")):
        return []
    glob = f"{workspace.lake.storage.url}/sleep/**/*.parquet"
    return pl.read_parquet(glob, hive_partitioning=False)["local_date"].sort().to_list()


# --- who it is


@pytest.mark.parametrize(("legacy", "name"), [("7XKP2M", "FITBIT"), (None, "GOOGLE")])
def test_clients_know_accounts_of_old_as_fitbit_and_others_as_google(
    workspace: Workspace, client_for: Any, legacy: str | None, name: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/identity"):
            return httpx.Response(200, json={"healthUserId": "h-1", "legacyUserId": legacy})
        return httpx.Response(200, json={"timeZone": "Europe/Lisbon"})

    async def run() -> Any:
        async with client_for(answer) as client:
            return await identify(AtBase(client), {})

    who = asyncio.run(run())
    assert (who.account_id, who.timezone) == ("h-1", "Europe/Lisbon")
    user = workspace.registry.add_user("google_health", config=dict(who.config))
    assert user_info(user).provider == name


def test_a_name_no_provider_has_is_not_told_to_clients() -> None:
    assert HEALTH.client_name_of({"client_name": "OURA"}) == "GOOGLE"
    assert HEALTH.client_name_of({}) == "GOOGLE"
    assert get_provider("oura").client_name_of({"client_name": "FITBIT"}) == "OURA"


def test_settings_without_permission_leave_the_zone_unknown(client_for: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/identity"):
            return httpx.Response(200, json={"healthUserId": "h-1"})
        return httpx.Response(403, json={"error": {"code": 403}})

    async def run() -> Any:
        async with client_for(answer) as client:
            return await identify(AtBase(client), {})

    assert asyncio.run(run()).timezone is None


def test_the_scopes_asked_for_can_be_set() -> None:
    settings = ProviderSettings(client_id="a", client_secret="b")  # type: ignore[arg-type]
    every = app_of(HEALTH, settings).oauth.scopes
    assert "https://www.googleapis.com/auth/googlehealth.nutrition.readonly" in every
    few = settings.model_copy(update={"scopes": "one  two"})
    assert app_of(HEALTH, few).oauth.scopes == ("one", "two")


# --- bodies of unknown origin

BODIES: dict[str, object] = {
    "steps_roll_up": rolled("steps", {"countSum": "1"}),
    "nutrition_log_roll_up": rolled("nutritionLog", {"energy": {"kcalSum": 1}}),
    "steps": {
        "steps": {"interval": span("2026-11-19T05:00:00Z", "2026-11-19T06:00:00Z"), "count": "1"}
    },
    "daily_vo2_max": {"dailyVo2Max": {**civil("2026-11-19"), "vo2Max": 40}},
    "daily_respiratory_rate": {
        "dailyRespiratoryRate": {**civil("2026-11-19"), "breathsPerMinute": 14}
    },
    "weight": {"weight": {"weightGrams": 1000.0, "sampleTime": moment("2026-11-19T05:00:00Z")}},
    "sleep": NIGHT,
    "exercise": RUN,
    "nutrition_log": MEAL,
}


@pytest.mark.parametrize("name", list(BODIES))
@pytest.mark.parametrize("form", ["answer", "list", "alone"])
def test_a_body_is_recognised_as_what_it_is_alone(name: str, form: str) -> None:
    point = BODIES[name]
    member = "rollupDataPoints" if name.endswith("_roll_up") else "dataPoints"
    whole: object = {"answer": {member: [point]}, "list": [point], "alone": point}[form]
    recognised = [r.name for r in HEALTH.resources if r.recognise and r.recognise(whole)]
    assert recognised == [name]
    found = inspect(whole)
    assert found.unknown_fields == []
    assert found.rejected == []
    assert found.tables


def test_fields_nobody_knows_are_named_and_change_nothing() -> None:
    point = json.loads(json.dumps(NIGHT))
    point["sleep"]["snoring"] = {"loud": True}
    found = inspect({"dataPoints": [point]})
    assert found.unknown_fields == ["sleep.snoring.loud"]
    assert len(found.tables["sleep"]) == 1


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, RateLimitedError, "too many"),
        ([{"error": {"code": 403, "status": "PERMISSION_DENIED"}}], PermanentError, "permission"),
        ({"error": {"code": 401}}, NotConnectedError, "connect again"),
        ({"error": {"code": 503}}, TransientError, "503"),
        ({"error": {"code": 400, "status": "FAILED_PRECONDITION"}}, PermanentError, "400"),
        ({"error": "invalid_grant", "error_description": "x"}, NotConnectedError, "has ended"),
        ({"access_token": "t", "expires_in": 3599}, BadPayloadError, "token answer"),
        ({"name": "users/me/identity", "healthUserId": "1"}, BadPayloadError, "identity"),
        ({"pairedDevices": []}, BadPayloadError, "devices"),
        ({"type": "verification"}, BadPayloadError, "webhook"),
        ({"data": {"healthUserId": "1", "dataType": "steps"}}, BadPayloadError, "notification"),
        ([{"data": {"healthUserId": "1", "dataType": "steps"}}], BadPayloadError, "notification"),
        ({}, BadPayloadError, "empty answer"),
        ({"rollupDataPoints": []}, BadPayloadError, "empty listing"),
        (b'{"dataPoints": [{"sleep"', BadPayloadError, "cut off"),
    ],
)
def test_what_is_no_points_says_so(body: object, error: type[PipelineError], says: str) -> None:
    with pytest.raises(error, match=says):
        inspect(body)


def test_an_answer_without_points_is_no_listing() -> None:
    page = Page("steps", b'{"unexpected": []}', NOW)
    with pytest.raises(BadPayloadError, match="no data points"):
        list(HEALTH.resource("steps").split(page))
    assert list(HEALTH.resource("steps").split(Page("steps", b"{}", NOW))) == []


# --- pushes

SECRETS = PushSecrets("app", "secret", "s3cret")


def notification(*intervals: object, **said: object) -> dict[str, Any]:
    data = {
        "version": "1",
        "healthUserId": "h-1",
        "operation": "UPSERT",
        "dataType": "sleep",
        "intervals": intervals,
    }
    return {"data": {**data, **said}}


def push(body: object, **headers: str) -> PushRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return PushRequest("POST", headers, {}, content)


CIVIL = {
    "physicalTimeInterval": {
        "startTime": "2026-11-10T01:29:00Z",
        "endTime": "2026-11-10T01:34:00Z",
    },
    "civilDateTimeInterval": {
        "startDateTime": {**civil("2026-11-09"), "time": {"hours": 17}},
        "endDateTime": {**civil("2026-11-09"), "time": {"hours": 18}},
    },
}


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([CIVIL], Changed("h-1", date(2026, 11, 9), date(2026, 11, 9))),
        (
            [
                {
                    "civilIso8601TimeInterval": {
                        "startTime": "2026-11-01T10:00:00",
                        "endTime": "2026-11-03T00:00:00",
                    }
                },
                CIVIL,
            ],
            Changed("h-1", date(2026, 11, 1), date(2026, 11, 9)),
        ),
        # Of a physical time nobody knows whose day it is.
        (
            [{"physicalTimeInterval": CIVIL["physicalTimeInterval"]}],
            Changed("h-1", date(2026, 11, 9), date(2026, 11, 11)),
        ),
        ([{"physicalTimeInterval": {"startTime": "2026-03-0B01:29:00Z"}}], Changed("h-1")),
        ([], Changed("h-1")),
    ],
)
def test_a_notification_names_the_days_to_fetch(intervals: list[object], expected: Changed) -> None:
    assert list(read_push(push(notification(*intervals)))) == [expected]


def test_notifications_come_in_batches_and_a_bad_one_takes_no_other_along() -> None:
    batch = [notification(CIVIL), {"data": None}, 7, notification(healthUserId="h-2")]
    assert [one.account_id for one in read_push(push(batch))] == ["h-1", "h-2"]
    for nothing in ([], {"data": {}}, b"[", b"null"):
        with pytest.raises(BadPayloadError):
            list(read_push(push(nothing)))


def test_a_deletion_that_names_a_point_removes_it() -> None:
    told = notification(
        CIVIL, operation="DELETE", recordId="users/h-1/dataTypes/sleep/dataPoints/night-1"
    )
    assert list(read_push(push(told))) == [
        Removed("h-1", "sleep", ("night-1",)),
        Changed("h-1", date(2026, 11, 9), date(2026, 11, 9)),
    ]
    unnamed = notification(CIVIL, operation="DELETE", dataType="steps")
    assert [type(one) for one in read_push(push(unnamed))] == [Changed]


def test_the_address_is_verified_with_the_secret_and_refused_without() -> None:
    asked = {"type": "verification"}
    for given, status in (
        ("Bearer s3cret", 201),
        ("Bearer other", 401),
        ("s3cret", 401),
        ("", 401),
    ):
        answer = answer_challenge(push(asked, authorization=given), SECRETS)
        assert answer is not None
        assert answer.status == status
    unset = PushSecrets("app", "secret", "")
    answer = answer_challenge(push(asked, authorization="Bearer "), unset)
    assert answer is not None
    assert answer.status == 401
    assert answer_challenge(push(notification(CIVIL)), SECRETS) is None


def test_a_push_is_proven_by_the_secret_it_repeats() -> None:
    assert HEALTH.push is not None
    body = notification(CIVIL)
    check_proof(HEALTH.push, push(body, authorization="Bearer s3cret"), SECRETS, NOW)
    for given in ("Bearer s3cre", "s3cret", ""):
        with pytest.raises(RefusedError):
            check_proof(HEALTH.push, push(body, authorization=given), SECRETS, NOW)


# --- over real HTTP


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as running:
        yield running


def test_pushes_are_proven_fetch_old_days_and_delete_what_they_name(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    clock = StandingClock(NOW)
    with served(tmp_path / "home", sandbox, clock) as there:
        user = connected(there, "google_health", "yara")
        assert user.timezone == "Europe/Lisbon"
        assert user_info(user).provider == "FITBIT"
        assert fetch_days(there.workspace, user, 0).failures == {}

        def post(body: object, secret: str | None = PUSH_SECRET) -> int:
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            url = f"{there.url}/in/google_health"
            return httpx.post(url, json=body, headers=headers, trust_env=False).status_code

        def nights() -> dict[str, date]:
            rows = contents(there.workspace, [user])["sleep"]
            return {str(row["metadata_summary_id"]): row["local_date"] for row in rows}  # type: ignore[misc]

        def take() -> Any:
            taken = take_in(there.workspace, HEALTH)
            assert taken is not None
            assert (taken.parked, taken.postponed) == (0, 0)
            return taken

        assert [post({"type": "verification"}), post({"type": "verification"}, None)] == [201, 401]
        # A fetch of the present reaches back seven days.
        before = nights()
        assert set(before.values()) == {date(2026, 11, day) for day in range(13, 21)}

        account = PEOPLE["yara"].account_id
        old = {
            "civilIso8601TimeInterval": {
                "startTime": "2026-10-24T22:00:00",
                "endTime": "2026-10-25T06:00:00",
            }
        }
        assert post(notification(old, healthUserId=account), "guess") == 401
        assert post([notification(old, healthUserId=account)]) == 204
        assert take().appended.new > 0
        # In Lisbon, too, the clocks changed that night.
        added = set(nights().values()) - set(before.values())
        assert added == {date(2026, 10, 24), date(2026, 10, 25)}

        (last,) = [name for name, day in before.items() if day == date(2026, 11, 20)]
        clock.advance(minutes=1)
        gone = notification(healthUserId=account, operation="DELETE", recordId=last)
        assert post(gone) == 204
        assert take().made_due == 1
        assert last not in nights()


# --- recorded bodies


def corpus_tables(corpus: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    body = (corpus / "google_health" / name).read_bytes()
    found = inspect_body(HEALTH, body, name=name, now=NOW)
    assert found.rejected == []
    assert found.unknown_fields == []
    return found.tables


@pytest.mark.corpus
def test_recorded_days_of_steps(corpus: Path) -> None:
    tables = corpus_tables(corpus, "steps_dailyrollup__1.json")
    told = [(row["local_date"], row["distance_steps"]) for row in tables["daily"]]
    assert told == [(date(2026, 6, 15), 10_000), (date(2026, 6, 16), 8000)]


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "table", "column", "value"),
    [
        ("distance_dailyrollup__1.json", "daily", "distance_distance_meters", 5000.0),
        ("steps_dailyrollup__2.json", "daily", "distance_steps", 10_500),
        ("total_calories_dailyrollup__1.json", "daily", "calories_total_burned_calories", 2100.2),
        ("hydration_dailyrollup__1.json", "nutrition", "summary_water_ml", 2500.0),
        ("nutrition_dailyrollup__1.json", "nutrition", "summary_macros_calories", 1800.0),
    ],
)
def test_roll_ups_of_others(corpus: Path, name: str, table: str, column: str, value: float) -> None:
    (row,) = corpus_tables(corpus, name)[table]
    assert (row["local_date"], row[column]) == (date(2026, 6, 28), value)


@pytest.mark.corpus
def test_the_walk_of_the_documentation(corpus: Path) -> None:
    (row,) = corpus_tables(corpus, "exercise_list__2.json")["activity"]
    has(
        row,
        {
            "metadata_summary_id": "8896720705097069096",
            "metadata_type": "walking",
            "metadata_upload_type": "manual",
            "local_start_at": naive("2026-02-23T08:10:00"),
            "end_at": at("2026-02-23T13:25:00+00:00"),
            "utc_offset_seconds": -18000,
            "active_durations_activity_seconds": 900.0,
            "calories_total_burned_calories": 16.0,
            # A mile, under a misspelt name.
            "distance_summary_distance_meters": 1609.344,
            "distance_summary_steps": 2038,
        },
    )


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["sleep_list__1.json", "sleep_list_in_progress__1.json"])
def test_nights_of_others_with_offsets_as_clocks_show_them(corpus: Path, name: str) -> None:
    (row,) = corpus_tables(corpus, name)["sleep"]
    has(
        row,
        {
            "metadata_summary_id": "session-12345",
            "utc_offset_seconds": -25_200,
            "sleep_durations_asleep_duration_asleep_state_seconds": 25_200.0,
            "sleep_durations_awake_duration_awake_state_seconds": 3600.0,
            "sleep_durations_awake_sleep_latency_seconds": 900.0,
            "sleep_durations_other_duration_in_bed_seconds": 28_800.0,
        },
    )


@pytest.mark.corpus
def test_a_weight_of_others_without_an_offset(corpus: Path) -> None:
    (row,) = corpus_tables(corpus, "weight_list__1.json")["body"]
    (one,) = row["measurements_measurements"]
    assert (one["weight_kg"], one["local_measurement_time"]) == (80.0, None)
    assert one["measurement_time"] == at("2026-06-29T00:00:00+00:00")


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "says"),
    [("oauth_token__1.json", "a token answer"), ("paired_devices__1.json", "a list of devices")],
)
def test_answers_of_others_without_readings(corpus: Path, name: str, says: str) -> None:
    body = (corpus / "google_health" / name).read_bytes()
    with pytest.raises(BadPayloadError, match=says):
        inspect_body(HEALTH, body, name=name, now=NOW)
