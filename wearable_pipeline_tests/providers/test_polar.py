"""Polar's documents as rows; expected values are worked out by hand from the documents below."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from wearable_pipeline.errors import BadPayloadError, PermanentError, PipelineError, UsageError
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Connection,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Window,
)
from wearable_pipeline.providers.polar import answer_ping, fetch, identify, read_push, revoke
from wearable_pipeline.raw.history import HISTORY_SHARE
from wearable_pipeline.raw.pace import allowances_of
from wearable_pipeline.raw.push import RefusedError, check_proof
from wearable_pipeline.registry import Allowance
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.providers.moments import at, naive

POLAR = get_provider("polar")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def records(resource: str, *documents: object) -> list[Record]:
    body = json.dumps(documents).encode()
    return list(POLAR.resource(resource).split(Page(resource, body, NOW)))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("polar", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def known(element: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in element.items() if value is not None}


RUN: dict[str, Any] = {
    "id": "2AC312F",
    "upload_time": "2026-11-19T18:00:00.000Z",
    "device": "Polar Vantage V3",
    "start_time": "2026-11-19T23:30:00",
    "start_time_utc_offset": 120,
    "duration": "PT1H2M3.5S",
    "calories": 530,
    "distance": 10000.5,
    "heart_rate": {"average": 145, "maximum": 0},
    "sport": "RUNNING",
    "detailed_sport_info": "TRAIL_RUNNING",
    "running-index": 51,
    "heart_rate_zones": [
        {"index": 1, "lower-limit": 110, "upper-limit": 130, "in-zone": "PT4S"},
        {"index": 2, "lower-limit": 130, "upper-limit": 150, "in-zone": "PT51M5S"},
    ],
    "samples": [
        {"recording-rate": 5, "sample-type": "0", "data": "0,100,null,97"},
        {"recording-rate": 1, "sample-type": "1", "data": "0.0,7.2"},
        {"recording-rate": None, "sample-type": "11", "data": "800,810"},
        {"recording-rate": 1, "sample-type": "3", "data": "12.5"},
    ],
}


def test_a_run(rows: Any) -> None:
    row = one_row(rows, "activity", records("exercise", RUN))
    expected = {
        "metadata_summary_id": "2AC312F",
        "metadata_type": "trail_running",
        "local_date": date(2026, 11, 19),
        "start_at": at("2026-11-19T21:30:00+00:00"),
        "local_start_at": naive("2026-11-19T23:30:00"),
        # 3,723.5 seconds later.
        "end_at": at("2026-11-19T22:32:03.500000+00:00"),
        "local_end_at": naive("2026-11-20T00:32:03.500000"),
        "utc_offset_seconds": 7200,
        "timezone": None,
        "tz_source": "provider",
        "device_name": "Polar Vantage V3",
        "calories_total_burned_calories": 530.0,
        "distance_summary_distance_meters": 10000.5,
        "heart_rate_summary_avg_hr_bpm": 145.0,
        "heart_rate_summary_max_hr_bpm": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert [known(zone) for zone in row["heart_rate_summary_hr_zone"]] == [
        {"zone": 1, "duration_seconds": 4.0},
        {"zone": 2, "duration_seconds": 3065.0},
    ]
    start, second = at("2026-11-19T21:30:00+00:00"), timedelta(seconds=1)
    pulse = [(s["timestamp"] - start, s["bpm"]) for s in row["heart_rate_detailed_hr_samples"]]
    # Before contact and while it was lost there is no sample.
    assert pulse == [(5 * second, 100.0), (15 * second, 97.0)]
    speed = [s["speed_meters_per_second"] for s in row["movement_speed_samples"]]
    assert speed == [0.0, 2.0]
    assert [s["elev_meters"] for s in row["distance_detailed_elevation_samples"]] == [12.5]
    assert row["power_power_samples"] is None


@pytest.mark.parametrize("day", ["9999-12-31", "0001-01-01", "1970-01-01"])
@pytest.mark.parametrize(
    ("resource", "field"), [("daily_activity", "date"), ("exercise", "start_time")]
)
def test_a_date_of_no_reading_is_no_place_to_lie_in(resource: str, field: str, day: str) -> None:
    (record,) = records(resource, {"steps": 1, field: f"{day}T00:00:00"})
    assert record.local_date == NOW.date()


@pytest.mark.parametrize("step", ["NaN", 1e300, 10**20, -1, "x", None])
def test_a_step_that_is_none_loses_its_series_alone(rows: Any, step: object) -> None:
    series = [
        {"recording-rate": step, "sample-type": "0", "data": "100,101"},
        {"recording-rate": 1, "sample-type": "1", "data": "3.6"},
    ]
    row = one_row(rows, "activity", records("exercise", {**RUN, "samples": series}))
    assert row["heart_rate_detailed_hr_samples"] is None
    assert [one["speed_meters_per_second"] for one in row["movement_speed_samples"]] == [1.0]


@pytest.mark.parametrize(
    ("detailed", "sport", "kind"),
    [
        (None, "CYCLING", "biking"),
        ("WATERSPORTS_WATERSKI", "OTHER", "water_skiing"),
        ("NEW_SPORT", "RUNNING", "running"),
        ("NEW_SPORT", "NEWER", "other"),
        (None, None, "unknown"),
    ],
)
def test_kinds_of_sport(rows: Any, detailed: str | None, sport: str | None, kind: str) -> None:
    run = {**RUN, "detailed_sport_info": detailed, "sport": sport}
    assert one_row(rows, "activity", records("exercise", run))["metadata_type"] == kind


def test_a_session_whose_offset_nobody_said_is_known_by_its_local_time(rows: Any) -> None:
    row = one_row(rows, "activity", records("exercise", {**RUN, "start_time_utc_offset": None}))
    assert row["start_at"] is None
    assert row["local_start_at"] == naive("2026-11-19T23:30:00")
    assert row["utc_offset_seconds"] is None


def test_the_older_spelling_of_a_session_and_of_a_person_is_read(rows: Any) -> None:
    old = {
        "id": 1,
        "start-time": "2026-11-19T10:40:02",
        "start-time-utc-offset": 180,
        "duration": "PT2H44M",
        "heart-rate": {"average": 129, "maximum": 147},
        "sport": "OTHER",
        "detailed-sport-info": "WATERSPORTS_WATERSKI",
    }
    row = one_row(rows, "activity", records("exercise", old))
    assert row["start_at"] == at("2026-11-19T07:40:02+00:00")
    assert row["metadata_type"] == "water_skiing"
    assert row["heart_rate_summary_max_hr_bpm"] == 147.0
    person = {"created": "2026-04-27T20:11:33.000Z", "weight": 66, "vo2-max": 50}
    assert (
        one_row(rows, "body", records("physical_info", person))["oxygen_vo2max_ml_per_min_per_kg"]
        == 50.0
    )


def test_recovery_belongs_to_its_night(rows: Any) -> None:
    recovery = {
        "date": "2026-11-20",
        "ans_charge": 1.5,
        "heart_rate_variability_avg": 28,
        "breathing_rate_avg": 14.1,
    }
    found = records("sleep", NIGHT) + records("nightly_recharge", recovery)
    row = one_row(rows, "sleep", found)
    assert row["start_at"] == at("2026-11-19T21:39:07+00:00")
    assert row["heart_rate_summary_avg_hrv_rmssd"] == 28.0
    assert row["respiration_breaths_avg_breaths_per_min"] == 14.1


def test_a_day_hardly_moved_without_heart_rate_or_recovery(rows: Any) -> None:
    day = {
        "date": "2026-11-18",
        "start_time": "2026-11-18T00:00:00",
        "active_duration": "PT45S",
        "inactive_duration": "PT20H",
        "calories": 1612,
        "active_calories": 0,
        "steps": 0,
        "distance_from_steps": 0.0,
    }
    row = one_row(rows, "daily", records("daily_activity", day))
    expected = {
        "local_date": date(2026, 11, 18),
        "local_start_at": naive("2026-11-18T00:00:00"),
        "local_end_at": naive("2026-11-19T00:00:00"),
        # Measured, and none.
        "distance_steps": 0,
        "distance_distance_meters": 0.0,
        "calories_net_activity_calories": 0.0,
        "calories_total_burned_calories": 1612.0,
        "active_durations_activity_seconds": 45.0,
        "active_durations_inactivity_seconds": 72000.0,
        # Not told.
        "active_durations_num_continuous_inactive_periods": None,
        "heart_rate_summary_avg_hrv_rmssd": None,
        "heart_rate_detailed_hr_samples": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_broken_start_loses_that_session_alone(rows: Any) -> None:
    broken = {**RUN, "id": "broken", "start_time": "yesterday"}
    result = rows("polar", "activity", records("exercise", broken, RUN))
    assert result.rows["metadata_summary_id"].to_list() == ["2AC312F"]
    assert result.rejected["record_id"].to_list() == ["broken"]


DAY: dict[str, Any] = {
    "start_time": "2026-11-19T00:00:00",
    "end_time": "2026-11-19T23:59:59",
    "active_duration": "PT3H11M",
    "inactive_duration": "PT18H23M30S",
    "daily_activity": 189.1,
    "calories": 2500,
    "active_calories": 1500,
    "steps": 8823,
    "inactivity_alert_count": 1,
    "distance_from_steps": 4590.53,
}


def test_a_day_with_its_heart_rate_and_its_recovery(rows: Any) -> None:
    pulse = {
        "date": "2026-11-19",
        "heart_rate_samples": [
            {"heart_rate": 62, "sample_time": "00:02:08"},
            {"heart_rate": 0, "sample_time": "00:07:08"},
            {"heart_rate": 65, "sample_time": "08:05"},
            {"heart_rate": 65, "sample_time": "noon"},
        ],
    }
    recovery = {"date": "2026-11-19", "ans_charge": 1.5, "heart_rate_variability_avg": 28}
    found = [
        *records("daily_activity", DAY),
        *records("continuous_heart_rate", pulse),
        *records("nightly_recharge", recovery),
    ]
    row = one_row(rows, "daily", found)
    expected = {
        "local_date": date(2026, 11, 19),
        "start_at": None,
        "local_start_at": naive("2026-11-19T00:00:00"),
        "utc_offset_seconds": None,
        "timezone": None,
        "tz_source": "unknown",
        "distance_steps": 8823,
        "distance_distance_meters": 4590.53,
        "calories_total_burned_calories": 2500.0,
        "calories_net_activity_calories": 1500.0,
        # 3 · 3600 + 11 · 60 and 18 · 3600 + 23 · 60 + 30
        "active_durations_activity_seconds": 11460.0,
        "active_durations_inactivity_seconds": 66210.0,
        "active_durations_num_continuous_inactive_periods": 1,
        "heart_rate_summary_avg_hrv_rmssd": 28.0,
    }
    assert {name: row[name] for name in expected} == expected
    assert [known(s) for s in row["heart_rate_detailed_hr_samples"]] == [
        {"local_timestamp": naive("2026-11-19T00:02:08"), "bpm": 62.0},
        {"local_timestamp": naive("2026-11-19T08:05:00"), "bpm": 65.0},
    ]


NIGHT: dict[str, Any] = {
    "polar_user": "https://www.polaraccesslink/v3/users/1",
    "date": "2026-11-20",
    "sleep_start_time": "2026-11-19T23:39:07+02:00",
    "sleep_end_time": "2026-11-20T06:19:37+02:00",
    "device_id": "1111AAAA",
    "continuity": 2.1,
    "light_sleep": 12000,
    "deep_sleep": 5400,
    "rem_sleep": 4800,
    "unrecognized_sleep_stage": 0,
    "sleep_score": 80,
    "total_interruption_duration": 900,
    "short_interruption_duration": 600,
    "long_interruption_duration": 300,
    "hypnogram": {"23:39": 0, "23:50": 3, "00:23": 4, "03:10": 1, "05:00": 5, "06:00": 2},
    "heart_rate_samples": {"23:41": 60, "00:46": 0, "01:46": 52},
}


def test_a_night_whose_clock_passes_midnight(rows: Any) -> None:
    row = one_row(rows, "sleep", records("sleep", NIGHT))
    expected = {
        "metadata_summary_id": "2026-11-20",
        "metadata_upload_type": "automatic",
        "local_date": date(2026, 11, 20),
        "start_at": at("2026-11-19T21:39:07+00:00"),
        "end_at": at("2026-11-20T04:19:37+00:00"),
        "utc_offset_seconds": 7200,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 12000.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 5400.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 4800.0,
        "sleep_durations_other_duration_unmeasurable_sleep_seconds": 0.0,
        "sleep_durations_awake_duration_awake_state_seconds": 900.0,
        "sleep_durations_awake_duration_short_interruption_seconds": 600.0,
        "sleep_durations_awake_duration_long_interruption_seconds": 300.0,
        "scores_sleep": 80.0,
        # Nobody said how long all of it was.
        "sleep_durations_asleep_duration_asleep_state_seconds": None,
    }
    assert {name: row[name] for name in expected} == expected
    told = [
        (s["timestamp"], s["local_timestamp"], s["level"])
        for s in row["sleep_durations_hypnogram_samples"]
    ]
    assert told == [
        (at(f"{local}+02:00"), naive(local), level)
        for local, level in (
            ("2026-11-19T23:39:00", "awake"),
            ("2026-11-19T23:50:00", "light_sleep"),
            ("2026-11-20T00:23:00", "deep_sleep"),
            ("2026-11-20T03:10:00", "rem_sleep"),
            ("2026-11-20T05:00:00", "unknown"),
            ("2026-11-20T06:00:00", "light_sleep"),
        )
    ]
    pulse = [(s["local_timestamp"], s["bpm"]) for s in row["heart_rate_detailed_hr_samples"]]
    assert pulse == [(naive("2026-11-19T23:41:00"), 60.0), (naive("2026-11-20T01:46:00"), 52.0)]


def test_a_night_that_began_after_midnight_stays_on_its_day(rows: Any) -> None:
    late = {
        **NIGHT,
        "sleep_start_time": "2026-11-20T00:39:07+02:00",
        "hypnogram": {"00:39": 2, "04:00": 3},
        "heart_rate_samples": {},
    }
    row = one_row(rows, "sleep", records("sleep", late))
    local = [s["local_timestamp"] for s in row["sleep_durations_hypnogram_samples"]]
    assert local == [naive("2026-11-20T00:39:00"), naive("2026-11-20T04:00:00")]
    assert row["heart_rate_detailed_hr_samples"] is None


def test_on_the_night_of_the_clock_change_clock_times_are_no_instants(rows: Any) -> None:
    changed = {
        **NIGHT,
        "date": "2026-10-25",
        "sleep_start_time": "2026-10-24T23:30:00+03:00",
        "sleep_end_time": "2026-10-25T07:00:00+02:00",
        # The hour from three to four came twice.
        "hypnogram": {"23:30": 2, "03:50": 3, "03:10": 4, "06:00": 1},
    }
    row = one_row(rows, "sleep", records("sleep", changed))
    assert row["end_at"] - row["start_at"] == timedelta(hours=8, minutes=30)
    told = [
        (s["timestamp"], s["local_timestamp"]) for s in row["sleep_durations_hypnogram_samples"]
    ]
    assert {timestamp for timestamp, _ in told} == {None}
    assert max(local for _, local in told) == naive("2026-10-25T06:00:00")


def test_a_night_typed_in_has_no_zeros(rows: Any) -> None:
    zeros = {name: 0 for name, value in NIGHT.items() if isinstance(value, int | float)}
    typed = {**NIGHT, **zeros, "device_id": "", "hypnogram": {}, "heart_rate_samples": {}}
    row = one_row(rows, "sleep", records("sleep", typed))
    assert row["metadata_upload_type"] == "manual"
    for name, value in row.items():
        if name.startswith(("sleep_durations", "heart_rate", "scores", "data_enrichment")):
            assert value is None, name


def test_weight_and_height_are_of_when_they_were_changed(rows: Any) -> None:
    info = {
        "weight": 70.5,
        "height": 175.0,
        "created": "2024-06-01T12:00:00Z",
        "modified": "2026-06-10T12:00:00Z",
        "resting_heart_rate": 50,
        "maximum_heart_rate": 190,
        "vo2_max": 48,
        "birthday": "1990-01-01",
    }
    row = one_row(rows, "body", records("physical_info", info))
    (measured,) = row["measurements_measurements"]
    assert known(measured) == {
        "measurement_time": at("2026-06-10T12:00:00+00:00"),
        "weight_kg": 70.5,
        "height_cm": 175.0,
    }
    assert row["heart_heart_rate_summary_resting_hr_bpm"] == 50.0
    assert row["heart_heart_rate_summary_user_max_hr_bpm"] == 190.0
    assert row["oxygen_vo2max_ml_per_min_per_kg"] == 48.0


# --- what newer watches sense

CORE: dict[str, Any] = {
    "source_device_id": "1111AAAA",
    "measurement_type": "TM_CORE_TEMPERATURE",
    "sensor_location": "SL_PROXIMAL",
    "start_time": "2026-11-19T22:30:00",
    "end_time": "2026-11-19T23:30:00",
    "modified_time": "2026-11-20T06:00:00",
    "samples": [
        {"temperature_celsius": 36.5, "recording_time_delta_milliseconds": 0},
        {"temperature_celsius": 36.75, "recording_time_delta_milliseconds": 90_500},
        {"temperature_celsius": None, "recording_time_delta_milliseconds": 120_000},
    ],
}
SPO2: dict[str, Any] = {
    "source_device_id": "1111AAAA",
    # 2026-11-19 22:30:00 UTC.
    "test_time": 1_795_127_400,
    "time_zone_offset": 180,
    "test_status": "SPO2_TEST_PASSED",
    "blood_oxygen_percent": 95,
    "spo2_class": "SPO2_CLASS_NORMAL",
    "spo2_value_deviation_from_baseline": "DEVIATION_USUAL",
    "spo2_quality_average_percent": 90.0,
    "average_heart_rate_bpm": 60,
    "heart_rate_variability_ms": 100.0,
    "spo2_hrv_deviation_from_baseline": "DEVIATION_NO_BASELINE",
    "altitude_meters": 50.0,
}
ECG: dict[str, Any] = {
    "source_device_id": "1111AAAA",
    "test_time": 1_795_127_400,
    "time_zone_offset": -300,
    "average_heart_rate_bpm": 61,
    "heart_rate_variability_ms": 0.0,
    "heart_rate_variability_level": "ECG_HRV_LEVEL_NO_BASELINE",
    "rri_ms": 100.0,
    "samples": [
        {"recording_time_delta_ms": 0, "amplitude_mv": 0.5},
        {"recording_time_delta_ms": 8, "amplitude_mv": -0.25},
    ],
    "quality_measurements": [{"recording_time_delta_ms": 0, "quality_level": "ECG_QUALITY_HIGH"}],
}
SKIN: dict[str, Any] = {
    "sleep_time_skin_temperature_celsius": 34.5,
    "deviation_from_baseline_celsius": -0.5,
    "sleep_date": "2026-11-19",
}


def sensed(resource: str, *documents: object, timezone: str | None = None) -> list[Record]:
    page = Page(resource, json.dumps(documents).encode(), NOW, {"timezone": timezone})
    return list(POLAR.resource(resource).split(page))


def test_times_of_sensors_are_utc_and_local_by_the_zone_of_the_person(rows: Any) -> None:
    row = one_row(rows, "body", sensed("body_temperature", CORE, timezone="Europe/Helsinki"))
    # Half past midnight of the next day in Helsinki.
    assert (row["local_date"], row["timezone"], row["tz_source"]) == (
        *(date(2026, 11, 20), "Europe/Helsinki", "profile"),
    )
    assert [known(one) for one in row["temperature_body_temperature_samples"]] == [
        {
            "timestamp": at("2026-11-19T22:30:00+00:00"),
            "local_timestamp": naive("2026-11-20T00:30:00"),
            "temperature_celsius": 36.5,
        },
        {
            "timestamp": at("2026-11-19T22:31:30.500000+00:00"),
            "local_timestamp": naive("2026-11-20T00:31:30.500000"),
            "temperature_celsius": 36.75,
        },
    ]
    assert row["temperature_skin_temperature_samples"] is None
    nowhere = one_row(rows, "body", sensed("body_temperature", CORE))
    assert (nowhere["local_date"], nowhere["tz_source"]) == (date(2026, 11, 19), "unknown")
    assert nowhere["temperature_body_temperature_samples"][0]["local_timestamp"] is None


def test_skin_and_core_are_apart_and_what_is_neither_is_kept_raw(rows: Any) -> None:
    skin = {**CORE, "measurement_type": "TM_SKIN_TEMPERATURE", "sensor_location": "SL_DISTAL"}
    found = sensed("body_temperature", CORE, skin, {**CORE, "measurement_type": "TM_UNKNOWN"})
    assert len({record.record_id for record in found}) == 3
    row = one_row(rows, "body", found)
    assert len(row["temperature_body_temperature_samples"]) == 2
    assert len(row["temperature_skin_temperature_samples"]) == 2


def test_a_period_measured_on_is_one_and_the_changed_one_counts(rows: Any) -> None:
    longer = {
        **CORE,
        "end_time": "2026-11-20T00:30:00",
        "modified_time": "2026-11-20T07:00:00",
        "samples": [{"temperature_celsius": 37.0, "recording_time_delta_milliseconds": 0}],
    }
    row = one_row(
        rows, "body", [*sensed("body_temperature", longer), *sensed("body_temperature", CORE)]
    )
    values = [one["temperature_celsius"] for one in row["temperature_body_temperature_samples"]]
    assert values == [37.0]


def test_saturation_of_a_test_with_its_offset(rows: Any) -> None:
    row = one_row(rows, "body", sensed("spo2", SPO2))
    # Three hours ahead it is the next day.
    assert (row["local_date"], row["utc_offset_seconds"]) == (date(2026, 11, 20), 10_800)
    assert [known(one) for one in row["oxygen_saturation_samples"]] == [
        {
            "timestamp": at("2026-11-19T22:30:00+00:00"),
            "local_timestamp": naive("2026-11-20T01:30:00"),
            "percentage": 95.0,
            "type": "blood",
        }
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"test_status": "SPO2_TEST_INCONCLUSIVE_TOO_MANY_MISSING_SAMPLES"},
        {"blood_oxygen_percent": 0},
        {"blood_oxygen_percent": None},
    ],
)
def test_a_test_without_a_result_is_no_reading(rows: Any, change: dict[str, object]) -> None:
    result = rows("polar", "body", sensed("spo2", {**SPO2, **change}))
    assert result.rejected.is_empty()
    assert result.rows.is_empty()


def test_an_electrocardiogram_is_in_microvolts(rows: Any) -> None:
    row = one_row(rows, "body", sensed("ecg", ECG))
    (signal,) = row["heart_ecg_signal"]
    assert signal["avg_hr_bpm"] == 61.0
    assert signal["start_timestamp"] == at("2026-11-19T22:30:00+00:00")
    # Five hours behind.
    assert signal["local_start_timestamp"] == naive("2026-11-19T17:30:00")
    assert [(one["timestamp"], one["potential_uv"]) for one in signal["raw_signal"]] == [
        (at("2026-11-19T22:30:00+00:00"), 500.0),
        (at("2026-11-19T22:30:00.008000+00:00"), -250.0),
    ]


def test_the_warmth_of_the_skin_belongs_to_its_night(rows: Any) -> None:
    skin = {**SKIN, "sleep_date": NIGHT["date"]}
    row = one_row(rows, "sleep", [*records("sleep", NIGHT), *records("skin_temperature", skin)])
    assert (row["metadata_summary_id"], row["temperature_delta"]) == ("2026-11-20", -0.5)
    assert row["end_at"] == at("2026-11-20T04:19:37+00:00")
    bare = {name: value for name, value in SKIN.items() if not name.startswith("deviation")}
    assert rows("polar", "sleep", records("skin_temperature", bare)).rows.is_empty()


@pytest.mark.parametrize(
    ("resource", "document", "change"),
    [
        ("body_temperature", CORE, {"start_time": "2026-11-19T25:00:00"}),
        ("spo2", SPO2, {"test_time": 0}),
        ("ecg", ECG, {"test_time": None}),
        ("skin_temperature", SKIN, {"sleep_date": "yesterday"}),
    ],
)
def test_a_broken_time_of_a_sensor_loses_that_record_alone(
    rows: Any, resource: str, document: dict[str, Any], change: dict[str, Any]
) -> None:
    found = sensed(resource, {**document, **change}, document)
    table = POLAR.resource(resource).tables[0].table
    result = rows("polar", table, found)
    assert result.rows.height == 1
    assert result.rejected["record_id"].unique().len() == 1


# --- talking to Polar


class AtBase:
    """A client for paths, with what the error table calls absent let through."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        accept = (*more.pop("accept", (200,)), 400, 403)
        return await self.client.request(method, f"https://api.example{url}", accept=accept, **more)


def pages_of(
    client_for: Any, answer: Any, start: date, end: date, state: dict[str, object] | None = None
) -> list[Page]:
    connection = Connection("u", {}, {}, {} if state is None else state, None, lambda: None)

    async def run() -> list[Page]:
        async with client_for(answer) as client:
            found = fetch(AtBase(client), connection, Window(start, end, NOW))
            return [page async for page in found]

    return asyncio.run(run())


def test_what_is_listed_without_dates_is_asked_for_in_the_present_alone(client_for: Any) -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(204 if request.url.path.endswith("physical-info") else 200, json=[])

    today = NOW.date()
    found = pages_of(client_for, answer, today - timedelta(days=3), today)
    # No content is no page.
    sensed = ["body_temperature", "skin_temperature", "spo2", "ecg"]
    assert [page.resource for page in found] == [
        "daily_activity",
        "continuous_heart_rate",
        *sensed,
        "exercise",
        "sleep",
        "nightly_recharge",
    ]
    assert dict(asked[0].params) == {"from": "2026-11-17", "to": "2026-11-20"}
    assert dict(asked[6].params) == {"samples": "true", "zones": "true"}
    old = pages_of(client_for, answer, date(2026, 8, 1), date(2026, 8, 28))
    assert [page.resource for page in old] == ["daily_activity", "continuous_heart_rate", *sensed]


def test_what_newer_watches_sense_is_asked_for_every_eight_hours(client_for: Any) -> None:
    state: dict[str, object] = {}

    def asked(now: datetime) -> int:
        paths: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            paths.append(request.url.path)
            return httpx.Response(204)

        connection = Connection("u", {}, {}, state, None, lambda: None)

        async def run() -> None:
            async with client_for(answer) as client:
                window = Window(now.date(), now.date(), now)
                async for _ in fetch(AtBase(client), connection, window):
                    pass

        asyncio.run(run())
        return sum("/biosensing/" in path for path in paths)

    hours = [asked(NOW + timedelta(hours=hour)) for hour in (0, 2, 7, 8, 10, 16)]
    assert hours == [4, 0, 0, 4, 0, 4]
    # A clock that was set back does not silence them.
    assert asked(NOW) == 4


def test_missing_consents_are_an_error_only_when_all_are_missing(client_for: Any) -> None:
    def some(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403 if "sleep" in request.url.path else 200, json=[])

    today = NOW.date()
    assert "sleep" not in {page.resource for page in pages_of(client_for, some, today, today)}
    with pytest.raises(PermanentError, match="consents"):
        pages_of(client_for, lambda _: httpx.Response(403), today, today)


@pytest.mark.parametrize("status", [400, 403])
def test_days_that_were_refused_are_asked_for_once_they_are_not(
    client_for: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    state: dict[str, object] = {}
    today = NOW.date()
    asked: list[tuple[str, str]] = []
    refused = {"activities"}

    def answer(request: httpx.Request) -> httpx.Response:
        kind, params = request.url.path.rpartition("/")[2], request.url.params
        if kind == "activities":
            asked.append((params["from"], params["to"]))
        return httpx.Response(status if kind in refused else 200, json=[])

    # Of history, of the present, and of the present again.
    for start, end in ((date(2026, 9, 1), date(2026, 9, 28)), *[(date(2026, 11, 13), today)] * 2):
        found = pages_of(client_for, answer, start, end, state)
        assert "continuous_heart_rate" in {page.resource for page in found}
        assert "daily_activity" not in {page.resource for page in found}
    assert asked == [("2026-09-01", "2026-09-28"), *[("2026-11-13", "2026-11-20")] * 2]
    assert [record.message for record in caplog.records] == [
        f"polar: daily_activity is refused (HTTP {status})"
    ]
    asked.clear()
    refused.clear()
    found = pages_of(client_for, answer, date(2026, 11, 13), today, state)
    assert asked == [("2026-11-13", "2026-11-20"), ("2026-09-01", "2026-09-28")]
    assert [page.resource for page in found].count("daily_activity") == 2
    assert state["missed"] == {}


def test_days_polar_no_longer_has_are_given_up(client_for: Any) -> None:
    state: dict[str, object] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403 if request.url.path.endswith("activities") else 204)

    pages_of(client_for, answer, date(2025, 11, 1), date(2025, 11, 28), state)
    asked: list[str] = []

    def later(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("activities"):
            asked.append(request.url.params["from"])
        return httpx.Response(204)

    today = NOW.date()
    pages_of(client_for, later, today, today, state)
    # 365 days back.
    assert asked == ["2026-11-20", "2025-11-20"]


def test_nothing_there_is_no_refusal(client_for: Any) -> None:
    today = NOW.date()
    state: dict[str, object] = {}
    assert pages_of(client_for, lambda _: httpx.Response(404), today, today, state) == []
    assert state["missed"] == {}


def test_fetches_that_are_due_stay_below_what_polar_adds_for_each_person() -> None:
    # Two kinds with dates and four without; four more every eight hours.
    assert timedelta(days=1) / POLAR.poll_interval * 6 + 3 * 4 == 84
    # Half of the pace is history's. What is due of 23 people at once, ten requests each, fills the rest.
    assert POLAR.requests_per_second * 900 * HISTORY_SHARE + 23 * 10 <= 500 + 20 * 23
    assert allowances_of(POLAR, "app", 1.0, people=23) == (
        Allowance("polar/900s", 960, 900.0),
        Allowance("polar/86400s", 7_300, 86_400.0),
    )


def test_connecting_registers_and_leaving_ends_the_registration(client_for: Any) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path))
        return httpx.Response(409 if request.method == "POST" else 204)

    async def run() -> str:
        async with client_for(answer) as client:
            found = await identify(AtBase(client), {"x_user_id": 475})
            await revoke(AtBase(client), {"granted": {"x_user_id": 475}})
            return found.account_id

    assert asyncio.run(run()) == "475"
    assert asked == [("POST", "/v3/users"), ("DELETE", "/v3/users/475")]


# --- bodies of unknown origin

DOCUMENTS: dict[str, object] = {
    "exercise": RUN,
    "daily_activity": DAY,
    "sleep": {"nights": [NIGHT]},
    "nightly_recharge": {"recharges": [{"date": "2026-11-19", "ans_charge": 1.5}]},
    "continuous_heart_rate": {"date": "2026-11-19", "heart_rate_samples": []},
    "physical_info": {"weight": 70, "height": 170, "modified": "2026-06-10T12:00:00Z"},
    "body_temperature": CORE,
    "skin_temperature": SKIN,
    "spo2": SPO2,
    "ecg": ECG,
}


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_a_body_is_recognised_as_what_it_is_alone(name: str) -> None:
    recognised = [r.name for r in POLAR.resources if r.recognise and r.recognise(DOCUMENTS[name])]
    assert recognised == [name]
    found = inspect_body(POLAR, json.dumps(DOCUMENTS[name]).encode(), name="body", now=NOW)
    assert found.unknown_fields == []
    assert found.rejected == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"SLEEP","user_id":475,"date":"2026-11-19","timestamp":"2026-11-20T07:00:00Z"}',
        b'{"errorType":"forbidden","message":"no"}',
        b"<html>",
        b"[]",
    ],
)
def test_what_is_no_documents_says_so(body: bytes) -> None:
    with pytest.raises((BadPayloadError, UsageError)):
        inspect_body(POLAR, body, name="body", now=NOW)


# --- pushes


def event(**said: object) -> PushRequest:
    return PushRequest("POST", {}, {}, json.dumps(said).encode())


def test_what_events_say() -> None:
    assert list(read_push(event(event="SLEEP", user_id=475))) == [Changed("475")]
    with pytest.raises(BadPayloadError):
        list(read_push(event(event="SLEEP")))


def test_a_ping_is_answered_unsigned_and_an_event_must_be_signed() -> None:
    secrets = PushSecrets("a", "b", "key")
    ping = answer_ping(event(event="PING", timestamp="2026-11-20T07:00:00Z"), secrets)
    assert ping is not None
    assert ping.status == 200
    body = b'{"event":"SLEEP","user_id":475}'
    assert answer_ping(PushRequest("POST", {}, {}, body), secrets) is None
    # hmac-sha256("key", body), by openssl.
    signed = {
        "polar-webhook-signature": "48be8c436968975dca9c031f4770f92caf7468243ac962b9fd691228baafa776"
    }
    assert POLAR.push is not None
    assert check_proof(POLAR.push, PushRequest("POST", signed, {}, body), secrets, NOW) is None
    with pytest.raises(RefusedError):
        check_proof(POLAR.push, PushRequest("POST", signed, {}, body + b" "), secrets, NOW)
    with pytest.raises(PipelineError):
        check_proof(POLAR.push, PushRequest("POST", {}, {}, body), secrets, NOW)


# --- recorded bodies


@pytest.mark.corpus
def test_a_recorded_night_typed_in(corpus: Path) -> None:
    body = (corpus / "polar" / "sleep__2.json").read_bytes()
    (row,) = inspect_body(POLAR, body, name="night", now=NOW).tables["sleep"]
    assert row["start_at"] == at("2025-04-02T05:00:00+00:00")
    assert row["end_at"] == at("2025-04-02T13:00:00+00:00")
    assert row["local_date"] == date(2025, 4, 2)
    assert row["metadata_upload_type"] == "manual"
    assert row["sleep_durations_asleep_duration_deep_sleep_state_seconds"] is None
    assert row["scores_sleep"] is None
