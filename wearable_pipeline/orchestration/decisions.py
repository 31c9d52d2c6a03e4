"""Which users and days a run should cover: pure answers for sensors and schedules to act on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from wearable_pipeline.partitions import Partition, Scheme, format_key

LIVE_SLOT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A run's rectangle: dates from first to last × cohorts from first to last, and the users meant."""

    first: Partition
    last: Partition
    user_ids: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """Dagster's tags of a range run."""
        return {
            "dagster/asset_partition_range_start": format_key(self.first),
            "dagster/asset_partition_range_end": format_key(self.last),
        }


def slot_name(now: datetime, length: timedelta = LIVE_SLOT) -> str:
    """Name of the time slot `now` falls into: at most one run per lane and slot."""
    seconds = int(length.total_seconds())
    start = int(now.timestamp()) // seconds * seconds
    return datetime.fromtimestamp(start, now.tzinfo).strftime("%Y%m%dT%H%M")


def cover(
    users: Iterable[str],
    start: date,
    end: date,
    order: Mapping[str, int],
    scheme: Scheme,
    max_keys: int,
) -> list[Rectangle]:
    """Rectangles over `users` and the days from `start` to `end`, of at most `max_keys` keys each.

    `order` gives the position of every cohort in the partition dimension, because a range runs along it.
    A cohort missing there is not a partition yet and is left out; the next tick has it.
    """
    days = (end - start).days + 1
    by_position: dict[int, list[str]] = {}
    for user_id in users:
        position = order.get(scheme.cohort_of(user_id))
        if position is not None:
            by_position.setdefault(position, []).append(user_id)
    cohort_at = {position: cohort for cohort, position in order.items()}
    most = max(1, max_keys // days)
    rectangles: list[Rectangle] = []
    current: list[int] = []
    for position in sorted(by_position):
        # Users between the first and the last cost keys too, wanted or not.
        if current and position - current[0] >= most:
            rectangles.append(_rectangle(current, by_position, cohort_at, start, end))
            current = []
        current.append(position)
    if current:
        rectangles.append(_rectangle(current, by_position, cohort_at, start, end))
    return rectangles


def _rectangle(
    positions: Sequence[int],
    by_position: Mapping[int, list[str]],
    cohort_at: Mapping[int, str],
    start: date,
    end: date,
) -> Rectangle:
    return Rectangle(
        Partition(start, cohort_at[positions[0]]),
        Partition(end, cohort_at[positions[-1]]),
        tuple(sorted(user_id for position in positions for user_id in by_position[position])),
    )


def stale_users(
    newest: Mapping[str, datetime | None], now: datetime, limit: timedelta
) -> list[str]:
    """Users whose newest reading is older than `limit`, longest silence first; never read comes first."""
    silent = {user_id: at for user_id, at in newest.items() if at is None or now - at > limit}
    return sorted(
        silent, key=lambda user_id: (silent[user_id] is not None, silent[user_id] or now, user_id)
    )
