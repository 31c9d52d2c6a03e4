"""A lake, a registry with a clock the tests turn, and a real receiver in a process of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import SECRET, Bench, TurnedClock, open_new_registry


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[Receiver]:
    with Receiver(SECRET) as receiver:
        yield receiver


@pytest.fixture
def receiver(receiver_process: Receiver) -> Receiver:
    """The receiver with an empty inbox, answering 200."""
    receiver_process.forget()
    return receiver_process


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("WEARABLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home", webhook_url=receiver.url, webhook_secret=SECRET)


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def bench(settings: Settings, clock: TurnedClock) -> Iterator[Bench]:
    settings.home.mkdir(parents=True)
    storage = LocalStorage(settings.home / "lake")
    made = Bench(settings, storage, open_new_registry(settings, clock), clock)
    yield made
    made.registry.close()
