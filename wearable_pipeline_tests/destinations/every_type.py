"""A row of every data type: one whose text is not ASCII, whose lists hold samples, and much of it null.

`EXPECTED` says by hand what stands at some paths of its JSON.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import polars as pl

from wearable_pipeline.destinations._contract import Batch, Item, UserInfo
from wearable_pipeline.model import TABLES

USER_ID = "33333333-3333-4333-8333-333333333333"
USER = UserInfo(USER_ID, "OURA", "person-ø", created_at=datetime(2026, 11, 1, 8, 0, tzinfo=UTC))
DAY = date(2026, 11, 20)
ORDERING = 1_795_176_000_000
_START = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
_LOCAL_START = (_START + timedelta(hours=1)).replace(tzinfo=None)
# Session ids are the providers': nothing forbids any letter.
KEYS = {"activity": "løb/1 50%", "sleep": "nat|2026.11.20"}


def _sample(**values: object) -> dict[str, object]:
    return {"timestamp": _START, "local_timestamp": _LOCAL_START, **values}


_VALUES: dict[str, dict[str, Any]] = {
    "activity": {
        "metadata_summary_id": KEYS["activity"],
        "metadata_name": 'Søndagsløb "let" 🏃',
        "position_start_pos_lat_lng_deg": [55.676, 12.568],
        "heart_rate_detailed_hr_samples": [_sample(bpm=151.5), _sample(bpm=None)],
    },
    "body": {"glucose_blood_glucose_samples": [_sample(blood_glucose_mg_per_dl=99.1)]},
    "daily": {
        "data_enrichment_stress_contributors": [
            {"contributor_name": "søvn.kvalitet", "contributor_score": 71.5}
        ],
        "tag_tags": [_sample(tag_name="kaffe", notes="to kopper\nå 2 dl")],
    },
    "menstruation": {"menstruation_current_phase": "follicular"},
    "nutrition": {"drink_samples": [_sample(drink_name="Æblemost", drink_volume=0.25)]},
    "sleep": {
        "metadata_summary_id": KEYS["sleep"],
        "sleep_durations_hypnogram_samples": [
            _sample(level="deep_sleep"),
            _sample(level="rem_sleep"),
        ],
    },
}

# Type, path in the JSON, value there.
EXPECTED: list[tuple[str, str, object]] = [
    ("activity", "user_id", USER_ID),
    ("activity", "metadata.summary_id", "løb/1 50%"),
    ("activity", "metadata.name", 'Søndagsløb "let" 🏃'),
    ("activity", "metadata.start_time", "2026-11-20T00:00:00.000000+01:00"),
    ("activity", "metadata.city", None),
    ("activity", "position_data.start_pos_lat_lng_deg", [55.676, 12.568]),
    ("activity", "position_data.end_pos_lat_lng_deg", []),
    ("activity", "heart_rate_data.detailed.hr_samples.0.bpm", 151.5),
    (
        "activity",
        "heart_rate_data.detailed.hr_samples.0.timestamp",
        "2026-11-20T07:30:00.000000+01:00",
    ),
    ("activity", "heart_rate_data.detailed.hr_samples.1.bpm", None),
    ("body", "local_date", "2026-11-20"),
    ("body", "glucose_data.blood_glucose_samples.0.blood_glucose_mg_per_dL", 99),
    ("body", "glucose_data.blood_glucose_samples.0.blood_glucose_mg_per_dL_exact", 99.1),
    ("body", "glucose_data.blood_glucose_samples.0.trend_arrow", None),
    ("body", "ketone_data.ketone_samples", []),
    ("daily", "data_enrichment.stress_contributors", {"søvn.kvalitet": 71.5}),
    ("daily", "data_enrichment.readiness_contributors", None),
    ("daily", "tag_data.tags.0.notes", "to kopper\nå 2 dl"),
    ("menstruation", "menstruation_data.current_phase", 2),
    ("menstruation", "menstruation_data.menstruation_flow", []),
    ("nutrition", "drink_samples.0.drink_name", "Æblemost"),
    ("nutrition", "drink_samples.0.drink_volume", 0.25),
    ("nutrition", "meals", []),
    ("sleep", "metadata.summary_id", "nat|2026.11.20"),
    ("sleep", "sleep_durations_data.hypnogram_samples.0.level", 5),
    ("sleep", "sleep_durations_data.hypnogram_samples.1.level", 6),
]


def key_of(table: str) -> str:
    """The row key of the type's row."""
    return KEYS.get(table, DAY.isoformat())


def batch_of_type(name: str, *, is_deleted: bool = False, ordering: int = ORDERING) -> Batch:
    """The type's one row as a batch."""
    table = TABLES[name]
    midnight = datetime.combine(DAY, time.min)
    known = {
        "user_id": USER_ID,
        "provider": "oura",
        "local_date": DAY,
        "start_at": datetime(2026, 11, 19, 23, tzinfo=UTC),
        "local_start_at": midnight,
        "end_at": datetime(2026, 11, 20, 23, tzinfo=UTC),
        "local_end_at": midnight + timedelta(days=1),
        "utc_offset_seconds": 3600,
        "timezone": "Europe/Copenhagen",
        "tz_source": "provider",
        **({} if is_deleted else _VALUES[name]),
    }
    item = Item(
        name, USER, key_of(name), DAY, "hash", f"trace-{name}", ordering, is_deleted=is_deleted
    )
    schema = table.polars_schema()
    rows = pl.DataFrame({column: [known.get(column)] for column in schema}, schema=schema)
    return Batch(table, (item,), rows)


def at_path(row: Any, path: str) -> Any:
    """What stands at a path of a row's JSON; numbers are places in lists."""
    for part in path.split("."):
        row = row[int(part)] if isinstance(row, list) else row[part]
    return row
