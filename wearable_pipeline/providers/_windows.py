"""Which days a provider is asked for, call by call."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from wearable_pipeline.providers._contract import Provider, Window

_DAY = timedelta(days=1)


def instants_around(window: Window) -> tuple[datetime, datetime]:
    """Begin and end of the window's local days, wherever they are.

    Days begin up to fourteen hours before and end up to twelve hours after those of UTC.
    """
    begin, last = _midnight(window.start), _midnight(window.end)
    return begin - timedelta(hours=14), last + _DAY + timedelta(hours=12)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def windows_of(provider: Provider, window: Window) -> Iterator[Window]:
    """`window` as the provider can take it, newest part first.

    A window that ends in the present reaches back by `refetch`, for what comes late. Nothing older than
    `history_days` is asked for. Parts of at most `max_window` follow each other without a gap or an
    overlap, the newest first: that is what people wait for.
    """
    today = window.now.date()
    start = window.start
    # Somebody's today may be the UTC date before or after ours.
    if window.end >= today - _DAY:
        start = min(start, today - provider.refetch)
    if provider.history_days is not None:
        start = max(start, today - timedelta(days=provider.history_days))
    if start > window.end:
        return
    if provider.max_window is None:
        yield Window(start, window.end, window.now)
        return
    length = max(provider.max_window, _DAY)
    end = window.end
    while end >= start:
        first = max(start, end - length + _DAY)
        yield Window(first, end, window.now)
        end = first - _DAY
