"""Spans of time that were asked for, and those that still are to be."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

import msgspec

# Whole numbers (seconds, days), the end left out.
Span = tuple[int, int]
# The first and the last one.
Days = tuple[date, date]


def read_spans(stored: object) -> list[Span]:
    """Spans as they lie in a connection's state; none when it is something else."""
    try:
        return msgspec.convert(stored or [], list[Span])
    except msgspec.ValidationError:
        return []


def merge(spans: Iterable[Span]) -> list[Span]:
    """The same numbers in as few spans as possible, in order; empty ones are none."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def subtract(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of `spans` lies outside `others`, in order."""
    left = merge(spans)
    for begin, end in others:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, begin)), (max(first, end), last))
            if part[0] < part[1]
        ]
    return left


class _Kind(msgspec.Struct, omit_defaults=True):
    days: list[Span] = []
    # The day on which only these days were refused, and not those of the present.
    refused_on: int = 0


class Missed:
    """Days that kinds of data were not read of because the provider refused, by the kind's name.

    A kind may be refused for a while (a permission not given) or for ever, so that the cursor must not
    wait for it. Its days are asked for beside those of the present, a few at a time, as long as they go
    through; what is refused again waits for the next day.
    """

    def __init__(self, stored: object, today: date, *, history_days: int | None = None) -> None:
        try:
            self._kinds = msgspec.convert(stored or {}, dict[str, _Kind])
        except msgspec.ValidationError:
            self._kinds = {}
        self._today = today.toordinal()
        if history_days is not None:
            gone = (0, self._today - history_days)
            for kind in self._kinds.values():
                kind.days = subtract(kind.days, [gone])

    def __contains__(self, name: str) -> bool:
        return name in self._kinds and bool(self._kinds[name].days)

    def find(self, name: str, due: Sequence[Days], most: int) -> Days | None:
        """The newest missed days outside those that are `due`, as many as `most`; None for today."""
        kind = self._kinds.get(name)
        if kind is None or kind.refused_on == self._today:
            return None
        left = subtract(kind.days, map(_span, due))
        if not left:
            return None
        first, end = left[-1]
        return date.fromordinal(max(first, end - most)), date.fromordinal(end - 1)

    def note(self, name: str, read: Sequence[Days], refused: Sequence[Days], late: int) -> None:
        """Remember which days of a kind were `read` and which `refused`; the last `late` were no due ones."""
        kind = self._kinds.setdefault(name, _Kind())
        left = subtract(kind.days, map(_span, read))
        kind.days = merge([*left, *map(_span, refused)])
        if refused and len(refused) <= late:
            kind.refused_on = self._today

    def to_store(self) -> Mapping[str, object]:
        """What the connection's state keeps."""
        kept = {name: kind for name, kind in self._kinds.items() if kind.days}
        found: Mapping[str, object] = msgspec.to_builtins(kept)
        return found


def _span(days: Days) -> Span:
    return days[0].toordinal(), (days[1] + timedelta(days=1)).toordinal()
