"""Two processes and one provider, over real HTTP: one login, one budget, one word from the provider."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wearable_pipeline.registry import Registry
from wearable_pipeline.sandbox.fleet import FleetProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.raw.polling import poll_at_once
from wearable_pipeline_tests.servers.forked import fork

USERS = 60


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetProcess]:
    with FleetProcess(USERS) as process:
        yield process


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path / "home", cohorts=4)


def poll_in_processes(
    home: Settings, fleet: FleetProcess, shares: Sequence[Sequence[str]], times: int, rate: float
) -> list[list[str]]:
    """Each process polls its share `times` at once; the error classes of each poll of each process."""
    environment = {
        "WEARABLE_HOME": str(home.home),
        "WEARABLE_COHORTS": "4",
        "WEARABLE_FREESTYLE_LIBRE_BASE_URL": fleet.libre_base_url,
        "WEARABLE_FREESTYLE_LIBRE_REQUESTS_PER_SECOND": str(rate),
    }
    running = [fork(poll_at_once, times, share, environment=environment) for share in shares]
    for child in running:
        child.begin()
    return [child.listen() for child in running]


def test_eight_workers_of_two_processes_log_a_user_in_once(
    home: Settings, fleet: FleetProcess
) -> None:
    with Registry.open(home) as registry:
        (user_id,) = fleet.register(registry, [0], is_logged_in=False)
    before = fleet.stats()["logins"]
    told = poll_in_processes(home, fleet, [[user_id], [user_id]], times=4, rate=1000)
    assert told == [[""] * 4] * 2
    assert fleet.stats()["logins"] - before == 1
    with Registry.open(home) as registry:
        assert str(registry.load_credentials(user_id)["token"]).startswith("fleet.0.")


def test_two_processes_share_one_budget_and_the_provider_never_refuses(
    home: Settings, fleet: FleetProcess
) -> None:
    rate = 25.0
    with Registry.open(home) as registry:
        ids = fleet.register(registry, range(USERS), now=datetime.now(UTC))
    fleet.limit(rate * 1.25)
    first = len(fleet.arrivals())
    refused = fleet.stats()["requests"].get("refused", 0)
    told = poll_in_processes(home, fleet, [ids[: USERS // 2], ids[USERS // 2 :]], 1, rate)
    fleet.limit(None)
    assert told == [[""], [""]]
    assert fleet.stats()["requests"].get("refused", 0) == refused
    arrivals = fleet.arrivals()[first:]
    # A graph and a logbook each.
    assert len(arrivals) == 2 * USERS
    assert arrivals[-1] - arrivals[0] >= (2 * USERS - 1) / rate - 0.5
    for start in arrivals:
        assert sum(start <= at < start + 1 for at in arrivals) <= rate * 1.25 + 1
