"""One sandbox, one receiver and one home with everybody connected, copied for each test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings, settings
from wearable_pipeline.workspace import Clock, Workspace, open_workspace
from wearable_pipeline_tests.conftest import StandingClock
from wearable_pipeline_tests.faults.cast import NOW, connect_people

SECRET = "signing-secret-of-the-tests"
EVERYBODY = ("ada", "bo", "cleo", "dag", "esi")

OpenHome = Callable[[], AbstractContextManager[Workspace]]


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[SandboxProcess]:
    with SandboxProcess(now=NOW) as running:
        yield running


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[Receiver]:
    with Receiver(SECRET) as running:
        yield running


@pytest.fixture(scope="session")
def connected_home(
    sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, User]]:
    """A home in which everybody is connected and nothing is fetched yet."""
    home = tmp_path_factory.mktemp("connected") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEARABLE_FREESTYLE_LIBRE_BASE_URL", sandbox_process.libre_base_url)
        settings.cache_clear()
        with open_workspace(Settings(_env_file=None, home=home), lambda: NOW) as opened:
            people = connect_people(opened, sandbox_process, EVERYBODY)
    settings.cache_clear()
    return home, people


@pytest.fixture
def sandbox(
    sandbox_process: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SandboxProcess]:
    """The sandbox, healthy and at noon."""
    sandbox_process.set_clock(NOW)
    sandbox_process.clear_faults()
    sandbox_process.clear_requests()
    monkeypatch.setenv("WEARABLE_FREESTYLE_LIBRE_BASE_URL", sandbox_process.libre_base_url)
    settings.cache_clear()
    yield sandbox_process
    sandbox_process.clear_faults()
    settings.cache_clear()


@pytest.fixture
def receiver(receiver_process: Receiver) -> Receiver:
    """The receiver, its inbox empty."""
    receiver_process.forget()
    return receiver_process


@pytest.fixture
def people(connected_home: tuple[Path, dict[str, User]]) -> dict[str, User]:
    """The connected users by name."""
    return connected_home[1]


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(NOW)


@pytest.fixture
def copy_home(
    connected_home: tuple[Path, dict[str, User]],
    sandbox: SandboxProcess,
    receiver: Receiver,
    tmp_path: Path,
) -> Callable[[str], Settings]:
    """Makes settings of a new home in which everybody is connected, with a webhook."""

    def copy(name: str) -> Settings:
        home = tmp_path / name
        shutil.copytree(connected_home[0], home)
        return Settings(
            _env_file=None,
            home=home,
            webhook_url=receiver.url,
            webhook_secret=SECRET,
            webhook_allow_private=True,
        )

    return copy


@pytest.fixture
def home_settings(copy_home: Callable[[str], Settings]) -> Settings:
    """Settings of a home of one's own in which everybody is connected."""
    return copy_home("home")


@pytest.fixture
def open_home(home_settings: Settings, clock: Clock) -> OpenHome:
    """Opens the home anew, as a process that starts does."""
    return lambda: open_workspace(home_settings, clock)


@pytest.fixture
def workspace(open_home: OpenHome) -> Iterator[Workspace]:
    with open_home() as opened:
        yield opened
