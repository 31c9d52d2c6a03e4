"""A registry on SQLite and on a real Postgres, with a clock the tests turn."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings

NOON = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> datetime:
        self.now += timedelta(**by)
        return self.now


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def forward(clock: TurnedClock) -> Callable[..., datetime]:
    """Turns the clock, `forward(minutes=5)`, and says what it shows then."""
    return clock.forward


BOTH = [
    pytest.param("sqlite"),
    pytest.param("postgres", marks=pytest.mark.real),
]


@pytest.fixture(params=BOTH)
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of a fresh installation, on either database."""
    monkeypatch.chdir(tmp_path)
    url = request.getfixturevalue("empty_postgres") if request.param == "postgres" else None
    return Settings(home=tmp_path / "home", registry_url=url)


@pytest.fixture
def registry(settings: Settings, clock: TurnedClock) -> Iterator[Registry]:
    with Registry.open(settings, clock) as opened:
        yield opened


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")
