"""Withings' answers as rows; expected values are worked out by hand from the bodies below."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from wearable_pipeline.connect import disconnect
from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import (
    Changed,
    Connection,
    Departed,
    Page,
    PushRequest,
    PushSecrets,
    Record,
    Subscriber,
    TokenRequest,
    Window,
)
from wearable_pipeline.providers._withings_api import (
    prepare_request,
    read_status,
    read_token_answer,
    slices_of_day,
)
from wearable_pipeline.providers.withings import (
    CATEGORIES,
    TOPICS,
    answer_challenge,
    fetch,
    identify,
    read_push,
    sign,
)
from wearable_pipeline.raw.push_address import push_address
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.inspect import inspect_body
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.providers.moments import at, naive
from wearable_pipeline_tests.providers.oauth_cast import connected, served
from wearable_pipeline_tests.providers.oauth_cast import fetch as fetch_of

WITHINGS = get_provider("withings")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
# 2026-11-20T06:30:00Z, half past seven in Paris.
MORNING = 1_795_156_200
SCALE = "0a0a"


def measure(kind: int, value: int, unit: int, **more: object) -> dict[str, object]:
    return {"value": value, "type": kind, "unit": unit, "algo": 0, "fm": 3, **more}


def group(*measures: dict[str, object], **fields: object) -> dict[str, object]:
    return {
        "grpid": 11,
        "attrib": 0,
        "date": MORNING,
        "created": MORNING + 60,
        "modified": MORNING + 60,
        "category": 1,
        "deviceid": SCALE,
        "hash_deviceid": SCALE,
        "measures": list(measures),
        "modelid": 13,
        "model": "Body Smart",
        "comment": None,
        **fields,
    }


def body_of(**body: object) -> bytes:
    return json.dumps({"status": 0, "body": body}).encode()


def split(resource: str, body: bytes, **context: object) -> list[Record]:
    return list(WITHINGS.resource(resource).split(Page(resource, body, NOW, context)))


def measures(*groups: object, timezone: str | None = "Europe/Paris") -> list[Record]:
    told = {} if timezone is None else {"timezone": timezone}
    return split("measure", body_of(updatetime=MORNING, measuregrps=groups, **told))


def one_row(rows: Any, table: str, found: list[Record]) -> dict[str, Any]:
    result = rows("withings", table, found)
    assert result.rejected.is_empty(), result.rejected.to_dicts()
    (row,) = result.rows.to_dicts()
    return dict(row)


def known(element: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in element.items() if value is not None}


# --- measures


def test_a_weighing(rows: Any) -> None:
    weighing = group(
        measure(1, 79300, -3),
        measure(4, 173, -2),
        measure(5, 7718, -2, position=7),
        measure(5, 7718, -2, position=7),
        measure(6, 178, -1),
        measure(8, 14125, -3),
        measure(76, 7338, -2, position=7),
        measure(77, 5205, -2),
        measure(88, 380, -2),
        measure(170, 32, -1, position=7),
        # Of one leg, not of the body.
        measure(175, 1277, -2, position=10),
        measure(226, 2263, 0, position=7),
    )
    row = one_row(rows, "body", measures(weighing))
    assert row["local_date"] == date(2026, 11, 20)
    assert (row["timezone"], row["tz_source"]) == ("Europe/Paris", "provider")
    assert row["device_name"] == "Body Smart"
    (measured,) = row["measurements_measurements"]
    assert known(measured) == {
        "measurement_time": at("2026-11-20T06:30:00+00:00"),
        "local_measurement_time": naive("2026-11-20T07:30:00"),
        "weight_kg": 79.3,
        "height_cm": 173.0,
        "lean_mass_g": 77180.0,
        "bodyfat_percentage": 17.8,
        "muscle_mass_g": 73380.0,
        "bone_mass_g": 3800.0,
        "visceral_fat_level": 3.2,
        "bmr": 2263.0,
        "device_id": SCALE,
    }
    assert [s["hydration_kg"] for s in row["hydration_hydration_amount_samples"]] == [52.05]


def test_what_is_not_weighed(rows: Any) -> None:
    found = measures(
        group(measure(9, 9600, -2), measure(10, 143, 0), measure(11, 82, 0), grpid=1),
        group(measure(91, 6900, -3), measure(155, 380, -1), grpid=2, attrib=8),
        group(measure(71, 3671, -2), measure(73, 331, -1), measure(54, 97, 0), grpid=3),
        group(measure(123, 41, 0), measure(130, 1, 0), grpid=4),
    )
    row = one_row(rows, "body", found)

    def values(column: str) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in known(one).items() if "timestamp" not in k} for one in row[column]
        ]

    assert values("blood_pressure_blood_pressure_samples") == [
        {"systolic_bp": 143.0, "diastolic_bp": 96.0}
    ]
    assert values("heart_heart_rate_detailed_hr_samples") == [{"bpm": 82.0}]
    assert values("heart_pulse_wave_velocity_samples") == [
        {"pulse_wave_velocity_meters_per_second": 6.9}
    ]
    assert values("temperature_body_temperature_samples") == [{"temperature_celsius": 36.71}]
    assert values("temperature_skin_temperature_samples") == [{"temperature_celsius": 33.1}]
    assert values("oxygen_saturation_samples") == [{"percentage": 97.0, "type": "blood"}]
    assert values("oxygen_vo2_samples") == [{"vo2max_ml_per_min_per_kg": 41.0}]
    assert values("heart_afib_classification_samples") == [{"afib_classification": "positive"}]
    # Nothing of this is a weighing.
    assert row["measurements_measurements"] is None


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "negative"), (2, "inconclusive"), (8, "unknown:8")]
)
def test_verdicts_on_the_heart_beat(rows: Any, code: int, verdict: str) -> None:
    row = one_row(rows, "body", measures(group(measure(130, code, 0))))
    (sample,) = row["heart_afib_classification_samples"]
    assert sample["afib_classification"] == verdict


@pytest.mark.parametrize(
    ("value", "unit", "kilograms"),
    [(563, -1, 56.3), (56300, -3, 56.3), (6, 1, 60.0), (563000, -4, 56.3)],
)
def test_values_are_numbers_times_powers_of_ten(
    rows: Any, value: int, unit: int, kilograms: float
) -> None:
    row = one_row(rows, "body", measures(group(measure(1, value, unit))))
    assert [m["weight_kg"] for m in row["measurements_measurements"]] == [kilograms]


def test_the_same_weighing_in_two_groups_is_there_once_and_other_groups_stay(rows: Any) -> None:
    same = measure(1, 79300, -3)
    twice = measures(group(same), group(same, attrib=8), group(measure(6, 178, -1), grpid=12))
    assert [record.record_id for record in twice] == ["11", "11/8", "12"]
    row = one_row(rows, "body", twice)
    told = [(m["weight_kg"], m["bodyfat_percentage"]) for m in row["measurements_measurements"]]
    assert sorted(told, key=str) == [(79.3, None), (None, 17.8)]


def test_a_corrected_weighing_replaces_the_old_one(rows: Any) -> None:
    old = measures(group(measure(1, 79300, -3)))
    new = measures(group(measure(1, 793, -2), modified=MORNING + 900))
    for order in ((old, new), (new, old)):
        row = rows("withings", "body", *order).rows.to_dicts()[0]
        assert [m["weight_kg"] for m in row["measurements_measurements"]] == [7.93]


def test_goals_are_no_measures_and_what_may_be_of_somebody_else_is_put_aside(rows: Any) -> None:
    goal = group(measure(1, 700, -1), grpid=1, category=2)
    guest = group(measure(1, 900, -1), grpid=2, attrib=1)
    mine = group(measure(1, 800, -1), grpid=3, attrib=7)
    result = rows("withings", "body", measures(goal, guest, mine))
    (row,) = result.rows.to_dicts()
    assert [m["weight_kg"] for m in row["measurements_measurements"]] == [80.0]
    assert result.rejected.select("record_id", "reason").rows() == [
        ("2", "attrib 1: may be of another person")
    ]


def test_one_broken_time_or_value_loses_that_group_alone(rows: Any) -> None:
    good = group(measure(1, 800, -1), grpid=1)
    result = rows(
        "withings",
        "body",
        measures(
            group(measure(1, 700, -1), grpid=2, date="soon"),
            group(measure(1, 700, -1), grpid=3, date=0),
            group({"type": 1, "unit": -1, "value": "heavy"}, grpid=4),
            good,
        ),
    )
    (row,) = result.rows.to_dicts()
    assert [m["weight_kg"] for m in row["measurements_measurements"]] == [80.0]
    assert dict(result.rejected.select("record_id", "reason").rows()) == {
        "2": "date: not a whole number",
        "3": "time: missing or not a date",
        "4": "measures: missing, or a value that is no number",
    }


def test_a_weighing_after_midnight_is_of_the_day_it_was_there(rows: Any) -> None:
    # 2026-10-24T22:30:00Z: half past midnight of the day on which the clocks go back in Paris.
    late = group(measure(1, 800, -1), date=1_792_881_000)
    row = one_row(rows, "body", measures(late))
    assert row["local_date"] == date(2026, 10, 25)
    assert row["end_at"] - row["start_at"] == timedelta(hours=25)
    unknown = one_row(rows, "body", measures(late, timezone=None))
    assert (unknown["local_date"], unknown["timezone"]) == (date(2026, 10, 24), None)
    assert unknown["measurements_measurements"][0]["local_measurement_time"] is None
    assert unknown["utc_offset_seconds"] is None


# --- days

DAY: dict[str, Any] = {
    "steps": 1209,
    "distance": 1028.559,
    "elevation": 3,
    "soft": 1864,
    "moderate": 292,
    "intense": 60,
    "active": 352,
    "calories": 85.497,
    "totalcalories": 2303.788,
    "hr_average": 80,
    "hr_min": 70,
    "hr_max": 0,
    "hr_zone_0": 100,
    "hr_zone_3": 400,
    "deviceid": None,
    "hash_deviceid": None,
    "timezone": "Europe/Amsterdam",
    "date": "2026-10-25",
    "modified": 1_792_960_000,
    "brand": 18,
    "modelid": 1055,
    "model": "GoogleFit tracker",
    "is_tracker": False,
}


def days(*found: object) -> list[Record]:
    return split("activity", body_of(activities=found, more=False, offset=0))


def test_a_day(rows: Any) -> None:
    row = one_row(rows, "daily", days(DAY))
    expected = {
        "local_date": date(2026, 10, 25),
        "start_at": at("2026-10-24T22:00:00+00:00"),
        # The clocks went back: the day had 25 hours.
        "end_at": at("2026-10-25T23:00:00+00:00"),
        "timezone": "Europe/Amsterdam",
        "tz_source": "provider",
        "device_name": "GoogleFit tracker",
        "distance_steps": 1209,
        "distance_distance_meters": 1028.559,
        "distance_floors_climbed": 3,
        "active_durations_activity_seconds": 352.0,
        "active_durations_low_intensity_seconds": 1864.0,
        "active_durations_moderate_intensity_seconds": 292.0,
        "active_durations_vigorous_intensity_seconds": 60.0,
        "calories_net_activity_calories": 85.497,
        "calories_total_burned_calories": 2303.788,
        "heart_rate_summary_avg_hr_bpm": 80.0,
        "heart_rate_summary_min_hr_bpm": 70.0,
        # Nobody's heart stands still: zero is nothing measured.
        "heart_rate_summary_max_hr_bpm": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert [known(zone) for zone in row["heart_rate_summary_hr_zone"]] == [
        {"zone": 0, "name": "light", "duration_seconds": 100.0},
        {"zone": 3, "name": "maximal", "duration_seconds": 400.0},
    ]


def test_a_day_without_heart_rate_or_zone_has_nulls(rows: Any) -> None:
    bare = {"date": "2026-10-25", "steps": 5}
    row = one_row(rows, "daily", days(bare))
    assert row["distance_steps"] == 5
    assert row["local_start_at"] == naive("2026-10-25T00:00:00")
    for name in (
        "start_at",
        "timezone",
        "distance_distance_meters",
        "heart_rate_summary_avg_hr_bpm",
        "heart_rate_summary_hr_zone",
        "calories_total_burned_calories",
    ):
        assert row[name] is None, name


def test_two_trackers_of_a_day_are_two_records_and_the_newer_wins(rows: Any) -> None:
    watch = {**DAY, "hash_deviceid": "w", "steps": 7000, "modified": DAY["modified"] + 60}
    found = days(watch, DAY)
    assert [record.record_id for record in found] == ["2026-10-25/w", "2026-10-25/1055"]
    assert one_row(rows, "daily", found)["distance_steps"] == 7000


def test_minutes_are_keyed_by_their_second(rows: Any) -> None:
    second = MORNING
    series = {
        str(second): {"steps": 21, "distance": 15, "elevation": 0, "calories": 1, "duration": 60},
        str(second + 60): {"heart_rate": 71, "model_id": 93, "deviceid": "w"},
        str(second + 120): {"heart_rate": 0, "spo2_auto": 96, "rmssd": 41.5, "sdnn1": 50},
        str(second + 180): {"duration": 600},
    }
    found = split("intraday", body_of(series=series), timezone="Asia/Tokyo", profile=None)
    assert {record.local_date for record in found} == {date(2026, 11, 20)}
    row = one_row(rows, "daily", found)
    start, local = at("2026-11-20T06:30:00+00:00"), naive("2026-11-20T15:30:00")
    minute = timedelta(minutes=1)
    assert [known(s) for s in row["distance_detailed_step_samples"]] == [
        {"timestamp": start, "local_timestamp": local, "steps": 21.0}
    ]
    assert [s["distance_meters"] for s in row["distance_detailed_distance_samples"]] == [15.0]
    assert [s["floors_climbed"] for s in row["distance_detailed_floors_climbed_samples"]] == [0.0]
    assert [s["calories"] for s in row["calories_calorie_samples"]] == [1.0]
    assert [known(s) for s in row["heart_rate_detailed_hr_samples"]] == [
        {"timestamp": start + minute, "local_timestamp": local + minute, "bpm": 71.0}
    ]
    assert [s["percentage"] for s in row["oxygen_saturation_samples"]] == [96.0]
    assert [s["hrv_rmssd"] for s in row["heart_rate_detailed_hrv_samples_rmssd"]] == [41.5]
    assert [s["hrv_sdnn"] for s in row["heart_rate_detailed_hrv_samples_sdnn"]] == [50.0]


def test_no_minutes_are_an_empty_list() -> None:
    assert split("intraday", body_of(series=[])) == []
    with pytest.raises(BadPayloadError, match="no series"):
        split("intraday", body_of(more=False))


# --- workouts


def workouts(*found: object) -> list[Record]:
    return split("workout", body_of(series=found, more=False, offset=0))


RUN: dict[str, Any] = {
    "id": 77,
    "category": 2,
    "timezone": "America/New_York",
    "model": 93,
    "attrib": 7,
    "startdate": MORNING,
    "enddate": MORNING + 1800,
    "date": "2026-11-20",
    "deviceid": "w",
    "data": {
        "calories": 310,
        "effduration": 1740,
        "distance": 5012,
        "steps": 6200,
        "elevation": 2,
        "hr_average": 141,
        "hr_min": 95,
        "hr_max": 171,
        "hr_zone_2": 900,
        "manual_distance": 0,
        "spo2_average": None,
        "intensity": 50,
    },
    "modified": MORNING + 2000,
}


def test_a_run(rows: Any) -> None:
    row = one_row(rows, "activity", workouts(RUN))
    expected = {
        "metadata_summary_id": "77",
        "metadata_type": "running",
        "metadata_upload_type": "automatic",
        "local_date": date(2026, 11, 20),
        "start_at": at("2026-11-20T06:30:00+00:00"),
        "local_start_at": naive("2026-11-20T01:30:00"),
        "end_at": at("2026-11-20T07:00:00+00:00"),
        "local_end_at": naive("2026-11-20T02:00:00"),
        "utc_offset_seconds": -18000,
        "active_durations_activity_seconds": 1740.0,
        "calories_net_activity_calories": 310.0,
        "distance_summary_distance_meters": 5012.0,
        "distance_summary_steps": 6200,
        "distance_summary_floors_climbed": 2,
        "heart_rate_summary_avg_hr_bpm": 141.0,
        "heart_rate_summary_max_hr_bpm": 171.0,
        "oxygen_avg_saturation_percentage": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert [known(zone) for zone in row["heart_rate_summary_hr_zone"]] == [
        {"zone": 2, "name": "intense", "duration_seconds": 900.0}
    ]


@pytest.mark.parametrize("data", [[], {}, None])
def test_a_workout_whose_details_are_empty_is_still_one(rows: Any, data: object) -> None:
    row = one_row(rows, "activity", workouts({**RUN, "data": data, "category": 7}))
    assert row["metadata_type"] == "swimming"
    assert row["distance_summary_distance_meters"] is None
    assert row["heart_rate_summary_hr_zone"] is None


def test_what_the_person_typed_in_stands_where_nothing_was_measured(rows: Any) -> None:
    typed = {**RUN, "attrib": 2, "data": {"manual_distance": 4000, "manual_calories": 200}}
    row = one_row(rows, "activity", workouts(typed))
    assert row["metadata_upload_type"] == "manual"
    assert row["distance_summary_distance_meters"] == 4000.0
    assert row["calories_net_activity_calories"] == 200.0


@pytest.mark.parametrize(
    ("code", "kind"), [(21, "english_football"), (999, "other"), (128, "unknown")]
)
def test_kinds_of_workouts(rows: Any, code: int, kind: str) -> None:
    assert one_row(rows, "activity", workouts({**RUN, "category": code}))["metadata_type"] == kind
    assert min(CATEGORIES) == 1


def test_a_workout_without_its_end_is_put_aside_and_the_next_one_kept(rows: Any) -> None:
    broken = {**RUN, "id": 78, "enddate": "later"}
    result = rows("withings", "activity", workouts(broken, RUN))
    assert result.rows["metadata_summary_id"].to_list() == ["77"]
    assert result.rejected["record_id"].to_list() == ["78"]


# --- nights

# The night on which the clocks went back in Paris, 23:30 to 06:30: eight hours.
NIGHT_START, NIGHT_END = 1_792_877_400, 1_792_906_200
NIGHT: dict[str, Any] = {
    "id": 901,
    "timezone": "Europe/Paris",
    "model": 32,
    "model_id": 63,
    "hash_deviceid": "mat",
    "startdate": NIGHT_START,
    "enddate": NIGHT_END,
    "date": "2026-10-25",
    "data": {
        "wakeupduration": 3060,
        "wakeupcount": 1,
        "durationtosleep": 500,
        "remsleepduration": 2400,
        "lightsleepduration": 10440,
        "deepsleepduration": 5820,
        "total_sleep_time": 18660,
        "total_timeinbed": 21720,
        "sleep_efficiency": 0.86,
        "sleep_latency": 540,
        "durationtowakeup": 1140,
        "waso": 1380,
        "nb_rem_episodes": 2,
        "out_of_bed_count": 0,
        "hr_average": 103,
        "hr_min": 70,
        "hr_max": 0,
        "rr_average": 14,
        "rr_min": 10,
        "rr_max": 20,
        "snoring": 1080,
        "snoringepisodecount": 18,
        "sleep_score": 37,
        "apnea_hypopnea_index": 9,
    },
    "created": NIGHT_END + 60,
    "modified": NIGHT_END + 60,
}


def nights(*found: object) -> list[Record]:
    return split("sleep_summary", body_of(series=found, more=False, offset=0))


def test_a_night(rows: Any) -> None:
    row = one_row(rows, "sleep", nights(NIGHT))
    expected = {
        "metadata_summary_id": "901",
        "metadata_upload_type": "automatic",
        "metadata_is_nap": None,
        "local_date": date(2026, 10, 25),
        "start_at": at("2026-10-24T21:30:00+00:00"),
        "local_start_at": naive("2026-10-24T23:30:00"),
        "end_at": at("2026-10-25T05:30:00+00:00"),
        "local_end_at": naive("2026-10-25T06:30:00"),
        "utc_offset_seconds": 7200,
        "device_name": "Aura Sensor V2",
        "sleep_durations_asleep_duration_asleep_state_seconds": 18660.0,
        "sleep_durations_asleep_duration_light_sleep_state_seconds": 10440.0,
        "sleep_durations_asleep_duration_deep_sleep_state_seconds": 5820.0,
        "sleep_durations_asleep_duration_rem_sleep_state_seconds": 2400.0,
        "sleep_durations_asleep_num_rem_events": 2,
        "sleep_durations_awake_duration_awake_state_seconds": 3060.0,
        "sleep_durations_awake_sleep_latency_seconds": 540.0,
        # Only the older field was sent.
        "sleep_durations_awake_wake_up_latency_seconds": 1140.0,
        "sleep_durations_awake_num_wakeup_events": 1,
        "sleep_durations_awake_num_out_of_bed_events": 0,
        "sleep_durations_other_duration_in_bed_seconds": 21720.0,
        "sleep_durations_sleep_efficiency": 86.0,
        "heart_rate_summary_avg_hr_bpm": 103.0,
        "heart_rate_summary_min_hr_bpm": 70.0,
        "heart_rate_summary_max_hr_bpm": None,
        "respiration_breaths_avg_breaths_per_min": 14.0,
        "respiration_breaths_min_breaths_per_min": 10.0,
        "respiration_breaths_max_breaths_per_min": 20.0,
        "respiration_snoring_total_snoring_duration_seconds": 1080.0,
        "respiration_snoring_num_snoring_events": 18,
        "scores_sleep": 37.0,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_night_of_an_app_has_no_stages_and_old_ones_no_rem(rows: Any) -> None:
    row = one_row(rows, "sleep", nights({**NIGHT, "data": {"asleepduration": 20000}}))
    assert row["sleep_durations_asleep_duration_asleep_state_seconds"] == 20000.0
    assert row["sleep_durations_asleep_duration_deep_sleep_state_seconds"] is None
    old = {"lightsleepduration": 3360, "deepsleepduration": 7800}
    row = one_row(rows, "sleep", nights({**NIGHT, "data": old}))
    # Nobody said how long all of it was, and we do not add it up.
    assert row["sleep_durations_asleep_duration_asleep_state_seconds"] is None
    assert row["sleep_durations_asleep_duration_rem_sleep_state_seconds"] is None
    bare = one_row(rows, "sleep", nights({**NIGHT, "data": []}))
    assert bare["sleep_durations_sleep_efficiency"] is None


def segment(start: int, minutes: int, state: int, **more: object) -> dict[str, object]:
    return {
        "startdate": start,
        "enddate": start + 60 * minutes,
        "state": state,
        "model": "Aura Sensor V2",
        "model_id": 63,
        "hash_deviceid": "mat",
        **more,
    }


SEGMENTS = [
    segment(NIGHT_START + 600, 5, 2, snoring={str(NIGHT_START + 600): 1}),
    segment(
        NIGHT_START,
        10,
        0,
        hr={str(NIGHT_START + 60): 71, str(NIGHT_START): 70, str(NIGHT_START + 120): 0},
        rr={str(NIGHT_START): 15},
        snoring={str(NIGHT_START): 0},
        rmssd=[],
    ),
    segment(NIGHT_START + 900, 5, 3, rmssd={str(NIGHT_START + 900): 41.5}),
]


def told(night: dict[str, Any] = NIGHT) -> dict[str, object]:
    return {
        "night": str(night["id"]),
        "date": night["date"],
        "start": night["startdate"],
        "end": night["enddate"],
        "timezone": night["timezone"],
        "device": night["hash_deviceid"],
        "profile": None,
    }


def test_the_course_of_a_night_joins_its_summary(rows: Any) -> None:
    watch = segment(NIGHT_START, 10, 1, hash_deviceid="watch")
    found = split("sleep", body_of(series=[*SEGMENTS, watch]), **told())
    row = one_row(rows, "sleep", nights(NIGHT) + found)
    assert row["start_at"] == at("2026-10-24T21:30:00+00:00")
    assert row["end_at"] == at("2026-10-25T05:30:00+00:00")
    start, local = at("2026-10-24T21:30:00+00:00"), naive("2026-10-24T23:30:00")
    minute = timedelta(minutes=1)
    assert row["sleep_durations_hypnogram_samples"] == [
        {"timestamp": start + n * minute, "local_timestamp": local + n * minute, "level": level}
        for n, level in ((0, "awake"), (10, "deep_sleep"), (15, "rem_sleep"))
    ]
    pulse = [(s["timestamp"] - start, s["bpm"]) for s in row["heart_rate_detailed_hr_samples"]]
    assert pulse == [(0 * minute, 70.0), (minute, 71.0)]
    assert [s["breaths_per_min"] for s in row["respiration_breaths_samples"]] == [15.0]
    assert [s["hrv_rmssd"] for s in row["heart_rate_detailed_hrv_samples_rmssd"]] == [41.5]
    # One stands for a minute of snoring.
    assert [
        (s["timestamp"] - start, s["duration_seconds"]) for s in row["respiration_snoring_samples"]
    ] == [(10 * minute, 60.0)]
    assert row["heart_rate_detailed_hrv_samples_sdnn"] is None


def test_a_course_read_again_replaces_the_old_one_whole(rows: Any) -> None:
    first = split("sleep", body_of(series=SEGMENTS), **told())
    again = split("sleep", body_of(series=[segment(NIGHT_START, 15, 1)]), **told())
    row = rows("withings", "sleep", first, again).rows.to_dicts()[0]
    assert [s["level"] for s in row["sleep_durations_hypnogram_samples"]] == ["light_sleep"]
    assert {(record.record_id, record.local_date) for record in first + again} == {
        ("901", date(2026, 10, 25))
    }


def test_segments_without_a_summary_are_nights_by_the_pauses_between_them(rows: Any) -> None:
    next_night = NIGHT_START + 86_400
    body = body_of(series=[segment(next_night, 5, 5), *SEGMENTS], model=32)
    found = split("sleep", body, timezone="Europe/Paris")
    result = rows("withings", "sleep", found)
    assert result.rejected.is_empty()
    assert result.rows.select(
        "metadata_summary_id", "local_date", "start_at", "end_at", "tz_source"
    ).rows() == [
        (
            str(NIGHT_START),
            date(2026, 10, 24),
            at("2026-10-24T21:30:00+00:00"),
            at("2026-10-24T21:50:00+00:00"),
            "profile",
        ),
        (
            str(next_night),
            date(2026, 10, 25),
            at("2026-10-25T21:30:00+00:00"),
            at("2026-10-25T21:35:00+00:00"),
            "profile",
        ),
    ]
    assert result.rows["sleep_durations_hypnogram_samples"].to_list()[1][0]["level"] == "sleeping"


def test_a_broken_segment_costs_nothing_but_itself(rows: Any) -> None:
    body = body_of(series=[{**SEGMENTS[0], "startdate": None}, *SEGMENTS])
    result = rows("withings", "sleep", split("sleep", body))
    (row,) = result.rows.to_dicts()
    assert len(row["sleep_durations_hypnogram_samples"]) == 3
    assert result.rejected["reason"].to_list() == [
        "times: the start or the end is missing, or the end is before the start;"
        " time: missing or not a date"
    ]


# --- the envelope


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (200, b'{"status":0,"body":{}}', 200),
        (200, b'{"status":401,"body":{}}', 401),
        (200, b'{"status":100}', 401),
        (200, b'{"status":601}', 601),
        (200, b'{"status":522}', 522),
        (200, b'{"status":2556}', 522),
        (200, b'{"status":277}', 2555),
        (200, b'{"status":293}', 293),
        (200, b"<html>", 200),
        (503, b'{"status":0}', 503),
    ],
)
def test_what_an_answer_means_stands_in_it(status: int, body: bytes, meant: int) -> None:
    assert read_status(status, body) == meant


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 503, "error": "Invalid Params: invalid refresh_token"}, "invalid_grant"),
        ({"status": 503, "error": "Invalid Params: invalid code"}, "invalid_grant"),
        ({"status": 401, "body": {}}, "invalid_grant"),
        ({"status": 503, "error": "Invalid Params: invalid client_secret"}, "invalid_client"),
        ({"status": 601, "body": {}}, "status_601"),
        ({"status": 522, "body": {}}, "status_522"),
    ],
)
def test_only_a_refused_token_ends_a_connection(answer: dict[str, object], error: str) -> None:
    assert read_token_answer(answer) == {"error": error}


def test_token_requests_and_answers_are_made_standard() -> None:
    body = {"userid": "7", "access_token": "a", "refresh_token": "r", "expires_in": 10800}
    assert read_token_answer({"status": 0, "body": body}) == body
    asked = prepare_request(TokenRequest("https://x", {"grant_type": "refresh_token"}, {}))
    assert asked.form == {"action": "requesttoken", "grant_type": "refresh_token"}


def test_the_signature_is_that_of_the_documentation() -> None:
    # hmac-sha256("secret", "getnonce,app,1795156200"), by openssl.
    assert sign("secret", "getnonce", "app", "1795156200") == (
        "fb2ad5d363c1caa7ba0e1e7b3e982cd087ed9c46782ca4e6df9003783bed90e7"
    )


@pytest.mark.parametrize(
    ("zone", "hours"),
    [
        ("Europe/Paris", [24, 1]),
        ("Asia/Tokyo", [24]),
        (None, [24, 24, 2]),
        ("No/Where", [24, 24, 2]),
    ],
)
def test_a_day_is_asked_for_in_pieces_of_at_most_24_hours(
    zone: str | None, hours: list[int]
) -> None:
    pieces = list(slices_of_day(date(2026, 10, 25), zone, NOW))
    assert [(end - start) / 3600 for start, end in pieces] == hours
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))
    assert list(slices_of_day(date(2026, 11, 22), zone, NOW)) == []


# --- fetching


class Answers:
    """Withings on paper: bodies by action; remembers the forms it was sent."""

    def __init__(self, **of: object) -> None:
        self.of = of
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        self.asked.append(form)
        empty: dict[str, object] = {"measuregrps": [], "activities": [], "series": []}
        planned = self.of.get(form["action"], {"status": 0, "body": empty})
        if isinstance(planned, list):
            planned = planned.pop(0)
        return httpx.Response(200, json=planned)

    def forms(self, action: str) -> list[dict[str, str]]:
        return [form for form in self.asked if form["action"] == action]


class Meant:
    """A client for paths whose answers have the status they mean, as one that is let in has."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, method: str, url: str, **more: Any) -> Any:
        answer = await self.client.request(method, f"https://api.example{url}", **more)
        meant = read_status(answer.status, answer.body)
        if meant not in (200, 2555):
            raise {601: RateLimitedError("slow", timedelta(minutes=5))}.get(
                meant, PermanentError("refused")
            )
        return replace(answer, status=meant)


def connection(state: dict[str, object] | None = None, **more: Any) -> Connection:
    kept = {} if state is None else state
    return Connection("u", {}, {}, kept, "Europe/Paris", lambda: None, **more)


def pages_of(
    client_for: Any, answers: Any, to: Connection | None = None, days_back: int = 3
) -> list[Page]:
    window = Window(NOW.date() - timedelta(days=days_back), NOW.date(), NOW)

    async def run() -> list[Page]:
        async with client_for(answers) as client:
            return [page async for page in fetch(Meant(client), to or connection(), window)]

    return asyncio.run(run())


def test_the_first_fetch_asks_by_dates_and_the_next_for_what_was_modified(client_for: Any) -> None:
    state: dict[str, object] = {}
    first = Answers()
    pages_of(client_for, first, connection(state))
    (by_date,) = first.forms("getactivity")
    assert (by_date["startdateymd"], by_date["enddateymd"]) == ("2026-11-17", "2026-11-20")
    (by_time,) = first.forms("getmeas")
    # 2026-11-16T10:00Z, before the day begins anywhere, to now.
    assert (by_time["startdate"], by_time["enddate"]) == ("1794823200", str(int(NOW.timestamp())))
    assert by_time["category"] == "1"
    assert "total_sleep_time" in first.forms("getsummary")[0]["data_fields"]
    second = Answers()
    pages_of(client_for, second, connection(state))
    since = str(int(NOW.timestamp()) - 3600)
    for action in ("getmeas", "getactivity", "getworkouts", "getsummary"):
        (form,) = second.forms(action)
        assert form["lastupdate"] == since
        assert not {"startdate", "startdateymd"} & form.keys()
    # A long window is a history: it is asked for by its dates whatever we know.
    third = Answers()
    pages_of(client_for, third, connection(state), days_back=30)
    assert third.forms("getactivity")[0]["startdateymd"] == "2026-10-21"


def test_pages_are_followed_and_a_failed_fetch_notes_nothing(client_for: Any) -> None:
    def page(steps: int, **cursor: object) -> dict[str, object]:
        row = {**DAY, "steps": steps, "date": "2026-11-19"}
        return {"status": 0, "body": {"activities": [row], **cursor}}

    answers = Answers(getactivity=[page(1, more=True, offset=200), page(2, more=False, offset=0)])
    found = [page for page in pages_of(client_for, answers) if page.resource == "activity"]
    assert len(found) == 2
    assert [form.get("offset") for form in answers.forms("getactivity")] == [None, "200"]
    # The day's minutes once, not once per row of it.
    assert len(answers.forms("getintradayactivity")) == 1
    state: dict[str, object] = {}
    circle = Answers(getactivity=page(1, more=1, offset=200))
    with pytest.raises(BadPayloadError, match="repeat themselves"):
        pages_of(client_for, circle, connection(state))
    lost = Answers(getactivity=page(1, more=1))
    with pytest.raises(BadPayloadError, match="not where"):
        pages_of(client_for, lost, connection(state))
    assert "since" not in state


def test_the_course_is_asked_for_nights_that_are_new(client_for: Any) -> None:
    answers = Answers(
        getsummary={"status": 0, "body": {"series": [NIGHT]}},
        get={"status": 0, "body": {"series": SEGMENTS}},
    )
    found = pages_of(client_for, answers)
    (asked,) = answers.forms("get")
    assert (asked["startdate"], asked["enddate"]) == (str(NIGHT_START), str(NIGHT_END))
    (page,) = [page for page in found if page.resource == "sleep"]
    assert page.context["night"] == "901"


def test_what_was_not_permitted_is_left_out_and_nothing_at_all_is_an_error(client_for: Any) -> None:
    refused = {"status": 2553, "body": {}, "error": "Unauthorized"}
    names = {page.resource for page in pages_of(client_for, Answers(getmeas=refused))}
    assert names == {"activity", "workout", "sleep_summary"}
    all_of_it = dict.fromkeys(("getmeas", "getactivity", "getworkouts", "getsummary"), refused)
    with pytest.raises(PermanentError, match="no permission"):
        pages_of(client_for, Answers(**all_of_it))


def test_subscriptions_are_made_once_per_address_and_never_cost_a_fetch(client_for: Any) -> None:
    def to(url: str, state: dict[str, object]) -> Connection:
        return connection(state, subscriber=Subscriber(url, PushSecrets("a", "b", "c")))

    state: dict[str, object] = {}
    answers = Answers()
    pages_of(client_for, answers, to("https://x.example/in/withings?key=c", state))
    made = answers.forms("subscribe")
    assert [int(form["appli"]) for form in made] == list(TOPICS)
    assert {form["callbackurl"] for form in made} == {"https://x.example/in/withings?key=c"}
    # The state is no place for the key.
    assert "key" not in json.dumps(state)
    again = Answers()
    pages_of(client_for, again, to("https://x.example/in/withings?key=c", state))
    assert again.forms("subscribe") == []
    refused = Answers(subscribe={"status": 293, "error": "callback"})
    found = pages_of(client_for, refused, to("http://127.0.0.1", state))
    assert len(refused.forms("subscribe")) == 1
    assert {page.resource for page in found} >= {"measure", "activity"}


def test_whose_account_it_is_and_where(client_for: Any) -> None:
    def ask(granted: dict[str, object], *zones: str | None) -> Any:
        devices = [{"type": "Scale", "timezone": zone} for zone in zones]
        answers = Answers(getdevice={"status": 0, "body": {"devices": devices}})

        async def run() -> Any:
            async with client_for(answers) as client:
                return await identify(Meant(client), granted)

        return asyncio.run(run())

    found = ask({"userid": "7"}, "Europe/Paris", "Europe/Paris", None)
    assert (found.account_id, found.timezone) == ("7", "Europe/Paris")
    assert ask({"userid": 7}, "Europe/Paris", "Asia/Tokyo").timezone is None
    assert ask({"userid": 7}).timezone is None
    with pytest.raises(BadPayloadError, match="whose"):
        ask({"scope": "x"})


# --- bodies of unknown origin

BODIES: dict[str, object] = {
    "measure": {"measuregrps": [group(measure(1, 800, -1))]},
    "activity": {"activities": [DAY]},
    "intraday": {"series": {str(MORNING): {"steps": 1}}},
    "workout": {"series": [RUN]},
    "sleep_summary": {"series": [NIGHT]},
    "sleep": {"series": SEGMENTS, "model": 32},
}


@pytest.mark.parametrize("name", list(BODIES))
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_body_is_recognised_as_what_it_is_alone(name: str, is_wrapped: bool) -> None:
    whole = {"status": 0, "body": BODIES[name]} if is_wrapped else BODIES[name]
    recognised = [r.name for r in WITHINGS.resources if r.recognise and r.recognise(whole)]
    assert recognised == [name]
    found = inspect_body(WITHINGS, json.dumps(whole).encode(), name="body", now=NOW)
    assert found.unknown_fields == []
    assert found.rejected == []


def test_bare_lists_are_read_and_new_fields_told() -> None:
    body = [{**group(measure(1, 800, -1)), "mood": 1}]
    found = inspect_body(WITHINGS, json.dumps(body).encode(), name="body", now=NOW)
    assert found.unknown_fields == ["mood"]
    assert len(found.tables["body"]) == 1
    new = [{**SEGMENTS[0], "mood": 1}]
    told_of = inspect_body(WITHINGS, json.dumps({"series": new}).encode(), name="b", now=NOW)
    assert told_of.unknown_fields == ["mood"]
    swim = [{**RUN, "data": {"mood": 1}}]
    told_of = inspect_body(WITHINGS, json.dumps({"series": swim}).encode(), name="b", now=NOW)
    assert told_of.unknown_fields == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"status":401,"body":{},"error":"invalid_token"}', NotConnectedError),
        (b'{"status":601,"body":{}}', RateLimitedError),
        (b'{"status":522,"body":{}}', TransientError),
        (b'{"status":2555,"body":{}}', PermanentError),
        (b'{"status":293,"body":{}}', PermanentError),
        (b'{"status":0,"body":{}}', BadPayloadError),
        (b'{"status":0,"body":{"goals":[]}}', BadPayloadError),
        (b'{"status":0,"body":{"devices":[]}}', BadPayloadError),
        (b'{"status":0,"body":{"series":[]}}', UsageError),
        (b"<html>", BadPayloadError),
    ],
)
def test_what_carries_no_records_says_so(body: bytes, error: type[PipelineError]) -> None:
    with pytest.raises(error):
        inspect_body(WITHINGS, body, name="body", now=NOW)


# --- pushes


def notification(**form: str) -> PushRequest:
    return PushRequest("POST", {}, {}, httpx.Request("POST", "http://x", data=form).content)


def test_what_notifications_say() -> None:
    new = notification(userid="7", appli="1", startdate="1795156200", enddate="1795156201")
    assert list(read_push(new)) == [Changed("7")]
    gone = notification(userid="7", appli="46", action="unlink")
    assert list(read_push(gone)) == [Departed("7")]
    assert list(read_push(notification(userid="7", appli="46", action="update"))) == [Changed("7")]
    with pytest.raises(BadPayloadError):
        list(read_push(PushRequest("POST", {}, {}, b'{"userid":7}')))


def test_the_address_is_shown_to_who_knows_the_key() -> None:
    secrets = PushSecrets("a", "b", "key-1")

    def look(method: str, key: str, with_secrets: PushSecrets = secrets) -> int | None:
        answer = answer_challenge(PushRequest(method, {}, {"key": key}, b""), with_secrets)
        return None if answer is None else answer.status

    assert look("HEAD", "key-1") == 200
    assert look("HEAD", "key-2") == 401
    assert look("HEAD", "", PushSecrets("a", "b", "")) == 401
    assert look("POST", "key-1") is None


# --- over real HTTP


def test_connecting_subscribing_and_leaving_over_http(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    with served(tmp_path, sandbox, StandingClock(NOW)) as there:
        user = connected(there, "withings", "kofi")
        assert user.timezone == "America/New_York"
        assert fetch_of(there.workspace, user).failures == {}
        address = push_address(there.workspace, WITHINGS)
        sent = httpx.post(
            address, data={"userid": "40000002", "appli": "1"}, timeout=10, trust_env=False
        )
        assert sent.status_code == 200
        assert httpx.head(address, timeout=10, trust_env=False).status_code == 200
        unproven = httpx.post(
            address.partition("?")[0], data={"userid": "40000002"}, trust_env=False
        )
        assert unproven.status_code == 401
        before = there.workspace.registry.load_credentials(user.user_id)
        asked = httpx.post(
            f"{sandbox.url}/withings/notify",
            headers={"authorization": f"Bearer {before['access_token']}"},
            data={"action": "list"},
            trust_env=False,
        ).json()
        assert {one["appli"] for one in asked["body"]["profiles"]} == set(TOPICS)
        ended = disconnect(there.workspace, user, WITHINGS)
        assert ended.status == "disconnected"
        # Given back at Withings: what was the token opens nothing, and nothing of it is kept.
        refused = httpx.post(
            f"{sandbox.url}/withings/measure",
            headers={"authorization": f"Bearer {before['access_token']}"},
            data={"action": "getmeas"},
            trust_env=False,
        ).json()
        assert refused["status"] == 401
        assert there.workspace.registry.load_credentials(user.user_id) == {}


# --- recorded bodies


def read(corpus: Path, name: str) -> Any:
    body = (corpus / "withings" / name).read_bytes()
    return inspect_body(WITHINGS, body, name=name, now=NOW)


@pytest.mark.corpus
def test_recorded_measures_of_years(corpus: Path) -> None:
    found = read(corpus, "getmeas__4.json")
    rows = found.tables["body"]
    weights = [
        m["weight_kg"]
        for row in rows
        for m in row["measurements_measurements"] or ()
        if m["weight_kg"] is not None
    ]
    # 441 weights: 413 with exponent -3, 27 with -4, one with -2.
    assert len(weights) == 441
    assert (min(weights), max(weights)) == (50.0, 120.0)
    pressures = sum(len(row["blood_pressure_blood_pressure_samples"] or ()) for row in rows)
    # 794 were taken, one of them perhaps by somebody else.
    assert pressures == 793
    assert [one["reason"] for one in found.rejected] == ["attrib 1: may be of another person"]
    (first,) = [
        s
        for row in rows
        for s in row["blood_pressure_blood_pressure_samples"] or ()
        if s["timestamp"] == at("2021-05-03T11:00:31+00:00")
    ]
    assert (first["systolic_bp"], first["diastolic_bp"]) == (143.0, 106.0)
    assert {row["timezone"] for row in rows} == {None}


@pytest.mark.corpus
def test_recorded_measures_by_position(corpus: Path) -> None:
    first, second = read(corpus, "getmeas_groups__1.json").tables["body"]
    (one,) = first["measurements_measurements"]
    told_of = (
        "weight_kg",
        "lean_mass_g",
        "bodyfat_percentage",
        "muscle_mass_g",
        "bone_mass_g",
        "bmr",
    )
    assert [one[name] for name in told_of] == [95.854, 77180.0, 19.467, 73380.0, 3800.0, 2263.0]
    (two,) = second["measurements_measurements"]
    assert [two[name] for name in told_of] == [96.44, 78630.0, 18.457, 74750.0, 3870.0, 2308.0]


@pytest.mark.corpus
def test_recorded_days(corpus: Path) -> None:
    first, second = read(corpus, "getactivity__2.json").tables["daily"]
    assert (first["distance_steps"], first["calories_total_burned_calories"]) == (1209, 2303.788)
    assert first["start_at"] == at("2023-10-19T22:00:00+00:00")
    assert second["active_durations_activity_seconds"] == 707.0
    assert second["heart_rate_summary_avg_hr_bpm"] is None
    minutes = read(corpus, "getintradayactivity__1.json").tables["daily"]
    (day,) = minutes
    steps = [(s["timestamp"], s["steps"]) for s in day["distance_detailed_step_samples"]]
    assert steps == [
        (at("2015-06-20T00:04:00+00:00"), 21.0),
        (at("2015-06-20T00:29:00+00:00"), 47.0),
        (at("2015-06-20T00:30:00+00:00"), 20.0),
        (at("2015-06-20T00:41:00+00:00"), 74.0),
    ]


@pytest.mark.corpus
def test_recorded_nights(corpus: Path) -> None:
    by_date = {
        row["local_date"]: row for row in read(corpus, "sleep_getsummary__2.json").tables["sleep"]
    }
    assert len(by_date) == 300
    spring, autumn = by_date[date(2021, 3, 28)], by_date[date(2021, 10, 31)]
    # 1616880650 to 1616908910: 28,260 seconds, and an hour more on the wall.
    assert spring["end_at"] - spring["start_at"] == timedelta(seconds=28_260)
    assert spring["local_end_at"] - spring["local_start_at"] == timedelta(seconds=31_860)
    # 1635625801 to 1635660016: 34,215 seconds, and an hour less on the wall.
    assert autumn["end_at"] - autumn["start_at"] == timedelta(seconds=34_215)
    assert autumn["local_end_at"] - autumn["local_start_at"] == timedelta(seconds=30_615)
    night = by_date[date(2021, 4, 18)]
    assert night["sleep_durations_sleep_efficiency"] == 86.0
    assert night["sleep_durations_asleep_duration_asleep_state_seconds"] == 18660.0
    assert night["respiration_snoring_total_snoring_duration_seconds"] == 1080.0
    bare = read(corpus, "sleep_getsummary__3.json").tables["sleep"]
    assert {row["heart_rate_summary_avg_hr_bpm"] for row in bare} == {None}


@pytest.mark.corpus
def test_recorded_courses_of_nights(corpus: Path) -> None:
    found = read(corpus, "sleep_get__2.json").tables["sleep"]
    # The summaries of the same person say when these nights were.
    assert [(row["start_at"].timestamp(), row["end_at"].timestamp()) for row in found[:3]] == [
        (1618691453, 1618713173),
        (1618777851, 1618805151),
        (1618864247, 1618896664),
    ]
    first = found[0]
    assert len(first["sleep_durations_hypnogram_samples"]) == 298
    # 18 minutes, as the summary's 1080 seconds.
    assert sum(s["duration_seconds"] for s in first["respiration_snoring_samples"]) == 1080.0
    assert first["heart_rate_detailed_hr_samples"][0]["bpm"] == 70.0
    (short,) = read(corpus, "sleep_get__1.json").tables["sleep"]
    assert [s["level"] for s in short["sleep_durations_hypnogram_samples"]] == [
        "awake",
        "light_sleep",
        "rem_sleep",
    ]
