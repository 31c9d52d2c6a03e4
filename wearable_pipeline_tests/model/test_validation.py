from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from wearable_pipeline.model import TABLES, Table
from wearable_pipeline.model.validation import Validated, validate

BODY = TABLES["body"]
GLUCOSE = "glucose_blood_glucose_samples"
START = datetime(2026, 11, 19, 23, tzinfo=UTC)
LOCAL_START = datetime(2026, 11, 20)  # noqa: DTZ001 local time on purpose
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)

FrameOf = Callable[..., pl.DataFrame]


def _row(**values: Any) -> dict[str, Any]:
    return {
        "user_id": "u1",
        "provider": "p",
        "local_date": date(2026, 11, 20),
        "start_at": START,
        "local_start_at": LOCAL_START,
        "end_at": START + DAY,
        "local_end_at": LOCAL_START + DAY,
        "utc_offset_seconds": 3600,
        "timezone": "Europe/Berlin",
        "tz_source": "provider",
        **values,
    }


def _reading(minute: int, value: float | None, **fields: Any) -> dict[str, Any]:
    step = timedelta(minutes=minute)
    return {
        "timestamp": START + step,
        "local_timestamp": LOCAL_START + step,
        "blood_glucose_mg_per_dl": value,
        **fields,
    }


def _reasons(result: Validated) -> list[str]:
    return result.rejected["reason"].to_list()


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_a_full_row_passes_unchanged(table: Table, fill_row: Any, frame_of: FrameOf) -> None:
    frame = frame_of(table, fill_row(table))
    result = validate(table, frame, now=datetime(2026, 11, 21, tzinfo=UTC))
    assert result.rejected.is_empty(), _reasons(result)
    assert_frame_equal(result.good, frame)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_no_rows_pass(table: Table) -> None:
    result = validate(table, table.empty(), now=NOW)
    assert result.good.equals(table.empty())
    assert result.rejected.is_empty()
    assert result.flags.is_empty()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_costs_its_sample_and_nothing_else(bad: float, frame_of: FrameOf) -> None:
    samples = [_reading(0, 90.0), _reading(5, bad), _reading(10, 100.0)]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    values = [sample["blood_glucose_mg_per_dl"] for sample in result.good[GLUCOSE][0]]
    assert values == [90.0, 100.0]
    assert result.rejected.rows() == [
        (
            "u1",
            date(2026, 11, 20),
            "sample",
            f"{GLUCOSE}.blood_glucose_mg_per_dl",
            "2026-11-20T00:05:00.000000+01:00",
            f"{GLUCOSE}.blood_glucose_mg_per_dl: not a finite number",
        )
    ]


def test_bounds_belong_to_the_admitted_values(frame_of: FrameOf) -> None:
    samples = [_reading(0, 5.0), _reading(1, 4.999), _reading(2, 1500.0), _reading(3, 1500.001)]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    values = [sample["blood_glucose_mg_per_dl"] for sample in result.good[GLUCOSE][0]]
    assert values == [5.0, 1500.0]
    reason = f"{GLUCOSE}.blood_glucose_mg_per_dl: outside 5 to 1,500 mg/dL"
    assert _reasons(result) == [reason, reason]


def test_reasons_never_carry_the_measured_value(frame_of: FrameOf) -> None:
    frame = frame_of(BODY, _row(glucose_gmi=77.125, **{GLUCOSE: [_reading(0, 4321.5)]}))
    result = validate(BODY, frame, now=NOW)
    assert len(result.rejected) == 2
    assert "4321" not in str(_reasons(result))
    assert "77" not in str(_reasons(result))


def test_a_list_that_loses_its_last_sample_becomes_null(frame_of: FrameOf) -> None:
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: [_reading(0, -1.0)]})), now=NOW)
    assert result.good[GLUCOSE].to_list() == [None]


def test_empty_lists_of_every_kind_become_null_in_silence(frame_of: FrameOf) -> None:
    row = _row(device_data_provided=[], source_record_ids=[], **{GLUCOSE: []})
    result = validate(BODY, frame_of(BODY, row), now=NOW)
    assert result.good.select("device_data_provided", "source_record_ids", GLUCOSE).row(0) == (
        None,
        None,
        None,
    )
    assert result.rejected.is_empty()


def test_unusual_values_are_flagged_and_kept(frame_of: FrameOf) -> None:
    samples = [_reading(0, 39.0), _reading(5, 40.0), _reading(10, 401.0)]
    row = _row(heart_heart_rate_summary_avg_hr_bpm=240.0, **{GLUCOSE: samples})
    result = validate(BODY, frame_of(BODY, row), now=NOW)
    assert len(result.good[GLUCOSE][0]) == 3
    assert result.flags.sort("column").rows() == [
        (
            "u1",
            date(2026, 11, 20),
            f"{GLUCOSE}.blood_glucose_mg_per_dl",
            f"{GLUCOSE}.blood_glucose_mg_per_dl: unusual: outside 40 to 400 mg/dL",
            2,
        ),
        (
            "u1",
            date(2026, 11, 20),
            "heart_heart_rate_summary_avg_hr_bpm",
            "heart_heart_rate_summary_avg_hr_bpm: unusual: outside 25 to 230 /min",
            1,
        ),
    ]


def test_a_bad_value_of_the_row_is_cleared_and_reported(frame_of: FrameOf) -> None:
    row = _row(heart_heart_rate_summary_avg_hr_bpm=500.0, heart_heart_rate_summary_max_hr_bpm=180.0)
    result = validate(BODY, frame_of(BODY, row), now=NOW)
    assert result.good["heart_heart_rate_summary_avg_hr_bpm"].to_list() == [None]
    assert result.good["heart_heart_rate_summary_max_hr_bpm"].to_list() == [180.0]
    assert result.rejected["scope"].to_list() == ["value"]
    assert _reasons(result) == ["heart_heart_rate_summary_avg_hr_bpm: outside 0 to 400 /min"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": None}, "user_id: missing"),
        ({"user_id": ""}, "user_id: empty"),
        ({"provider": None}, "provider: missing"),
        ({"local_date": None}, "local_date: missing"),
        ({"local_date": date(1970, 1, 1)}, "local_date: before 2000"),
        ({"start_at": None, "local_start_at": None}, "start_at: no time"),
        ({"end_at": None, "local_end_at": None}, "end_at: no time"),
        (
            {"end_at": START - DAY, "local_end_at": LOCAL_START - DAY},
            "end_at: ends before it starts",
        ),
        (
            {"start_at": None, "end_at": None, "local_end_at": LOCAL_START - DAY},
            "end_at: ends before it starts",
        ),
    ],
)
def test_a_bad_key_or_time_costs_the_row(
    changes: dict[str, Any], reason: str, frame_of: FrameOf
) -> None:
    frame = frame_of(BODY, _row(**changes), _row(user_id="u2"))
    result = validate(BODY, frame, now=NOW)
    assert result.good["user_id"].to_list() == ["u2"]
    assert reason in _reasons(result)
    assert result.rejected["scope"].to_list() == ["row"]


def test_times_before_2000_and_after_tomorrow_are_refused(frame_of: FrameOf) -> None:
    def at(instant: datetime) -> dict[str, Any]:
        return {"timestamp": instant, "blood_glucose_mg_per_dl": 90.0}

    samples = [
        at(datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        at(datetime(2000, 1, 1, tzinfo=UTC)),
        at(NOW + DAY),
        at(NOW + DAY + timedelta(seconds=1)),
    ]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    kept = [sample["timestamp"] for sample in result.good[GLUCOSE][0]]
    assert kept == [datetime(2000, 1, 1, tzinfo=UTC), NOW + DAY]
    assert _reasons(result) == [f"{GLUCOSE}.timestamp: before 2000 or in the future"] * 2


def test_local_times_may_run_ahead_by_the_widest_zone(frame_of: FrameOf) -> None:
    limit = datetime(2026, 11, 22, 2)  # noqa: DTZ001 a day and 14 hours after now
    samples = [
        {"local_timestamp": limit, "blood_glucose_mg_per_dl": 90.0},
        {"local_timestamp": limit + timedelta(minutes=1), "blood_glucose_mg_per_dl": 91.0},
    ]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    assert [sample["local_timestamp"] for sample in result.good[GLUCOSE][0]] == [limit]


@pytest.mark.parametrize("offset", [timedelta(seconds=30), timedelta(hours=18, minutes=1)])
def test_halves_that_do_not_belong_together_are_refused(
    offset: timedelta, frame_of: FrameOf
) -> None:
    sample = {**_reading(0, 90.0), "local_timestamp": START.replace(tzinfo=None) + offset}
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: [sample]})), now=NOW)
    assert _reasons(result) == [
        f"{GLUCOSE}.timestamp: local time is not whole minutes within 18 hours of UTC"
    ]


def test_a_sample_without_time_or_without_anything_is_refused(frame_of: FrameOf) -> None:
    samples = [{"blood_glucose_mg_per_dl": 90.0}, {"device_id": None}, _reading(0, 91.0)]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    assert len(result.good[GLUCOSE][0]) == 1
    assert sorted(_reasons(result)) == [f"{GLUCOSE}.timestamp: no time", f"{GLUCOSE}: empty sample"]


def test_samples_come_back_sorted_and_each_once(frame_of: FrameOf) -> None:
    samples = [
        _reading(10, 100.0),
        _reading(5, 95.0),
        _reading(5, 95.5),
        _reading(5, 96.0, sample_kind="fingerstick"),
        _reading(0, 90.0),
    ]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    values = [sample["blood_glucose_mg_per_dl"] for sample in result.good[GLUCOSE][0]]
    assert values == [90.0, 95.0, 96.0, 100.0]
    assert _reasons(result) == [f"{GLUCOSE}: repeated sample"]


def test_the_same_instant_is_the_same_whether_or_not_the_local_time_is_known(
    frame_of: FrameOf,
) -> None:
    samples = [_reading(0, 90.0), {**_reading(0, 91.0), "local_timestamp": None}]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    assert [sample["blood_glucose_mg_per_dl"] for sample in result.good[GLUCOSE][0]] == [90.0]


def test_the_repeated_hour_keeps_both_of_its_readings(frame_of: FrameOf) -> None:
    half_past_two = datetime(2026, 10, 25, 2, 30)  # noqa: DTZ001
    samples = [
        {
            "timestamp": datetime(2026, 10, 25, hour, 30, tzinfo=UTC),
            "local_timestamp": half_past_two,
            "blood_glucose_mg_per_dl": value,
        }
        for hour, value in ((1, 91.0), (0, 90.0))
    ]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    assert [sample["blood_glucose_mg_per_dl"] for sample in result.good[GLUCOSE][0]] == [90.0, 91.0]
    assert result.rejected.is_empty()


def test_two_weighings_at_one_minute_are_two_and_a_copy_is_one(frame_of: FrameOf) -> None:
    list_name = "measurements_measurements"
    weighing = {"measurement_time": START, "weight_kg": 80.0}
    dose = {"measurement_time": START, "insulin_units": 4.0, "insulin_type": "rapid"}
    frame = frame_of(BODY, _row(**{list_name: [weighing, dose, weighing]}))
    result = validate(BODY, frame, now=NOW)
    assert len(result.good[list_name][0]) == 2
    assert _reasons(result) == [f"{list_name}: repeated sample"]


def test_unlisted_names_are_refused_and_novel_codes_kept(frame_of: FrameOf) -> None:
    samples = [
        _reading(0, 90.0, trend_arrow="flat"),
        _reading(5, 90.0, trend_arrow="unknown:42"),
        _reading(10, 90.0, trend_arrow="sideways"),
    ]
    row = _row(device_data_provided=["steps", "telepathy"], **{GLUCOSE: samples})
    result = validate(BODY, frame_of(BODY, row), now=NOW)
    assert [sample["trend_arrow"] for sample in result.good[GLUCOSE][0]] == ["flat", "unknown:42"]
    assert result.good["device_data_provided"].to_list() == [None]
    assert _reasons(result) == [
        f"{GLUCOSE}.trend_arrow: not in the list TrendArrow",
        "device_data_provided: not in the list DeviceDataType",
    ]


def test_a_bad_point_of_a_trace_costs_that_point(frame_of: FrameOf) -> None:
    trace = [{"potential_uv": 1.0}, {"potential_uv": float("nan")}, {"potential_uv": 3.0}]
    reading = {"start_timestamp": START, "raw_signal": trace}
    frame = frame_of(BODY, _row(), _row(user_id="u2", heart_ecg_signal=[reading]))
    result = validate(BODY, frame, now=NOW)
    kept = result.good["heart_ecg_signal"].to_list()[1][0]["raw_signal"]
    assert [point["potential_uv"] for point in kept] == [1.0, 3.0]
    assert result.rejected.select("user_id", "column").rows() == [
        ("u2", "heart_ecg_signal.raw_signal.potential_uv")
    ]


def test_of_two_rows_of_one_key_the_one_updated_last_stays(frame_of: FrameOf) -> None:
    frame = frame_of(
        BODY,
        _row(revision=1, updated_at=START),
        _row(revision=2, updated_at=START + DAY),
        _row(revision=3),
        _row(user_id="u2"),
    )
    result = validate(BODY, frame, now=NOW)
    assert result.good.select("user_id", "revision").rows() == [("u1", 2), ("u2", None)]
    assert _reasons(result) == ["user_id, local_date: another row has the same key"] * 2


def test_sessions_of_one_day_are_told_apart_by_their_id(frame_of: FrameOf) -> None:
    table = TABLES["sleep"]
    rows = [_row(metadata_summary_id=name) for name in ("night", "nap", "nap", None)]
    result = validate(table, frame_of(table, *rows), now=NOW)
    assert result.good["metadata_summary_id"].to_list() == ["night", "nap"]
    assert result.good["metadata_upload_type"].to_list() == ["unknown", "unknown"]
    assert _reasons(result) == [
        "user_id, metadata_summary_id: another row has the same key",
        "metadata_summary_id: missing",
    ]


def test_zones_nobody_knows_and_offsets_of_another_start_are_cleared(frame_of: FrameOf) -> None:
    frame = frame_of(BODY, _row(timezone="Mars/Base", utc_offset_seconds=7200))
    result = validate(BODY, frame, now=NOW)
    assert result.good.select("timezone", "utc_offset_seconds").row(0) == (None, None)
    assert sorted(_reasons(result)) == [
        "timezone: not an IANA zone",
        "utc_offset_seconds: not the offset of the start",
    ]


def test_a_moment_of_the_row_is_cleared_with_both_halves(frame_of: FrameOf) -> None:
    row = _row(
        device_activation_timestamp=datetime(1980, 1, 6, tzinfo=UTC),
        device_local_activation_timestamp=datetime(1980, 1, 6, 1),  # noqa: DTZ001
    )
    result = validate(BODY, frame_of(BODY, row), now=NOW)
    assert result.good.select(
        "device_activation_timestamp", "device_local_activation_timestamp"
    ).row(0) == (None, None)
    assert set(result.rejected["scope"]) == {"value"}


def test_positions_off_the_globe_are_refused(frame_of: FrameOf) -> None:
    table = TABLES["activity"]
    row = _row(
        metadata_summary_id="s",
        position_start_pos_lat_lng_deg=[48.0, 11.0],
        position_end_pos_lat_lng_deg=[91.0, 11.0],
        position_center_pos_lat_lng_deg=[48.0],
        position_position_samples=[
            {"timestamp": START, "coords_lat_lng_deg": [48.0, 181.0]},
            {"timestamp": START, "coords_lat_lng_deg": [48.0, -180.0]},
        ],
    )
    result = validate(table, frame_of(table, row), now=NOW)
    assert result.good["position_start_pos_lat_lng_deg"].to_list() == [[48.0, 11.0]]
    assert result.good["position_end_pos_lat_lng_deg"].to_list() == [None]
    assert result.good["position_center_pos_lat_lng_deg"].to_list() == [None]
    assert len(result.good["position_position_samples"][0]) == 1
    assert len(result.rejected) == 3


def test_a_missing_or_mistyped_column_is_the_programs_fault(frame_of: FrameOf) -> None:
    frame = frame_of(BODY, _row())
    with pytest.raises(TypeError, match=r"body: no column revision"):
        validate(BODY, frame.drop("revision"), now=NOW)
    with pytest.raises(TypeError, match=r"body.revision: Int64 instead of Int32"):
        validate(BODY, frame.with_columns(pl.col("revision").cast(pl.Int64)), now=NOW)


def test_the_good_part_of_a_bad_batch_is_good(frame_of: FrameOf) -> None:
    samples = [_reading(5, 9999.0), _reading(5, 90.0), _reading(0, 91.0)]
    frame = frame_of(BODY, _row(user_id=None), _row(glucose_gmi=99.0, **{GLUCOSE: samples}))
    once = validate(BODY, frame, now=NOW)
    again = validate(BODY, once.good, now=NOW)
    assert again.rejected.is_empty()
    assert_frame_equal(again.good, once.good)


def test_each_users_own_samples_stay_theirs(frame_of: FrameOf) -> None:
    rows = [
        _row(user_id=f"u{n}", **{GLUCOSE: [_reading(5, 100.0 + n), _reading(0, -1.0)]})
        for n in range(50)
    ]
    result = validate(BODY, frame_of(BODY, *rows), now=NOW)
    assert [
        (user_id, [sample["blood_glucose_mg_per_dl"] for sample in samples])
        for user_id, samples in result.good.select("user_id", GLUCOSE).iter_rows()
    ] == [(f"u{n}", [100.0 + n]) for n in range(50)]
    assert result.rejected["user_id"].to_list() == [f"u{n}" for n in range(50)]


NIGHT = TABLES["sleep"]
HEART = "heart_rate_detailed_hr_samples"


def _night(*minutes: int, **values: Any) -> dict[str, Any]:
    """From 23:00 UTC for eight hours, with heart beats so many minutes after the start."""
    beats = [{**_reading(minute, None), "bpm": 60.0} for minute in minutes]
    for beat in beats:
        del beat["blood_glucose_mg_per_dl"]
    span = timedelta(hours=8)
    return _row(
        metadata_summary_id="n1",
        end_at=START + span,
        local_end_at=LOCAL_START + span,
        **{HEART: beats},
        **values,
    )


def test_samples_of_a_session_lie_inside_it_or_close_by(frame_of: FrameOf) -> None:
    # The night ends after 480 minutes; a day of 1,440 minutes on both sides is let pass.
    minutes = (-1_441, -1_440, 0, 240, 480, 1_920, 1_921)
    result = validate(NIGHT, frame_of(NIGHT, _night(*minutes)), now=NOW)
    kept = [beat["timestamp"] for beat in result.good[HEART][0]]
    assert kept == [START + timedelta(minutes=minute) for minute in (-1_440, 0, 240, 480, 1_920)]
    assert result.rejected["scope"].to_list() == ["sample", "sample"]
    assert _reasons(result) == [f"{HEART}.timestamp: outside its session"] * 2


def test_without_instants_sessions_are_compared_by_local_time(frame_of: FrameOf) -> None:
    night = _night(-1_500, 30, start_at=None, utc_offset_seconds=None, tz_source="unknown")
    night |= {"end_at": None, "timezone": None}
    for beat in night[HEART]:
        beat["timestamp"] = None
    result = validate(NIGHT, frame_of(NIGHT, night), now=NOW)
    kept = [beat["local_timestamp"] for beat in result.good[HEART][0]]
    assert kept == [LOCAL_START + timedelta(minutes=30)]


def test_laps_may_not_leave_their_activity(frame_of: FrameOf) -> None:
    table = TABLES["activity"]
    hour = timedelta(hours=1)
    laps = [
        {"start_time": START, "end_time": START + hour},
        {"start_time": START + hour, "end_time": START + 27 * hour},
        {"start_time": None, "end_time": None, "distance_meters": 400.0},
    ]
    row = _row(
        metadata_summary_id="a1",
        end_at=START + 2 * hour,
        local_end_at=LOCAL_START + 2 * hour,
        lap_laps=laps,
    )
    result = validate(table, frame_of(table, row), now=NOW)
    assert _reasons(result) == ["lap_laps.end_time: outside its session"]
    assert result.good["lap_laps"].list.len().to_list() == [2]


def test_samples_of_a_day_may_lie_outside_its_midnights(frame_of: FrameOf) -> None:
    samples = [_reading(-30, 100.0), _reading(10, 101.0)]
    result = validate(BODY, frame_of(BODY, _row(**{GLUCOSE: samples})), now=NOW)
    assert result.rejected.is_empty()
