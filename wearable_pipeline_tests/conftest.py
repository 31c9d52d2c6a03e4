"""Fixtures every test may use: settings in a temporary home, a workspace with a clock that stands still."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace

pytest_plugins = ["wearable_pipeline_tests.servers.fixtures"]

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"

os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Corpus tests fail in CI when the corpus is missing, and are skipped with a reason elsewhere."""
    if CORPUS.exists() or os.environ.get("CI") == "true":
        return
    absent = pytest.mark.skip(reason=f"no corpus of real bodies at {CORPUS}")
    for item in items:
        if item.get_closest_marker("corpus"):
            item.add_marker(absent)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes go by the name of their argument: zips hold the time they were made at, and workers that
    collect a second apart must agree on the names of tests."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None


@pytest.fixture(autouse=True)
def forgotten_instance() -> None:
    """Dagster remembers which instance was entered last, and comes back to one that is gone when instances
    of fixtures end in another order than they began."""
    if "dagster" in sys.modules:
        from dagster._core.storage.defs_state.base import _current_storage

        _current_storage.set(None)


@dataclass
class StandingClock:
    """A clock that moves only when told."""

    at: datetime = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **parts: float) -> datetime:
        self.at += timedelta(**parts)
        return self.at


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith("WEARABLE_") and not name.startswith("WEARABLE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    def make(**values: object) -> Settings:
        return Settings(_env_file=None, home=tmp_path / "home", **values)  # type: ignore[call-arg, arg-type]

    return make


@pytest.fixture
def workspace(make_settings: Callable[..., Settings], clock: StandingClock) -> Iterator[Workspace]:
    with open_workspace(make_settings(), clock) as opened:
        yield opened
