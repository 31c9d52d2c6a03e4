"""Which users and days a run should cover: pure answers for sensors and schedules to act on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from wearable_pipeline.partitions import Partition, format_key

LIVE_SLOT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A run's rectangle: dates from first to last × cohorts from first to last, in Dagster's keys.

    `keys` are the cohorts meant; those between them cost events and nothing else.
    """

    first: Partition
    last: Partition
    keys: tuple[str, ...]

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
    form = "%Y%m%dT%H%M" if seconds % 60 == 0 else "%Y%m%dT%H%M%S"
    return datetime.fromtimestamp(start, now.tzinfo).strftime(form)


def cover(
    users: Mapping[str, int],
    start: date,
    end: date,
    order: Mapping[str, int],
    max_keys: int,
    max_users: int | None = None,
) -> list[Rectangle]:
    """Rectangles over the cohorts in `users` and the days from `start` to `end`.

    `users` counts people by Dagster's key of their cohort. No rectangle has more than `max_keys` keys nor,
    unless one cohort alone has, more than `max_users` people. `order` gives the position of every key in
    the partition dimension, because a range runs along it. A key missing there is not a partition yet and
    is left out; the next tick has it.
    """
    most = max(1, max_keys // ((end - start).days + 1))
    rectangles: list[Rectangle] = []
    current: list[str] = []
    people = 0
    for key in sorted((key for key in users if key in order), key=order.__getitem__):
        # Keys between the first and the last cost events too, wanted or not.
        is_wide = bool(current) and order[key] - order[current[0]] >= most
        is_heavy = max_users is not None and bool(current) and people + users[key] > max_users
        if is_wide or is_heavy:
            rectangles.append(_rectangle(current, start, end))
            current, people = [], 0
        current.append(key)
        people += users[key]
    if current:
        rectangles.append(_rectangle(current, start, end))
    return rectangles


def _rectangle(keys: Sequence[str], start: date, end: date) -> Rectangle:
    return Rectangle(Partition(start, keys[0]), Partition(end, keys[-1]), tuple(keys))


def lane_name(number: int, lanes: int) -> str:
    """Tag value of a live lane."""
    return "live" if lanes == 1 else f"live-{number}"


def lane_of(position: int, keys: int, lanes: int) -> int:
    """The live lane of a cohort: the dimension cut into `lanes` stretches of the same length."""
    return min(position * lanes // max(keys, 1), lanes - 1)


def share_out(wanted: Mapping[str, int], places: int) -> dict[str, int]:
    """`places` given to those who want some: an equal share each, what one leaves goes to the others."""
    given: dict[str, int] = {}
    left = places
    # The modest first: what they do not take is known before the others are served.
    for name in sorted(wanted, key=lambda name: (wanted[name], name)):
        given[name] = min(wanted[name], left // (len(wanted) - len(given)))
        left -= given[name]
    return given
