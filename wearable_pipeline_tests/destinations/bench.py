"""One installation to deliver from, with a clock the tests turn, and synthetic rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.delivery import DeliveryReport, deliver_pending, note_wanted
from wearable_pipeline.lake.layout import table_path
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.registry import Delivery, Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline.workspace import Clock

SECRET = "signing-secret-of-the-tests"
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TODAY = date(2026, 11, 20)
BODY = TABLES["body"]


def body_row(
    user_id: str, glucose: Sequence[float], day: date = TODAY, *, batch_id: str = "b1"
) -> pl.DataFrame:
    """A day of glucose readings, five minutes apart from 10:00 UTC on, in Berlin's winter."""
    start = datetime(day.year, day.month, day.day, 10, 0, tzinfo=UTC)
    instants = [start + timedelta(minutes=5 * index) for index in range(len(glucose))]
    wall = datetime.combine(day, time.min)
    samples = [
        {
            "timestamp": at,
            "local_timestamp": (at + timedelta(hours=1)).replace(tzinfo=None),
            "blood_glucose_mg_per_dl": float(value),
            "glucose_level_flag": "normal",
            "sample_kind": "cgm",
        }
        for at, value in zip(instants, glucose, strict=True)
    ]
    known: dict[str, Any] = {
        "user_id": user_id,
        "provider": "freestyle_libre",
        "local_date": day,
        "start_at": datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=1),
        "local_start_at": wall,
        "end_at": datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=23),
        "local_end_at": wall + timedelta(days=1),
        "utc_offset_seconds": 3600,
        "timezone": "Europe/Berlin",
        "tz_source": "profile",
        "source_record_ids": [f"r{index}" for index in range(len(glucose))],
        "revision": 1,
        "first_seen_at": NOON,
        "updated_at": NOON,
        "batch_ids": [batch_id],
        "code_version": "test",
        "glucose_blood_glucose_samples": samples,
    }
    empty, schema = _empty_row()
    return empty.with_columns(
        pl.Series(name, [value], schema[name]) for name, value in known.items()
    )


@cache
def _empty_row() -> tuple[pl.DataFrame, pl.Schema]:
    """A row of the table that holds nothing; its hundreds of columns take long to make."""
    schema = pl.Schema(BODY.polars_schema())
    return pl.DataFrame({name: [None] for name in schema}, schema=schema), schema


@cache
def _empty_registry() -> bytes:
    with TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, home=Path(folder))
        Registry.open(settings).close()
        return (settings.home / "registry.sqlite").read_bytes()


def open_new_registry(settings: Settings, clock: Clock) -> Registry:
    """The registry of a home without one, copied: to migrate it takes longer than many a test."""
    settings.home.mkdir(parents=True, exist_ok=True)
    file = settings.home / "registry.sqlite"
    file.touch(0o600, exist_ok=False)
    file.write_bytes(_empty_registry())
    return Registry.open(settings, clock)


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now


@dataclass
class Bench:
    """One installation, and the steps of a delivery as a test wants to say them."""

    settings: Settings
    storage: Storage
    registry: Registry
    clock: TurnedClock
    scheme: Scheme = field(default_factory=Scheme)
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.target = get_target(self.settings, "webhook")

    def add_user(self, user_id: str, reference_id: str | None = "person-1") -> str:
        return self.registry.add_user(
            "freestyle_libre", user_id=user_id, reference_id=reference_id
        ).user_id

    def write(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Put the rows into the lake, one partition each, as a refresh does."""
        for row in rows:
            day, user_id = row["local_date"][0], row["user_id"][0]
            content = encode_parquet(row.to_arrow(), BODY.arrow_schema())
            path = table_path("body", Partition(day, self.scheme.cohort_of(user_id)))
            self.storage.put(path, content)
        return pl.concat(rows)

    def note(self, *rows: pl.DataFrame) -> int:
        """Write the rows and note them as wanted; returns how many became pending."""
        written = self.write(*rows)
        noted = note_wanted(self.registry, [self.target], "body", written)
        return noted.get(self.target.name, 0)

    def deliver(
        self,
        *,
        limit: int | None = None,
        deadline: datetime | None = None,
        user_ids: Sequence[str] | None = None,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> DeliveryReport:
        return deliver_pending(
            self.storage,
            self.scheme,
            self.registry,
            self.target,
            self.settings,
            self.clock,
            user_ids=user_ids,
            limit=limit,
            deadline=deadline,
            jitter=jitter,
        )

    def ledger(self) -> list[Delivery]:
        return self.registry.deliveries(self.target.name)

    def reopen_registry(self) -> None:
        self.registry.close()
        self.registry = Registry.open(self.settings, self.clock)
