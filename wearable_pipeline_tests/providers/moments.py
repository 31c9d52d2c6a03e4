"""Moments of expected rows, as they are written in tests."""

from datetime import UTC, datetime


def at(text: str) -> datetime:
    """An instant, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def naive(text: str) -> datetime:
    """What clocks showed."""
    return datetime.fromisoformat(text)
