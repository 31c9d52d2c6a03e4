"""When to ask for a user again after a fetch that went well."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

# A provider's poll interval is the age no reading shall exceed. What a sensor tick, the start of a run and
# the run itself take of it is kept back, or a reading that appears just after a poll would come too late.
MARGIN = timedelta(seconds=75)
# How exactly readings must keep to their step to be waited for.
TOLERANCE = timedelta(seconds=15)
# A reading that has not appeared in its time is asked for again after as long as it is late: most that are
# missed are missed by seconds, because a run began just before they appeared.
FIRST_RETRY = timedelta(seconds=15)
LONGEST_RETRY = timedelta(seconds=60)
SPREAD = timedelta(seconds=10)
# Of waited-for polls so many are early. A source that has begun to give readings in between is found out.
EARLY_SHARE = 1 / 24
EARLY_BY = timedelta(seconds=90)

_STEPS_NEEDED = 3


def next_poll(
    asked_at: datetime,
    readings: Sequence[datetime],
    *,
    poll_interval: timedelta,
    sample_step: timedelta | None,
    publishing_delay: timedelta,
    chance: Callable[[], float] = random.random,
) -> datetime:
    """When to ask again somebody asked at `asked_at`.

    `readings` are the newest readings after each of the last polls, oldest first. Where they keep to the
    provider's step, the next one is due one step after the newest plus what publishing takes: it is
    fetched seconds after it appears, and no poll comes back empty. Where it does not come in time it is
    asked for again, soon and then every minute, until a step has passed. Everybody else (readings every
    minute, a silent sensor, too few polls to know) is asked so often that no reading grows older than
    `poll_interval` before it is fetched.
    """
    often = max(poll_interval - MARGIN, poll_interval / 2)
    soon = asked_at + often * (1.0 + 0.04 * chance())
    if sample_step is None or sample_step < often or not keeps_step(readings, sample_step):
        return soon
    expected = readings[-1] + sample_step + publishing_delay
    if asked_at < expected:
        if chance() < EARLY_SHARE:
            early = expected - EARLY_BY
            if early > asked_at + LONGEST_RETRY:
                return early
        return expected + SPREAD * chance()
    if asked_at < expected + sample_step:
        late = asked_at - expected
        return asked_at + min(max(late, FIRST_RETRY), LONGEST_RETRY) + SPREAD * chance()
    return soon


def keeps_step(readings: Sequence[datetime], step: timedelta) -> bool:
    """Whether the distances of the last newest readings are whole steps; the same one twice is none."""
    distances = [later - earlier for earlier, later in pairwise(readings)]
    if len(distances) < _STEPS_NEEDED or not any(distances):
        return False
    return all(min(distance % step, step - distance % step) <= TOLERANCE for distance in distances)
