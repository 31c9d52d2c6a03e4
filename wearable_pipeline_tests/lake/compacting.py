"""Days of readings, their compaction, and what processes do that compact while others read or kill them."""

import random
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from wearable_pipeline.lake.compact import Compacted, compact_table
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.lake.rows import write_rows
from wearable_pipeline_tests.servers.forked import Tell

TODAY = date(2026, 11, 21)
FIRST = date(2026, 9, 28)
USERS = ("ann", "bob", "cy")
DAYS = 8  # 28 September to 5 October: two closed months
READINGS = 6
HUGE = 10**9
MANY = 288  # a day of a sensor


def body_row(user: str, day: date, value: float, readings: int = READINGS) -> dict[str, Any]:
    """A day of readings, all of one value; no more is known of it."""
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    return {
        "user_id": user,
        "provider": "nightscout",
        "local_date": day,
        "revision": 1,
        "glucose_blood_glucose_samples": [
            {
                "timestamp": midnight + timedelta(minutes=5 * step),
                "blood_glucose_mg_per_dl": value,
                "sample_kind": "cgm",
            }
            for step in range(readings)
        ],
    }


def days_of(start: date = FIRST, count: int = DAYS) -> list[date]:
    return [start + timedelta(days=number) for number in range(count)]


def fill(storage: Storage, value: float = 100, users: Iterable[str] = USERS) -> None:
    write_rows(storage, "body", [body_row(user, day, value) for user in users for day in days_of()])


def run(storage: Storage, file_bytes: int = HUGE, today: date = TODAY) -> Compacted:
    return compact_table(storage, "body", today, after_days=3, file_bytes=file_bytes)


def work_until_stopped(tell: Tell, url: str, settings: Settings, stop: Path) -> None:
    """Days change and months are compacted until there is a file `stop`; told is each change."""
    storage = Storage.open(url, settings)
    number = 0
    while not stop.exists():
        number += 1
        day = random.choice(days_of())
        write_rows(storage, "body", [body_row("bob", day, 100 + number % 100)])
        if number % 2 == 0:
            run(storage, file_bytes=5_000)
        tell(str(number))


def compact_once(tell: Tell, url: str, settings: Settings) -> None:
    """The victim's work."""
    run(Storage.open(url, settings), file_bytes=30_000)
    tell("done")
