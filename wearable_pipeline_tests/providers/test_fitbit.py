"""Fitbit archives: what bodies become, what is not believed, and files nobody has to explain."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from wearable_pipeline.cli import app
from wearable_pipeline.connect import connect
from wearable_pipeline.errors import BadPayloadError, PipelineError, UsageError
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import ImportOptions, Record
from wearable_pipeline.providers._fitbit_split import UNDATED, day_in_name
from wearable_pipeline.raw.files import import_file
from wearable_pipeline.tables.inspect import Inspection, inspect_body
from wearable_pipeline.tables.refresh import refresh
from wearable_pipeline.workspace import Workspace

FITBIT = get_provider("fitbit")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PARIS = "Europe/Paris"
UNDATED_REASON = (
    "date: the body does not say of which day it is; put the day into the file's name"
    " (…2026-01-31.json); time: missing or not a date"
)


def wall(*parts: int) -> datetime:
    """What a clock on the wall shows."""
    return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


def look(
    body: object,
    *,
    name: str = "body.json",
    zone: str | None = None,
    resource: str | None = None,
    units: Literal["metric", "us"] | None = None,
) -> Inspection:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return inspect_body(
        FITBIT,
        content,
        name=name,
        now=NOW,
        resource_name=resource,
        options=ImportOptions(timezone=zone, units=units),
    )


def only(found: Inspection, table: str) -> dict[str, Any]:
    (row,) = found.tables[table]
    return row


def rows_of(found: Inspection, table: str) -> list[dict[str, Any]]:
    return found.tables[table]


def told(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def reasons(found: Inspection) -> list[object]:
    return [one["reason"] for one in found.rejected]


# --- bodies as the Web API wrote them, of nobody

SESSION = {
    "activeDuration": 1_800_000,
    "activityLevel": [
        {"minutes": 1, "name": "sedentary"},
        {"minutes": 2, "name": "lightly"},
        {"minutes": 3, "name": "fairly"},
        {"minutes": 24, "name": "very"},
    ],
    "activityName": "Run",
    "activityTypeId": 90009,
    "averageHeartRate": 140,
    "calories": 300,
    "distance": 5.0,
    "distanceUnit": "Kilometer",
    "duration": 1_860_000,
    "elevationGain": 12.0,
    "heartRateZones": [{"max": 95, "min": 30, "minutes": 3, "name": "Out of Range"}],
    "lastModified": "2020-05-04T18:00:00.000Z",
    "logId": 101,
    "logType": "tracker",
    "pace": 360.0,
    "source": {"id": "1", "name": "Charge 5", "type": "tracker", "url": "https://example.org"},
    "speed": 10.0,
    "startTime": "2020-05-04T23:50:00.000+02:00",
    "steps": 5400,
}
NIGHT = {
    "dateOfSleep": "2021-03-05",
    "duration": 3_600_000,
    "efficiency": 90,
    "endTime": "2021-03-05T00:30:00.000",
    "infoCode": 0,
    "isMainSleep": True,
    "levels": {
        "data": [
            {"dateTime": "2021-03-04T23:30:00.000", "level": "light", "seconds": 1800},
            {"dateTime": "2021-03-05T00:00:00.000", "level": "deep", "seconds": 1800},
        ],
        "shortData": [
            {"dateTime": "2021-03-04T23:40:00.000", "level": "wake", "seconds": 60},
            {"dateTime": "2021-03-04T23:59:30.000", "level": "wake", "seconds": 90},
            {"dateTime": "2021-03-05T00:29:00.000", "level": "wake", "seconds": 60},
        ],
        "summary": {
            "deep": {"count": 1, "minutes": 28, "thirtyDayAvgMinutes": 70},
            "light": {"count": 1, "minutes": 28},
            "rem": {"count": 0, "minutes": 0},
            "wake": {"count": 3, "minutes": 4},
        },
    },
    "logId": 77,
    "logType": "auto_detected",
    "minutesAfterWakeup": 1,
    "minutesAsleep": 56,
    "minutesAwake": 4,
    "minutesToFallAsleep": 2,
    "startTime": "2021-03-04T23:30:00.000",
    "timeInBed": 60,
    "type": "stages",
}
SUMMARY = {
    "activeScore": -1,
    "activityCalories": 800,
    "caloriesBMR": 1500,
    "caloriesOut": 2300,
    "distances": [
        {"activity": "Run", "distance": 5.0},
        {"activity": "total", "distance": 8.5},
        {"activity": "tracker", "distance": 8.4},
    ],
    "elevation": 30.48,
    "fairlyActiveMinutes": 20,
    "floors": 10,
    "lightlyActiveMinutes": 100,
    "marginalCalories": 500,
    "restingHeartRate": 55,
    "sedentaryMinutes": 700,
    "steps": 12000,
    "veryActiveMinutes": 40,
}
FOODS = {
    "foods": [
        {
            "isFavorite": False,
            "logDate": "2020-02-03",
            "logId": 11,
            "loggedFood": {
                "amount": 150,
                "calories": 120,
                "mealTypeId": 1,
                "name": "Skyr",
                "unit": {"id": 147, "name": "g", "plural": "g"},
            },
            "nutritionalValues": {
                "calories": 121,
                "carbs": 6.5,
                "fat": 0.3,
                "fiber": 0,
                "protein": 16,
                "sodium": 50,
            },
        },
        {
            "isFavorite": True,
            "logDate": "2020-02-03",
            "logId": 12,
            "loggedFood": {"amount": 1, "calories": 50, "mealTypeId": 7, "name": "Apple"},
        },
    ],
    "goals": {"calories": 2000},
    "summary": {
        "calories": 171,
        "carbs": 18,
        "fat": 0.5,
        "fiber": 2.5,
        "protein": 16,
        "sodium": 51,
        "water": 750,
    },
}


def points(*given: tuple[str, object], step: int = 1, unit: str = "minute") -> dict[str, Any]:
    return {
        "dataset": [{"time": at, "value": value} for at, value in given],
        "datasetInterval": step,
        "datasetType": unit,
    }


def steps_of(day: str, total: int, *given: tuple[str, object], step: int = 1) -> dict[str, Any]:
    return {
        "activities-steps": [{"dateTime": day, "value": str(total)}],
        "activities-steps-intraday": points(*given, step=step),
    }


# --- activity


def test_a_session_keeps_its_own_offset_and_becomes_metric() -> None:
    found = look({"activities": [SESSION], "pagination": {"next": ""}}, zone="America/New_York")
    row = only(found, "activity")
    assert found.unknown_fields == []
    assert row["local_date"] == date(2020, 5, 4)
    # 23:50 at +02:00 is 21:50 UTC; 1,860 s later it is 22:21.
    assert told(row, "start_at", "end_at") == (utc(2020, 5, 4, 21, 50), utc(2020, 5, 4, 22, 21))
    assert row["local_end_at"] == wall(2020, 5, 5, 0, 21)
    assert told(row, "utc_offset_seconds", "timezone", "tz_source") == (7200, None, "provider")
    assert told(row, "metadata_summary_id", "metadata_type", "metadata_upload_type") == (
        *("101", "running", "automatic"),
    )
    assert told(row, "device_name", "device_manufacturer") == ("Charge 5", "Fitbit")
    assert row["active_durations_activity_seconds"] == 1800
    assert row["active_durations_vigorous_intensity_seconds"] == 24 * 60
    assert row["active_durations_low_intensity_seconds"] == 2 * 60
    assert row["distance_summary_distance_meters"] == 5000
    assert row["movement_avg_speed_meters_per_second"] == pytest.approx(10_000 / 3600)
    assert row["movement_avg_pace_minutes_per_kilometer"] == 6
    assert told(row["heart_rate_summary_hr_zone"][0], "zone", "name", "duration_seconds") == (
        *(0, "Out of Range", 180.0),
    )


def test_a_session_in_miles_is_read_in_miles_yards_and_feet() -> None:
    swim = {
        **SESSION,
        "activityName": "Swim",
        "distance": 1,
        "distanceUnit": "Mile",
        "elevationGain": 100,
        "speed": 2,
        "pace": 1800,
        "poolLength": 25,
        "poolLengthUnit": "Yard",
        "swimLengths": 70,
        "logType": "manual",
        "startTime": "2020-05-04T06:00:00.000Z",
    }
    row = only(look({"activities": [swim], "pagination": {}}), "activity")
    assert row["distance_summary_distance_meters"] == 1609.344
    assert row["distance_summary_elevation_gain_actual_meters"] == pytest.approx(30.48)
    assert row["movement_avg_speed_meters_per_second"] == pytest.approx(2 * 1609.344 / 3600)
    # Half an hour for a mile: 30 / 1.609344 minutes for a kilometre.
    assert row["movement_avg_pace_minutes_per_kilometer"] == pytest.approx(18.6411, abs=1e-4)
    assert told(
        row,
        "distance_summary_swimming_num_laps",
        "distance_summary_swimming_pool_length_meters",
        "metadata_type",
        "metadata_upload_type",
    ) == (70, 23, "swimming", "manual")
    # Somebody at UTC: the offset is known, and it is zero.
    assert told(row, "utc_offset_seconds", "local_start_at") == (0, wall(2020, 5, 4, 6))


def test_a_session_in_a_unit_nobody_knows_has_no_distance() -> None:
    odd = {**SESSION, "distanceUnit": "Furlong"}
    row = only(look({"activities": [odd], "pagination": {}}), "activity")
    assert row["distance_summary_distance_meters"] is None
    assert row["movement_avg_speed_meters_per_second"] is None


def test_a_session_without_a_start_lies_somewhere_in_its_day() -> None:
    listed = {
        "activityId": 1,
        "activityParentName": "Walk",
        "calories": 200,
        "distance": 4,
        "duration": 3_600_000,
        "hasStartTime": False,
        "logId": 5,
        "name": "Walk",
        "startDate": "2020-05-04",
        "startTime": "15:00",
        "steps": 5000,
    }
    found = look({"activities": [listed], "summary": SUMMARY}, zone=PARIS)
    row = only(found, "activity")
    assert told(row, "local_start_at", "local_end_at") == (wall(2020, 5, 4), wall(2020, 5, 5))
    assert told(row, "start_at", "end_at") == (utc(2020, 5, 3, 22), utc(2020, 5, 4, 22))
    assert row["distance_summary_distance_meters"] == 4000
    # The session tells which day the summary is of.
    assert only(found, "daily")["local_date"] == date(2020, 5, 4)


def test_a_listed_session_and_the_same_in_a_summary_are_one() -> None:
    short = {
        "activityParentName": "Run",
        "name": "Morning run",
        "logId": 101,
        "steps": 5400,
        "startDate": "2020-05-04",
        "startTime": "23:50",
        "duration": 1_860_000,
        "lastModified": "2020-05-04T17:00:00.000Z",
    }
    members = {
        "list.json": {"activities": [SESSION], "pagination": {}},
        "day.json": {"activities": [short], "summary": SUMMARY},
    }
    row = only(look(pack(members), name="all.zip"), "activity")
    assert told(row, "metadata_summary_id", "metadata_name") == ("101", "Run")
    assert row["heart_rate_summary_avg_hr_bpm"] == 140
    assert row["start_at"] == utc(2020, 5, 4, 21, 50)


def test_a_broken_start_loses_that_session_only() -> None:
    broken = {**SESSION, "logId": 102, "startTime": "2020-05-04T25:00:00.000+02:00"}
    found = look({"activities": [broken, SESSION, None], "pagination": {}})
    assert [row["metadata_summary_id"] for row in found.tables["activity"]] == ["101"]
    assert sorted(map(str, reasons(found))) == [
        "body: not the JSON object this resource sends",
        "time: missing or not a date",
    ]


def test_a_length_no_session_has_is_refused() -> None:
    found = look({"activities": [{**SESSION, "duration": 2**62}], "pagination": {}})
    assert found.tables == {}
    assert "duration" in str(reasons(found))


# --- daily


def test_a_summary_is_of_the_day_in_the_name_of_its_file() -> None:
    body = {"activities": [], "goals": {"steps": 10000}, "summary": SUMMARY}
    row = only(look(body, name="day_2020-05-04.json"), "daily")
    assert row["local_date"] == date(2020, 5, 4)
    assert told(row, "distance_steps", "distance_distance_meters", "distance_floors_climbed") == (
        *(12000, 8500.0, 10),
    )
    assert row["distance_elevation_gain_actual_meters"] == 30.48
    assert told(
        row,
        "calories_total_burned_calories",
        "calories_bmr_calories",
        "calories_net_activity_calories",
    ) == (2300, 1500, 800)
    # 100 + 20 + 40 minutes.
    assert row["active_durations_activity_seconds"] == 9600
    assert told(
        row,
        "active_durations_inactivity_seconds",
        "active_durations_low_intensity_seconds",
        "active_durations_moderate_intensity_seconds",
        "active_durations_vigorous_intensity_seconds",
    ) == (42_000, 6000, 1200, 2400)
    assert row["heart_rate_summary_resting_hr_bpm"] == 55


@pytest.mark.parametrize("name", ["day.json", "2020-05-04_to_2020-05-10.json", "20200504.json"])
def test_a_summary_of_an_unknown_day_is_kept_aside_and_says_why(name: str) -> None:
    found = look({"activities": [], "summary": SUMMARY}, name=name)
    assert found.tables == {}
    assert reasons(found) == [UNDATED_REASON]


def test_a_day_is_read_from_a_name_only_when_there_is_one() -> None:
    assert day_in_name("water_2020_05_04.json") == date(2020, 5, 4)
    assert day_in_name("2020-05-04 of 2020-05-04.json") == date(2020, 5, 4)
    assert day_in_name("2020-13-04.json") is None
    assert day_in_name("1320-05-04.json") is None
    assert day_in_name(None) is None


def test_series_hold_text_and_every_key_goes_to_its_column() -> None:
    day = "2020-05-04"
    body = {
        f"activities-{key}": [{"dateTime": day, "value": value}]
        for key, value in (
            *(("steps", "0"), ("distance", "8.5"), ("floors", "3"), ("elevation", "9.1")),
            *(("calories", "2300"), ("caloriesBMR", "1500"), ("activityCalories", "800")),
            *(("minutesSedentary", "700"), ("minutesLightlyActive", "100")),
            *(("minutesFairlyActive", "20"), ("minutesVeryActive", "40")),
            ("swimming-strokes", "120"),
        )
    }
    row = only(look(body), "daily")
    # The provider said zero: that is no missing value.
    assert row["distance_steps"] == 0
    assert told(row, "distance_distance_meters", "distance_swimming_num_strokes") == (8500, 120)
    assert row["active_durations_vigorous_intensity_seconds"] == 2400
    assert told(row, "local_start_at", "start_at", "tz_source") == (
        *(wall(2020, 5, 4), None, "unknown"),
    )


def test_a_resting_heart_rate_that_is_missing_stays_missing() -> None:
    zones = [{"caloriesOut": 1.5, "max": 92, "min": 30, "minutes": 1400, "name": "Out of Range"}]
    body = {
        "activities-heart": [
            {"dateTime": "2020-05-04", "value": {"heartRateZones": zones, "restingHeartRate": 51}},
            {"dateTime": "2020-05-05", "value": {"heartRateZones": []}},
        ]
    }
    first, *others = rows_of(look(body), "daily")
    assert first["heart_rate_summary_resting_hr_bpm"] == 51
    assert first["heart_rate_summary_hr_zone"][0]["duration_seconds"] == 84_000
    assert [o["heart_rate_summary_resting_hr_bpm"] for o in others] == [None]


def test_points_lie_at_their_time_of_the_day_in_the_zone_of_the_person() -> None:
    body = steps_of("2020-05-04", 19, ("00:00:00", 7), ("14:27:00", 0), ("14:28:00", 12))
    without = only(look(body), "daily")["distance_detailed_step_samples"]
    assert [told(s, "timestamp", "local_timestamp", "steps") for s in without] == [
        (None, wall(2020, 5, 4, 0, 0), 7.0),
        (None, wall(2020, 5, 4, 14, 27), 0.0),
        (None, wall(2020, 5, 4, 14, 28), 12.0),
    ]
    within = only(look(body, zone=PARIS), "daily")
    assert within["distance_detailed_step_samples"][2]["timestamp"] == utc(2020, 5, 4, 12, 28)
    assert told(within, "distance_steps", "timezone", "tz_source") == (19, PARIS, "profile")


def test_a_broken_point_loses_that_point_only() -> None:
    body = steps_of(
        "2020-05-04", 9, ("00:00:00", 4), ("00:61:00", 1), ("00:02:00", "many"), ("00:03:00", 5)
    )
    found = look(body)
    samples = only(found, "daily")["distance_detailed_step_samples"]
    assert [s["steps"] for s in samples] == [4.0, 5.0]
    assert sorted(map(str, reasons(found))) == [
        "dataset.value: not a number",
        "time: missing or not a date",
    ]


def test_points_that_pass_midnight_belong_to_two_days() -> None:
    body = {
        "activities-heart": [
            {"dateTime": day, "value": {"heartRateZones": [], "restingHeartRate": rate}}
            for day, rate in (("2020-05-04", 50), ("2020-05-05", 51))
        ],
        "activities-heart-intraday": points(("23:59:58", 60), ("23:59:59", 61), ("00:00:00", 62)),
    }
    rows = rows_of(look(body), "daily")
    rates = [[s["bpm"] for s in row["heart_rate_detailed_hr_samples"]] for row in rows]
    assert rates == [[60.0, 61.0], [62.0]]
    assert rows[1]["heart_rate_detailed_hr_samples"][0]["local_timestamp"] == wall(2020, 5, 5)


def test_points_of_one_of_two_days_nobody_knows_which_are_kept_aside() -> None:
    body = {
        "activities-steps": [
            {"dateTime": "2020-05-04", "value": "1"},
            {"dateTime": "2020-05-05", "value": "2"},
        ],
        "activities-steps-intraday": points(("00:00:00", 3)),
    }
    found = look(body)
    assert [row["distance_detailed_step_samples"] for row in found.tables["daily"]] == [None, None]
    assert reasons(found) == [UNDATED_REASON]


def test_a_total_beside_points_of_an_afternoon_is_no_total_of_the_day() -> None:
    whole = {"activities-steps": [{"dateTime": "2020-05-04", "value": "9000"}]}
    part = steps_of("2020-05-04", 70, ("14:00:00", 30), ("14:01:00", 40))
    row = only(look(pack({"a.json": whole, "b.json": part}), name="x.zip"), "daily")
    assert row["distance_steps"] == 9000
    assert [s["steps"] for s in row["distance_detailed_step_samples"]] == [30.0, 40.0]


def test_zones_of_an_afternoon_are_no_zones_of_the_day() -> None:
    def flat(*times: str) -> dict[str, Any]:
        zones = [{"max": 92, "min": 30, "minutes": 2, "name": "Out of Range"}]
        return {
            "activities-heart": [
                {"dateTime": "2020-05-04", "heartRateZones": zones, "value": "64.5"}
            ],
            "activities-heart-intraday": points(*((at, 64) for at in times), unit="second"),
        }

    part = only(look(flat("14:00:00", "14:01:00")), "daily")
    assert told(part, "heart_rate_summary_avg_hr_bpm", "heart_rate_summary_hr_zone") == (None, None)
    whole = only(look(flat("00:00:04", "23:59:58")), "daily")
    assert whole["heart_rate_summary_avg_hr_bpm"] == 64.5


def test_today_is_no_date() -> None:
    found = look(
        {
            "activities-heart": [{"dateTime": "today", "heartRateZones": [], "value": "64.2"}],
            "activities-heart-intraday": points(("00:00:00", 64)),
        }
    )
    assert found.tables == {}
    assert set(reasons(found)) == {UNDATED_REASON}


def test_calories_come_with_effort_and_level() -> None:
    body = {
        "activities-calories": [{"dateTime": "2020-05-04", "value": "2300"}],
        "activities-calories-intraday": {
            "dataset": [
                {"level": 0, "mets": 10, "time": "00:00:00", "value": 1.2},
                {"level": 3, "mets": 85, "time": "00:01:00", "value": 9.5},
            ],
            "datasetInterval": 1,
            "datasetType": "minute",
        },
    }
    row = only(look(body), "daily")
    assert [s["calories"] for s in row["calories_calorie_samples"]] == [1.2, 9.5]
    # Written tenfold.
    assert [s["level"] for s in row["met_met_samples"]] == [1.0, 8.5]
    levels = row["active_durations_activity_levels_samples"]
    assert [s["activity_level"] for s in levels] == ["inactive", "high_intensity"]


def test_points_without_any_day_are_one_refusal_not_thousands() -> None:
    body = {
        "activities-calories": [],
        "activities-calories-intraday": points(*((f"00:{m:02}:00", 1) for m in range(60))),
    }
    assert [r["reason"] for r in look(body).rejected] == [UNDATED_REASON]


def quarters(day: str) -> dict[str, Any]:
    return steps_of(day, 700, ("00:00:00", 100), ("00:15:00", 200), ("00:30:00", 400), step=15)


def test_amounts_asked_for_in_two_lengths_are_not_told_twice() -> None:
    minutes = steps_of(
        "2020-05-04",
        700,
        *((f"00:{m:02}:00", 7) for m in range(15)),
        # Half of the second quarter.
        *((f"00:{m:02}:00", 9) for m in range(15, 22)),
    )
    members = {"a.json": quarters("2020-05-04"), "b.json": minutes}
    row = only(look(pack(members), name="x.zip"), "daily")
    samples = row["distance_detailed_step_samples"]
    # The first quarter by its fifteen minutes, the others as they are.
    assert [s["steps"] for s in samples] == [7.0] * 15 + [200.0, 400.0]
    alone = only(look(quarters("2020-05-04")), "daily")["distance_detailed_step_samples"]
    assert [s["steps"] for s in alone] == [100.0, 200.0, 400.0]


def test_zone_minutes_count_double_where_the_heart_beats_fast() -> None:
    body = {
        "activities-active-zone-minutes": [
            {
                "dateTime": "2020-05-04",
                "value": {
                    "activeZoneMinutes": 21,
                    "fatBurnActiveZoneMinutes": 5,
                    "cardioActiveZoneMinutes": 12,
                    "peakActiveZoneMinutes": 4,
                },
            },
            {"dateTime": "2020-05-05", "value": {"activeZoneMinutes": 3}},
        ]
    }
    first, second = rows_of(look(body), "daily")
    assert told(first, "met_num_moderate_intensity_minutes", "met_num_high_intensity_minutes") == (
        5,
        8,
    )
    assert told(second, "met_num_moderate_intensity_minutes", "met_num_high_intensity_minutes") == (
        None,
        None,
    )


def test_a_range_of_fitness_is_no_value() -> None:
    body = {
        "cardioScore": [
            {"dateTime": "2020-05-04", "value": {"vo2Max": "44-48"}},
            {"dateTime": "2020-05-05", "value": {"vo2Max": "45.5"}},
        ]
    }
    found = look(body)
    assert only(found, "daily")["oxygen_vo2max_ml_per_min_per_kg"] == 45.5
    assert found.rejected == [
        {"record": "2020-05-04", "reason": "value.vo2Max: a range, not a value"}
    ]


def test_devices_are_noted_on_the_day_they_handed_over_data() -> None:
    body = [
        {
            "battery": "Medium",
            "batteryLevel": 60,
            "deviceVersion": version,
            "features": [],
            "id": number,
            "lastSyncTime": "2020-05-04T12:00:58.000",
            "mac": "A",
            "type": kind,
        }
        for version, number, kind in (("Charge 5", "7", "TRACKER"), ("Aria", "8", "SCALE"))
    ]
    found = look(body, zone=PARIS)
    (tracker,) = only(found, "daily")["device_other_devices"]
    assert told(tracker, "name", "manufacturer", "serial_number") == ("Charge 5", "Fitbit", "7")
    assert tracker["last_upload_date"] == utc(2020, 5, 4, 10, 0, 58)
    assert [d["name"] for d in only(found, "body")["device_other_devices"]] == ["Aria"]


# --- sleep


def test_short_awakenings_are_laid_over_the_stages_of_a_night() -> None:
    found = look({"sleep": [NIGHT], "pagination": {"next": ""}}, zone=PARIS)
    row = only(found, "sleep")
    assert found.unknown_fields == []
    # The night began the day before.
    assert row["local_date"] == date(2021, 3, 5)
    assert told(row, "start_at", "end_at") == (utc(2021, 3, 4, 22, 30), utc(2021, 3, 4, 23, 30))
    stages = [told(s, "local_timestamp", "level") for s in row["sleep_durations_hypnogram_samples"]]
    assert stages == [
        (wall(2021, 3, 4, 23, 30), "light_sleep"),
        (wall(2021, 3, 4, 23, 40), "awake"),
        (wall(2021, 3, 4, 23, 41), "light_sleep"),
        # Awake across the change from light to deep: deep is what goes on afterwards.
        (wall(2021, 3, 4, 23, 59, 30), "awake"),
        (wall(2021, 3, 5, 0, 1), "deep_sleep"),
        # Until the end of the night: nothing goes on.
        (wall(2021, 3, 5, 0, 29), "awake"),
    ]
    assert row["sleep_durations_hypnogram_samples"][0]["timestamp"] == utc(2021, 3, 4, 22, 30)
    assert told(
        row,
        "sleep_durations_asleep_duration_asleep_state_seconds",
        "sleep_durations_asleep_duration_light_sleep_state_seconds",
        "sleep_durations_asleep_duration_deep_sleep_state_seconds",
        "sleep_durations_asleep_duration_rem_sleep_state_seconds",
        "sleep_durations_awake_duration_awake_state_seconds",
        "sleep_durations_other_duration_in_bed_seconds",
    ) == (3360, 1680, 1680, 0, 240, 3600)
    assert told(
        row,
        "sleep_durations_awake_sleep_latency_seconds",
        "sleep_durations_awake_wake_up_latency_seconds",
        "sleep_durations_awake_num_wakeup_events",
        "sleep_durations_sleep_efficiency",
        "metadata_is_nap",
        "metadata_upload_type",
    ) == (120, 60, 3, 90, False, "automatic")


def test_a_classic_night_is_asleep_or_awake() -> None:
    classic = {
        **NIGHT,
        "type": "classic",
        "isMainSleep": False,
        "levels": {
            "data": [
                {"dateTime": "2021-03-04T23:30:00.000", "level": "asleep", "seconds": 600},
                {"dateTime": "2021-03-04T23:40:00.000", "level": "restless", "seconds": 60},
                {"dateTime": "2021-03-04T23:41:00.000", "level": "awake", "seconds": 60},
                {"dateTime": "2021-03-04T23:42:00.000", "level": "asleep", "seconds": 2880},
            ],
            "summary": {"awake": {"count": 2, "minutes": 1}, "asleep": {"count": 0, "minutes": 58}},
        },
    }
    row = only(look({"sleep": [classic]}), "sleep")
    levels = [s["level"] for s in row["sleep_durations_hypnogram_samples"]]
    assert levels == ["sleeping", "awake", "awake", "sleeping"]
    assert told(
        row,
        "sleep_durations_awake_num_wakeup_events",
        "sleep_durations_asleep_duration_deep_sleep_state_seconds",
        "metadata_is_nap",
        "start_at",
        "local_start_at",
    ) == (2, None, True, None, wall(2021, 3, 4, 23, 30))


def test_minutes_of_the_first_version_go_on_after_midnight() -> None:
    old = {
        "isMainSleep": True,
        "logId": 8,
        "efficiency": 98,
        "duration": 300_000,
        "startTime": "2011-06-16T23:58:00.000",
        "minutesAsleep": 4,
        "minutesAwake": 1,
        "timeInBed": 5,
        "awakeCount": 1,
        "awakeningsCount": 1,
        "restlessCount": 0,
        "minuteData": [
            {"dateTime": "23:58:00", "value": "1"},
            {"dateTime": "23:59:00", "value": "1"},
            {"dateTime": "00:00:00", "value": "3"},
            {"dateTime": "00:01:00", "value": "2"},
            {"dateTime": "00:02:00", "value": "1"},
        ],
    }
    row = only(look({"sleep": [old], "summary": {"totalSleepRecords": 1}}), "sleep")
    # It ended at 00:03: a night of the 17th.
    assert row["local_date"] == date(2011, 6, 17)
    assert row["local_end_at"] == wall(2011, 6, 17, 0, 3)
    stages = [told(s, "local_timestamp", "level") for s in row["sleep_durations_hypnogram_samples"]]
    assert stages == [
        (wall(2011, 6, 16, 23, 58), "sleeping"),
        (wall(2011, 6, 17, 0, 0), "awake"),
        (wall(2011, 6, 17, 0, 1), "awake"),
        (wall(2011, 6, 17, 0, 2), "sleeping"),
    ]


def test_a_stage_spelled_otherwise_is_the_same_and_a_broken_one_is_lost_alone() -> None:
    levels = {
        "data": [
            {"datetime": "2021-03-04T23:30:00.000", "level": "light", "seconds": 1800},
            {"dateTime": "2021-03-04T24:99:00.000", "level": "rem", "seconds": 60},
            {"dateTime": "2021-03-05T00:00:00.000", "level": "deep", "seconds": 1800},
        ]
    }
    found = look({"sleep": [{**NIGHT, "levels": levels}]})
    stages = only(found, "sleep")["sleep_durations_hypnogram_samples"]
    assert [s["level"] for s in stages] == ["light_sleep", "deep_sleep"]
    assert ["no time" in str(reason) for reason in reasons(found)] == [True]


def test_the_hour_that_comes_twice_has_no_instant_and_the_night_still_has_ends() -> None:
    # Paris, 31 October 2021: 03:00 became 02:00 again.
    night = {
        **NIGHT,
        "dateOfSleep": "2021-10-31",
        "startTime": "2021-10-31T01:30:00.000",
        "endTime": "2021-10-31T02:30:00.000",
        "duration": 3_600_000,
        "levels": {
            "data": [
                {"dateTime": "2021-10-31T01:30:00.000", "level": "light", "seconds": 3000},
                {"dateTime": "2021-10-31T02:20:00.000", "level": "rem", "seconds": 600},
            ]
        },
    }
    row = only(look({"sleep": [night]}, zone=PARIS), "sleep")
    # The start was at +02:00; an hour later is the first half past two.
    assert told(row, "start_at", "end_at") == (utc(2021, 10, 30, 23, 30), utc(2021, 10, 31, 0, 30))
    instants = [s["timestamp"] for s in row["sleep_durations_hypnogram_samples"]]
    assert instants == [utc(2021, 10, 30, 23, 30), None] or instants == [
        *(None, utc(2021, 10, 30, 23, 30)),
    ]


def logged(log_id: int, end: str, minutes: int, *, is_main: bool) -> dict[str, Any]:
    ends = datetime.fromisoformat(end)
    return {
        "logId": log_id,
        "dateOfSleep": "2021-10-25",
        "startTime": (ends - timedelta(minutes=minutes)).isoformat(),
        "endTime": end,
        "duration": minutes * 60_000,
        "minutesAsleep": minutes - 10,
        "isMainSleep": is_main,
        "timeInBed": minutes,
    }


def measured_in_the_night(day: str = "2021-10-25") -> dict[str, Any]:
    return {
        "hrv.json": {"hrv": [{"dateTime": day, "value": {"dailyRmssd": 34.9}}]},
        "spo2_all.json": [
            {"dateTime": day, "minutes": [{"value": 95.4, "minute": "2021-10-25T06:11:38"}]}
        ],
    }


def test_a_night_with_what_was_measured_in_it_is_one_row() -> None:
    night = logged(71, "2021-10-25T06:40:00.000", 480, is_main=True)
    nap = logged(72, "2021-10-25T15:00:00.000", 60, is_main=False)
    members = {"sleep.json": {"sleep": [night, nap]}, **measured_in_the_night()}
    found = look(pack(members), name="x.zip", zone=PARIS)
    rows = sorted(rows_of(found, "sleep"), key=lambda row: str(row["start_at"]))
    asleep = "sleep_durations_asleep_duration_asleep_state_seconds"
    told_of = ("metadata_summary_id", "start_at", asleep, "heart_rate_summary_avg_hrv_rmssd")
    # 470 and 50 minutes asleep; Paris is two hours ahead.
    assert [told(row, *told_of) for row in rows] == [
        ("71", utc(2021, 10, 24, 20, 40), 28_200.0, 34.9),
        ("72", utc(2021, 10, 25, 12, 0), 3_000.0, None),
    ]
    assert [one["percentage"] for one in rows[0]["respiration_oxygen_saturation_samples"]] == [95.4]
    assert sum(row[asleep] for row in rows) == 31_200.0


def test_what_was_measured_in_one_night_never_joins_another() -> None:
    night = logged(71, "2021-10-25T06:40:00.000", 480, is_main=True)
    before = measured_in_the_night("2021-10-24")["hrv.json"]
    members = {"sleep.json": {"sleep": [night]}, "older.json": before, **measured_in_the_night()}
    rows = rows_of(look(pack(members), name="x.zip", zone=PARIS), "sleep")
    assert {row["metadata_summary_id"]: row["local_date"] for row in rows} == {
        "71": date(2021, 10, 25),
        "night-2021-10-24": date(2021, 10, 24),
    }


def test_of_two_main_sleeps_or_of_naps_alone_nobody_knows_which_was_measured() -> None:
    main = logged(71, "2021-10-25T06:40:00.000", 480, is_main=True)
    other = logged(72, "2021-10-25T23:00:00.000", 60, is_main=True)
    nap = logged(73, "2021-10-25T15:00:00.000", 60, is_main=False)
    for logs in ([main, other], [nap]):
        members = {"sleep.json": {"sleep": logs}, **measured_in_the_night()}
        rows = rows_of(look(pack(members), name="x.zip", zone=PARIS), "sleep")
        variability = {
            row["metadata_summary_id"]: row["heart_rate_summary_avg_hrv_rmssd"] for row in rows
        }
        ids = [str(log["logId"]) for log in logs]
        assert variability == {**dict.fromkeys(ids), "night-2021-10-25": 34.9}


def test_what_is_measured_in_a_night_nobody_logged_makes_one_row_of_its_own() -> None:
    day = "2021-10-25"
    members = {
        "hrv.json": {"hrv": [{"dateTime": day, "value": {"dailyRmssd": 34.9, "deepRmssd": 31.5}}]},
        "hrv_all.json": {
            "hrv": [
                {
                    "dateTime": day,
                    "minutes": [
                        {
                            "minute": "2021-10-24T23:10:00.000",
                            "value": {"rmssd": 26.6, "coverage": 0.9, "hf": 126.5, "lf": 471.8},
                        }
                    ],
                }
            ]
        },
        "br.json": {"br": [{"dateTime": day, "value": {"breathingRate": 17.8}}]},
        "spo2.json": {"dateTime": day, "value": {"avg": 97.5, "min": 94.0, "max": 100.0}},
        "spo2_all.json": [
            {"dateTime": day, "minutes": [{"value": 95.4, "minute": "2021-10-25T06:11:38"}]}
        ],
        "skin.json": {
            "tempSkin": [
                {
                    "dateTime": day,
                    "value": {"nightlyRelative": -0.4},
                    "logType": "dedicated_temp_sensor",
                }
            ]
        },
    }
    found = look(pack(members), name="x.zip", zone=PARIS)
    row = only(found, "sleep")
    assert found.unknown_fields == []
    assert row["metadata_summary_id"] == "night-2021-10-25"
    assert row["local_date"] == date(2021, 10, 25)
    assert told(
        row,
        "heart_rate_summary_avg_hrv_rmssd",
        "respiration_breaths_avg_breaths_per_min",
        "respiration_oxygen_saturation_avg_saturation_percentage",
        "temperature_delta",
    ) == (34.9, 17.8, 97.5, -0.4)
    (variability,) = row["heart_rate_detailed_hrv_samples_rmssd"]
    assert told(variability, "timestamp", "hrv_rmssd") == (utc(2021, 10, 24, 21, 10), 26.6)
    (oxygen,) = row["respiration_oxygen_saturation_samples"]
    assert told(oxygen, "timestamp", "percentage", "type") == (
        *(utc(2021, 10, 25, 4, 11, 38), 95.4, "blood"),
    )
    daily = only(found, "daily")
    assert told(daily, "heart_rate_summary_avg_hrv_rmssd", "oxygen_avg_saturation_percentage") == (
        *(34.9, 97.5),
    )


def test_a_rate_of_minus_one_is_no_rate() -> None:
    def stages(full: float) -> dict[str, Any]:
        return {
            "deepSleepSummary": {"breathingRate": 16.8},
            "remSleepSummary": {"breathingRate": -1},
            "fullSleepSummary": {"breathingRate": full},
            "lightSleepSummary": {"breathingRate": 16.8},
        }

    body = {
        "br": [
            {"dateTime": "2021-10-25", "value": stages(17.8)},
            {"dateTime": "2021-10-26", "value": stages(-1)},
        ]
    }
    row = only(look(body), "sleep")
    assert told(row, "local_date", "respiration_breaths_avg_breaths_per_min") == (
        *(date(2021, 10, 25), 17.8),
    )


# --- body


def test_two_scales_on_one_day_with_one_log_id_are_two_weighings() -> None:
    logged = {"date": "2020-05-04", "logId": 1_588_636_799_000}
    body = {
        "weight": [
            {**logged, "bmi": 23.6, "source": "API", "time": "23:59:59", "weight": 73},
            {
                **logged,
                "bmi": 23.4,
                "fat": 14.5,
                "source": "Aria",
                "time": "07:10:59",
                "weight": 72.5,
            },
        ]
    }
    found = look(body, zone=PARIS)
    first, second = only(found, "body")["measurements_measurements"]
    assert told(first, "measurement_time", "weight_kg", "bmi", "bodyfat_percentage") == (
        *(utc(2020, 5, 4, 5, 10, 59), 72.5, 23.4, 14.5),
    )
    assert told(first, "device_id") + told(second, "weight_kg", "device_id") == ("Aria", 73, None)
    fat = look(
        {"fat": [{**logged, "fat": 14, "source": "API", "time": "23:59:59"}]},
    )
    (measured,) = only(fat, "body")["measurements_measurements"]
    assert told(measured, "measurement_time", "local_measurement_time", "bodyfat_percentage") == (
        *(None, wall(2020, 5, 4, 23, 59, 59), 14),
    )


@pytest.mark.parametrize("weight", [181.0, 12.9])
def test_a_weight_in_pounds_or_stones_is_not_taken_for_kilograms(weight: float) -> None:
    # 82 kg at a BMI of 25 is 1.81 m; 181 pounds would make 2.69 m of it, 12.9 stones 0.72 m.
    log = {"bmi": 25, "date": "2020-05-04", "logId": 1, "time": "07:00:00"}
    found = look({"weight": [{**log, "weight": weight}]})
    assert found.tables == {}
    assert "asked for in other units" in str(reasons(found))
    kept = look({"weight": [{**log, "weight": 82}]})
    assert only(kept, "body")["measurements_measurements"][0]["weight_kg"] == 82


def test_a_temperature_in_fahrenheit_is_not_taken_for_celsius() -> None:
    body = {
        "tempCore": [
            {"dateTime": "2020-06-18T10:00:00", "value": 37.5},
            {"dateTime": "2020-06-18T12:10:00", "value": 99.5},
        ]
    }
    found = look(body)
    (sample,) = only(found, "body")["temperature_body_temperature_samples"]
    assert told(sample, "local_timestamp", "temperature_celsius") == (wall(2020, 6, 18, 10), 37.5)
    assert "Fahrenheit" in str(reasons(found))


# One archive asked for with `en_US`, its values made of round metric ones.
US_MEMBERS: Mapping[str, object] = {
    # 82 kg, 181 lb; 25 is the BMI of somebody of 1.81 m.
    "weight.json": {
        "weight": [
            {"bmi": 25, "date": "2020-05-04", "logId": 1, "time": "07:00:00", "weight": 180.779}
        ]
    },
    "distance.json": {"activities-distance": [{"dateTime": "2020-05-04", "value": "5"}]},
    "elevation.json": {"activities-elevation": [{"dateTime": "2020-05-04", "value": "100"}]},
    "water.json": {"foods-log-water": [{"dateTime": "2020-05-04", "value": "10"}]},
    "core.json": {"tempCore": [{"dateTime": "2020-05-04T10:00:00", "value": 99.5}]},
    "skin.json": {"tempSkin": [{"dateTime": "2020-05-04", "value": {"nightlyRelative": -0.9}}]},
    # Says its unit itself.
    "runs.json": {"activities": [SESSION], "pagination": {}},
}


def test_an_archive_of_miles_and_pounds_is_read_as_such_where_whoever_imports_it_says_so() -> None:
    found = look(pack(US_MEMBERS), name="x.zip", zone=PARIS, units="us")
    assert found.rejected == []
    body = only(found, "body")
    (weighing,) = body["measurements_measurements"]
    # 180.779 · 0.45359237
    assert weighing["weight_kg"] == pytest.approx(81.99997, abs=1e-5)
    (core,) = body["temperature_body_temperature_samples"]
    # 67.5 °F above freezing, 1.8 °F each.
    assert core["temperature_celsius"] == pytest.approx(37.5)
    daily = only(found, "daily")
    # 5 · 1609.344 m and 100 · 0.3048 m
    assert daily["distance_distance_meters"] == pytest.approx(8046.72)
    assert daily["distance_elevation_gain_actual_meters"] == pytest.approx(30.48)
    # 10 · 29.5735295625
    assert only(found, "nutrition")["summary_water_ml"] == pytest.approx(295.735295625)
    # A difference: -0.9 / 1.8
    assert only(found, "sleep")["temperature_delta"] == pytest.approx(-0.5)
    assert only(found, "activity")["distance_summary_distance_meters"] == 5000.0


def test_without_a_word_on_units_those_of_the_same_archive_that_cannot_be_are_refused() -> None:
    found = look(pack(US_MEMBERS), name="x.zip", zone=PARIS)
    assert len(found.rejected) == 2
    assert all("See --units of import" in str(reason) for reason in reasons(found))
    assert only(found, "daily")["distance_distance_meters"] == 5000.0


def test_the_command_line_takes_the_units_of_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "weight.json"
    file.write_text(json.dumps(US_MEMBERS["weight.json"]))
    asked = ["normalize", "--provider", "fitbit", str(file), "--units"]
    told = {
        units: json.loads(CliRunner().invoke(app, [*asked, units]).stdout)
        for units in ("metric", "us")
    }
    assert [len(told[units]["rejected"]) for units in ("metric", "us")] == [1, 0]
    (row,) = told["us"]["tables"]["body"]
    assert row["measurements_measurements"][0]["weight_kg"] == pytest.approx(81.99997, abs=1e-5)


def test_a_session_that_names_no_unit_follows_the_units_of_its_archive() -> None:
    nameless = {key: value for key, value in SESSION.items() if key != "distanceUnit"}
    row = only(look({"activities": [nameless]}, units="us"), "activity")
    # 5 and 10 miles, 12 feet; 360 s a mile are 360 / 60 / 1.609344 min a kilometre.
    assert row["distance_summary_distance_meters"] == pytest.approx(8046.72)
    assert row["distance_summary_elevation_gain_actual_meters"] == pytest.approx(3.6576)
    assert row["movement_avg_speed_meters_per_second"] == pytest.approx(16093.44 / 3600)
    assert row["movement_avg_pace_minutes_per_kilometer"] == pytest.approx(3.728227, abs=1e-6)


def test_bodies_that_leave_the_day_to_their_address_take_it_from_the_name() -> None:
    name = "2020-05-04.json"
    measured = only(
        look({"body": {"bicep": 40, "bmi": 23.5, "fat": 0, "weight": 75.2}}, name=name), "body"
    )
    assert told(
        measured,
        "local_date",
        "measurements_day_avg_weight_kg",
        "measurements_day_avg_bmi",
        "measurements_day_avg_bodyfat_percentage",
    ) == (date(2020, 5, 4), 75.2, 23.5, None)
    pressure = look(
        {
            "average": {"diastolic": 85},
            "bp": [
                {"diastolic": 80, "logId": 1, "systolic": 120},
                {"diastolic": 90, "logId": 2, "systolic": 110, "time": "08:00"},
            ],
        },
        name=name,
    )
    (sample,) = only(pressure, "body")["blood_pressure_blood_pressure_samples"]
    assert told(sample, "local_timestamp", "systolic_bp", "diastolic_bp") == (
        *(wall(2020, 5, 4, 8), 110, 90),
    )
    assert "does not say when" in str(reasons(pressure))


def test_series_of_the_body_hold_no_zeros() -> None:
    body = {
        "body-weight": [{"dateTime": "2020-05-04", "value": "73.5"}],
        "body-fat": [{"dateTime": "2020-05-04", "value": "0.0"}],
    }
    row = only(look(body), "body")
    assert told(
        row, "measurements_day_avg_weight_kg", "measurements_day_avg_bodyfat_percentage"
    ) == (73.5, None)


def test_a_trace_of_the_heart_is_in_microvolts() -> None:
    body = {
        "ecgReadings": [
            {
                "startTime": "2022-09-28T17:12:30.222",
                "averageHeartRate": 70,
                "resultClassification": "Normal Sinus Rhythm",
                "leadNumber": 1,
                "waveformSamples": [1000, -500],
                "samplingFrequencyHz": "250",
                "scalingFactor": 10000,
                "numberOfWaveformSamples": 2,
            }
        ],
        "pagination": {},
    }
    (reading,) = only(look(body), "body")["heart_ecg_signal"]
    assert told(reading, "avg_hr_bpm", "afib_classification") == (70, "negative")
    # 1000 of 10,000 to the millivolt are 0.1 mV; 250 a second are 4 ms apart.
    assert [told(s, "local_timestamp", "potential_uv") for s in reading["raw_signal"]] == [
        (wall(2022, 9, 28, 17, 12, 30, 222_000), 100.0),
        (wall(2022, 9, 28, 17, 12, 30, 226_000), -50.0),
    ]


# --- nutrition


def test_foods_are_meals_without_a_time_and_the_summary_is_the_day() -> None:
    found = look(FOODS, zone=PARIS)
    row = only(found, "nutrition")
    assert found.unknown_fields == []
    first, second = row["meals"]
    assert told(first, "id", "name", "type", "quantity_amount", "quantity_unit") == (
        *("11", "Skyr", "breakfast", 150, "gram"),
    )
    # Only the day is known, not the time.
    assert told(first, "timestamp", "local_timestamp") == (None, wall(2020, 2, 3))
    assert told(
        first,
        "macros_calories",
        "macros_carbohydrates_g",
        "macros_protein_g",
        "macros_fat_g",
        "macros_fiber_g",
        "macros_sodium_mg",
    ) == (121, 6.5, 16, 0.3, 0, 50)
    assert told(second, "type", "quantity_unit", "macros_calories", "macros_fat_g") == (
        *("unknown", "unknown", 50, None),
    )
    assert told(
        row,
        "summary_macros_calories",
        "summary_macros_carbohydrates_g",
        "summary_macros_sodium_mg",
        "summary_water_ml",
    ) == (171, 18, 51, 750)


def test_a_day_without_a_log_is_not_a_day_without_food() -> None:
    nothing = {
        "foods": [],
        "summary": dict.fromkeys(("calories", "carbs", "fat", "protein", "water"), 0),
    }
    assert look(nothing, name="2020-05-04.json").tables == {}
    drunk = {"foods": [], "summary": {**nothing["summary"], "water": 250}}  # type: ignore[dict-item]
    row = only(look(drunk, name="2020-05-04.json"), "nutrition")
    assert told(row, "summary_water_ml", "summary_macros_calories") == (250, None)
    series = {"foods-log-caloriesIn": [{"dateTime": "2020-05-04", "value": "0"}]}
    assert look(series).tables == {}


def test_portions_of_water_add_up_where_no_total_stands_beside_them() -> None:
    portions = [{"amount": 200, "logId": 1}, {"amount": 200, "logId": 2}]
    name = "water 2020-05-04.json"
    with_total = look({"summary": {"water": 450}, "water": portions}, name=name)
    assert only(with_total, "nutrition")["summary_water_ml"] == 450
    without = look({"water": portions}, name=name)
    assert only(without, "nutrition")["summary_water_ml"] == 400


# --- files

Read = Callable[..., list[Record]]


def pack(members: Mapping[str, object]) -> bytes:
    """A zip of JSON files, and of other things as they are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as folder:
        for name, content in members.items():
            folder.writestr(
                name, content if isinstance(content, bytes) else json.dumps(content).encode()
            )
    return packed.getvalue()


def records_of(content: bytes, zone: str | None = None) -> list[Record]:
    (importer,) = FITBIT.importers
    batches = importer.read(io.BytesIO(content), ImportOptions(timezone=zone))
    return [record for batch in batches for record in batch]


def test_resources_have_names_of_their_own() -> None:
    names = [resource.name for resource in FITBIT.resources]
    assert len(set(names)) == len(names)


def test_a_profile_in_the_zip_tells_the_zone_unless_the_person_does() -> None:
    profile = {"user": {"encodedId": "X", "timezone": PARIS, "offsetFromUTCMillis": 3_600_000}}
    content = pack({"user/profile.json": profile, "sleep/1.json": {"sleep": [NIGHT]}})
    (record,) = records_of(content)
    assert record.context["timezone"] == PARIS
    (told_otherwise,) = records_of(content, "Asia/Tokyo")
    assert told_otherwise.context["timezone"] == "Asia/Tokyo"


def test_a_zip_passes_over_what_carries_no_readings_and_is_no_json() -> None:
    content = pack(
        {
            "readme.txt": b"mine",
            "goals.json": {"goals": {"steps": 10000}},
            "error.json": {"errors": [{"errorType": "system"}], "success": False},
            "empty.json": [],
            "sleep.json": b"\xef\xbb\xbf" + json.dumps({"sleep": [NIGHT]}).encode(),
            "__MACOSX/._sleep.json": b"\x00\x05",
        }
    )
    (record,) = records_of(content)
    assert (record.resource, record.record_id) == ("sleep", "77")
    # Byte for byte what stood in the list.
    assert record.body == json.dumps(NIGHT).encode()


@pytest.mark.parametrize("strange", [b'{"sleep": [', b'{"lorem": "ipsum"}', b"", b'"x"'])
def test_a_zip_with_a_broken_or_unknown_answer_is_refused_before_anything_is_stored(
    strange: bytes,
) -> None:
    content = pack({"a.json": {"sleep": [NIGHT]}, "secret name.json": strange})
    (importer,) = FITBIT.importers
    with pytest.raises(BadPayloadError, match="1 of its 2 JSON files") as caught:
        next(iter(importer.read(io.BytesIO(content), ImportOptions())))
    assert "secret" not in str(caught.value)


def with_header(content: bytes, offset: int, value: int) -> bytes:
    """The zip of one file with a field of its local header, and of its central one, set to `value`."""
    changed = bytearray(content)
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        place = content.index(signature) + offset + shift
        changed[place : place + 2] = value.to_bytes(2, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pack({}), "no answer with readings"),
        (with_header(pack({"sleep.json": {"sleep": [NIGHT]}}), 6, 1), "asks for a password"),
        (with_header(pack({"sleep.json": {"sleep": [NIGHT]}}), 8, 97), "pack it again"),
        (pack({"sleep.json": {"sleep": [NIGHT]}})[:-30], "zip cannot be read"),
    ],
    ids=["empty", "encrypted", "unknown compression", "cut off"],
)
def test_a_zip_that_is_empty_or_damaged_says_so(content: bytes, says: str) -> None:
    if content.startswith(b"PK\x05\x06"):
        # A zip of nothing begins otherwise and is no zip of anything.
        with pytest.raises(BadPayloadError):
            records_of(content)
        return
    with pytest.raises(BadPayloadError, match=says):
        records_of(content)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"errors": [{"errorType": "expired_token", "message": "abc"}]}, "expired_token"),
        ({"errors": [{"errorType": "Jo <jo@example.org>"}]}, "an error of the Web API:"),
        ({"user": {"fullName": "Jo"}}, "a profile"),
        ({"goals": {"steps": 1}}, "goals"),
        ({"lifetime": {"total": {}}, "best": {}}, "totals of a lifetime"),
        ({"apiSubscriptions": []}, "a list of subscriptions"),
        ([{"collectionType": "foods", "subscriptionId": "1"}], "a notification"),
        ({"access_token": "t0ken", "user_id": "X"}, "an answer with tokens"),
        ([], "an empty answer"),
    ],
)
def test_answers_without_readings_are_named(body: object, says: str) -> None:
    with pytest.raises(BadPayloadError, match="carries no readings") as caught:
        look(body)
    assert says in str(caught.value)
    assert not {"t0ken", "Jo", "abc"} & set(str(caught.value).split())


def test_a_body_of_somebody_else_is_not_taken() -> None:
    (importer,) = FITBIT.importers
    for body in ({"status": 0, "data": {}}, [{"sgv": 100, "date": 1}], {"sleep": "x"}, 7):
        assert not importer.recognise(json.dumps(body).encode())
        with pytest.raises((UsageError, BadPayloadError)):
            look(body)


def test_a_long_answer_is_recognised_by_its_beginning() -> None:
    (importer,) = FITBIT.importers
    seconds = ((f"00:{n // 60:02}:{n % 60:02}", 1) for n in range(3600))
    body = steps_of("2020-05-04", 1, *seconds)
    head = json.dumps(body).encode()[: 64 * 1024]
    assert len(head) == 64 * 1024
    assert importer.recognise(head)
    assert not importer.recognise(b'{"lorem": "' + b"x" * 64 * 1024)


def test_the_same_body_read_with_or_without_the_name_of_its_resource() -> None:
    for body, names in (
        ({"sleep": [NIGHT]}, ["sleep"]),
        ({"activities": [SESSION], "pagination": {}}, ["activities_list"]),
        (FOODS, ["foods_log", "foods_log_summary"]),
        (
            steps_of("2020-05-04", 1, ("00:00:00", 1)),
            ["activities_steps", "activities_steps_intraday"],
        ),
    ):
        rows = [row for name in names for row in look(body, resource=name).tables]
        assert set(rows) == set(look(body).tables)
    with pytest.raises(BadPayloadError, match="looks like sleep"):
        look({"sleep": [NIGHT]}, resource="activities_list")


def test_folders_in_a_zip_name_no_day() -> None:
    water = {"summary": {"water": 450}, "water": []}
    content = pack({"export 2026-11-01/water.json": water, "w/water 2020-05-04.json": water})
    assert [r.local_date for r in records_of(content)] == [UNDATED, date(2020, 5, 4)]


def test_series_without_a_column_are_kept_and_recognised() -> None:
    body = {
        "activities-tracker-steps": [{"dateTime": "2020-05-04", "value": "100"}],
        "sleep-minutesAsleep": [{"dateTime": "2020-05-04", "value": "400"}],
    }
    found = records_of(json.dumps(body).encode())
    assert [(r.resource, r.record_id, r.local_date) for r in found] == [
        ("unmapped_series", "activities-tracker-steps/2020-05-04", date(2020, 5, 4)),
        ("unmapped_series", "sleep-minutesAsleep/2020-05-04", date(2020, 5, 4)),
    ]
    assert look(body).tables == {}


def test_a_field_nobody_knows_is_reported_and_not_fatal() -> None:
    found = look({"sleep": [{**NIGHT, "mood": {"score": 3}}]})
    assert found.unknown_fields == ["mood.score"]
    assert len(found.tables["sleep"]) == 1


ODD: tuple[object, ...] = (
    *(None, True, {}, -1, 1e30, "1e400", "9999-12-31T23:59:59", [None], "25:61:00"),
)


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_strange_values_leave_the_good_ones_beside_them(odd: object) -> None:
    nights = [{**NIGHT, "logId": 1000 + n, name: odd} for n, name in enumerate(NIGHT)]
    sessions = [{**SESSION, "logId": 1000 + n, name: odd} for n, name in enumerate(SESSION)]
    night = look({"sleep": [*nights, NIGHT]}, zone=PARIS)
    assert "77" in [row["metadata_summary_id"] for row in night.tables["sleep"]]
    session = look({"activities": [*sessions, SESSION], "pagination": {}})
    assert "101" in [row["metadata_summary_id"] for row in session.tables["activity"]]
    body = steps_of("2020-05-04", 9, ("00:00:00", 4), ("00:01:00", 5))
    body["activities-steps-intraday"]["dataset"].insert(1, {"time": "00:00:30", "value": odd})
    body["activities-steps"].append(odd)
    try:
        found = look(body)
    except PipelineError:
        return
    row = found.tables["daily"][-1]
    assert row["distance_steps"] == 9


def test_an_imported_archive_is_in_the_lake_once(workspace: Workspace, tmp_path: Path) -> None:
    user = connect(workspace, FITBIT, {}, reference_id=None, timezone=None, import_only=True)
    water = tmp_path / "water_2020-05-04.json"
    water.write_text(json.dumps({"summary": {"water": 450}, "water": []}))
    everything = tmp_path / "all.zip"
    everything.write_bytes(
        pack(
            {
                "sleep.json": {"sleep": [NIGHT]},
                "steps.json": steps_of("2020-05-04", 9, ("00:00:00", 9)),
                "undated.json": {"activities": [], "summary": SUMMARY},
            }
        )
    )
    options = ImportOptions(timezone=PARIS)
    first = import_file(workspace, FITBIT, user, everything, options)
    assert (first.importer, first.records, first.appended.new) == ("fitbit_archive", 4, 4)
    assert first.appended.touched == {
        user.user_id: {date(2021, 3, 5), date(2020, 5, 4), UNDATED},
    }
    again = import_file(workspace, FITBIT, user, everything, options)
    assert (again.appended.new, again.appended.changed, again.appended.unchanged) == (0, 0, 4)
    cohort = workspace.lake.scheme.cohort_of(user.user_id)
    cells = [Partition(day, cohort) for day in (UNDATED, date(2020, 5, 4))]
    report = refresh(workspace.lake, "daily", cells)
    assert report.rows["distance_steps"].to_list() == [9]
    assert report.rejected.select("local_date", "reason").rows() == [(UNDATED, UNDATED_REASON)]
    # The zone is part of what a body says.
    elsewhere = import_file(workspace, FITBIT, user, everything, ImportOptions("Asia/Tokyo"))
    assert elsewhere.appended.changed == 4
    assert import_file(workspace, FITBIT, user, water, options).appended.touched == {
        user.user_id: {date(2020, 5, 4)}
    }


# --- bodies others have kept


def read(corpus: Path, name: str, *, zone: str | None = None, called: str = "") -> Inspection:
    content = (corpus / "fitbit" / name).read_bytes()
    return look(content, name=called or name, zone=zone)


@pytest.mark.corpus
@pytest.mark.slow
def test_every_kept_body_ends_in_rows_or_in_one_line(corpus: Path) -> None:
    files = sorted((corpus / "fitbit").glob("*"))
    assert files
    for file in files:
        for resource in (None, *(r.name for r in FITBIT.resources if r.name in file.name)):
            arguments = ["--resource", resource] if resource else []
            result = CliRunner().invoke(
                app, ["normalize", "--provider", "fitbit", str(file), *arguments]
            )
            where = f"{file.name} {resource}"
            assert result.exit_code in {0, 5}, (where, result.stderr)
            if result.exit_code:
                assert (result.stdout, len(result.stderr.strip().splitlines())) == ("", 1), where
            else:
                found = json.loads(result.stdout)
                assert found["unknown_fields"] == [], where


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("activities_lifetime__1.json", "totals of a lifetime"),
        ("activity_goals__1.json", "goals"),
        ("error_401__1.json", "expired_token"),
        ("error_403__1.json", "insufficient_permissions"),
        ("sleep_date__4.json", "cut off or broken"),
        ("subscription_list__1.json", "cut off or broken"),
        ("subscription_notification__1.json", "cut off or broken"),
    ],
)
def test_kept_bodies_without_readings_are_explained(corpus: Path, name: str, says: str) -> None:
    with pytest.raises(BadPayloadError, match=says):
        read(corpus, name)


@pytest.mark.corpus
def test_kept_sessions_have_their_offsets_and_units(corpus: Path) -> None:
    rows = rows_of(read(corpus, "activities_list__2.json"), "activity")
    assert len(rows) == 20
    run = next(row for row in rows if row["metadata_summary_id"] == "9675733775")
    # 18:54:51 at -07:00, 2,103 s long; 5.502559 km, 333.299470301 s for each.
    assert told(run, "start_at", "end_at") == (
        *(utc(2017, 9, 2, 1, 54, 51), utc(2017, 9, 2, 2, 29, 54)),
    )
    assert told(run, "local_date", "utc_offset_seconds") == (date(2017, 9, 1), -25_200)
    assert run["distance_summary_distance_meters"] == pytest.approx(5502.559)
    assert run["movement_avg_pace_minutes_per_kilometer"] == pytest.approx(5.55499, abs=1e-5)
    walk = rows_of(read(corpus, "activities_list__1.json"), "activity")[0]
    assert told(walk, "start_at", "utc_offset_seconds", "distance_summary_steps") == (
        *(utc(2017, 1, 1, 4, 14, 6), 0, 5138),
    )
    assert walk["distance_summary_distance_meters"] is None


@pytest.mark.corpus
def test_kept_days_are_read(corpus: Path) -> None:
    day = read(corpus, "activities_date__3.json")
    row = only(day, "daily")
    assert told(row, "local_date", "distance_steps", "distance_distance_meters") == (
        *(date(2014, 6, 19), 10_007, 7320.0),
    )
    assert row["active_durations_vigorous_intensity_seconds"] == 180
    heart = rows_of(read(corpus, "activities_heart__1.json"), "daily")
    assert len(heart) == 7
    assert heart[0]["heart_rate_summary_resting_hr_bpm"] == 51
    peak = heart[0]["heart_rate_summary_hr_zone"][3]
    assert told(peak, "name", "duration_seconds") == ("Peak", 1260)
    rates = only(read(corpus, "activities_heart_intraday__3.json"), "daily")
    assert len(rates["heart_rate_detailed_hr_samples"]) == 96
    assert rates["heart_rate_summary_avg_hr_bpm"] == 55.44
    series = rows_of(read(corpus, "activities_steps_timeseries__1.json"), "daily")
    assert [row["distance_steps"] for row in series] == [175, 2937, 0]
    assert reasons(read(corpus, "activities_calories_intraday__2.json")) == [UNDATED_REASON]


@pytest.mark.corpus
def test_kept_nights_are_read(corpus: Path) -> None:
    night, nap = rows_of(read(corpus, "sleep_date__1.json", zone="America/Los_Angeles"), "sleep")
    # 01:16 at -08:00.
    assert told(night, "start_at", "metadata_is_nap") == (utc(2016, 12, 13, 9, 16), False)
    assert [s["level"] for s in night["sleep_durations_hypnogram_samples"]] == [
        *("sleeping", "awake", "sleeping", "awake", "sleeping", "awake", "sleeping")
    ]
    assert told(nap, "metadata_is_nap", "sleep_durations_sleep_efficiency") == (True, 100)
    staged = only(read(corpus, "sleep_date__3.json"), "sleep")
    assert told(
        staged,
        "local_date",
        "sleep_durations_asleep_duration_deep_sleep_state_seconds",
        "sleep_durations_awake_num_wakeup_events",
    ) == (date(2017, 4, 2), 99 * 60, 39)
    # 560 s of short awakening lie over the REM sleep that begins with it.
    assert [
        told(s, "local_timestamp", "level") for s in staged["sleep_durations_hypnogram_samples"]
    ] == [
        (wall(2017, 4, 1), "awake"),
        (wall(2017, 4, 2), "awake"),
        (wall(2017, 4, 2, 0, 9, 20), "rem_sleep"),
    ]
    oxygen = rows_of(read(corpus, "spo2_intraday__2.json"), "sleep")
    assert [len(row["respiration_oxygen_saturation_samples"]) for row in oxygen] == [3, 2]
    breaths = rows_of(read(corpus, "br_intraday__2.json"), "sleep")
    assert [row["respiration_breaths_avg_breaths_per_min"] for row in breaths] == [17.8, 17.8]


@pytest.mark.corpus
def test_kept_weighings_and_drinks_are_read(corpus: Path) -> None:
    weights = only(read(corpus, "body_log_weight__2.json"), "body")["measurements_measurements"]
    assert [told(m, "weight_kg", "bmi", "device_id") for m in weights] == [
        (72.5, 22.57, "Aria"),
        (73.0, 23.57, None),
    ]
    fats = only(read(corpus, "body_log_fat__1.json"), "body")["measurements_measurements"]
    assert [m["bodyfat_percentage"] for m in fats] == [13.5, 14.0]
    water = "foods_log_water_date__1.json"
    assert reasons(read(corpus, water)) == [UNDATED_REASON]
    day = only(read(corpus, water, called="water-2020-05-04.json"), "nutrition")
    assert told(day, "local_date", "summary_water_ml") == (date(2020, 5, 4), 1300)
