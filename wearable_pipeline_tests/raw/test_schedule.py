"""When somebody is asked again: just after the next reading where it can be told, else often enough."""

from datetime import UTC, datetime, timedelta

from wearable_pipeline.raw.schedule import keeps_step, next_poll

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
FIVE = timedelta(minutes=5)
TEN_SECONDS = timedelta(seconds=10)


def readings(*minutes: float) -> list[datetime]:
    return [NOON + timedelta(minutes=minute) for minute in minutes]


def ask_after(
    asked_at: datetime,
    found: list[datetime],
    step: timedelta | None = FIVE,
    chance: float = 0.5,
) -> timedelta:
    """From `asked_at` to the next poll."""
    due = next_poll(
        asked_at,
        found,
        poll_interval=FIVE,
        sample_step=step,
        publishing_delay=TEN_SECONDS,
        chance=lambda: chance,
    )
    return due - asked_at


def test_the_next_reading_is_asked_for_just_after_it_appears() -> None:
    steady = readings(-15, -10, -5, 0)
    # 5 min after the newest, 10 s for publishing, half of 10 s of spread, asked 20 s after noon.
    assert ask_after(NOON + timedelta(seconds=20), steady) == timedelta(minutes=4, seconds=55)


def test_readings_every_minute_are_asked_for_often_enough() -> None:
    minutely = readings(-11, -7, -4, 0)
    wait = ask_after(NOON, minutely)
    assert timedelta(seconds=225) <= wait <= timedelta(seconds=234)


def test_a_reading_that_is_late_is_asked_for_again_soon_and_then_every_minute() -> None:
    steady = readings(-20, -15, -10, -5)
    # It should be there ten seconds after noon. Each wait: how late it is, and half of 10 s of spread.
    for asked_at, wait in ((12, 15), (25, 15), (50, 40), (70, 60), (200, 60)):
        after = ask_after(NOON + timedelta(seconds=asked_at), steady)
        assert after == timedelta(seconds=wait + 5), asked_at


def test_a_silent_sensor_is_asked_as_often_as_everybody() -> None:
    steady = readings(-25, -20, -15, -10)
    assert timedelta(seconds=225) <= ask_after(NOON + timedelta(seconds=30), steady)
    assert ask_after(NOON + timedelta(seconds=30), steady) <= timedelta(seconds=234)


def test_who_is_new_or_of_unknown_step_is_asked_as_often_as_everybody() -> None:
    for found, step in (([], FIVE), (readings(-5, 0), FIVE), (readings(-15, -10, -5, 0), None)):
        assert timedelta(seconds=225) <= ask_after(NOON, found, step) <= timedelta(seconds=234)


def test_now_and_then_a_poll_is_early_so_that_readings_in_between_are_found_out() -> None:
    steady = readings(-15, -10, -5, 0)
    wait = ask_after(NOON + timedelta(seconds=20), steady, chance=0.0)
    assert wait == timedelta(minutes=5, seconds=10) - timedelta(seconds=20 + 90)


def test_a_step_is_kept_within_seconds_and_over_gaps() -> None:
    assert keeps_step(readings(0, 5, 15, 20.2), FIVE)
    assert keeps_step(readings(0, 5, 5, 10), FIVE)
    assert not keeps_step(readings(0, 5, 9, 14), FIVE)
    assert not keeps_step(readings(0, 5, 10), FIVE)
    assert not keeps_step(readings(0, 0, 0, 0), FIVE)


def test_no_reading_grows_older_than_the_interval_before_it_is_asked_for() -> None:
    """Whatever the step, polls simulated for a day: the age of the newest unfetched reading."""
    for step_seconds in (60, 300, 301, 420):
        found: list[datetime] = []
        at, fetched = NOON, NOON
        for _ in range(400):
            newest = NOON + timedelta(
                seconds=(at - NOON).total_seconds() // step_seconds * step_seconds
            )
            waiting = min(
                (
                    NOON + timedelta(seconds=step_seconds * number)
                    for number in range(int((newest - NOON).total_seconds() // step_seconds) + 1)
                    if NOON + timedelta(seconds=step_seconds * number) > fetched
                ),
                default=None,
            )
            if waiting is not None:
                assert at - waiting <= FIVE, step_seconds
            fetched = newest
            found = [*found, newest][-4:]
            at += ask_after(at, found, chance=0.9)
