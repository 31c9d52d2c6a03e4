"""What a process does that delivers what is due once: what the fault tests kill."""

import os
import signal
from datetime import datetime
from pathlib import Path

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Outcome
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import Bench, TurnedClock
from wearable_pipeline_tests.destinations.faulty import Watcher
from wearable_pipeline_tests.servers.forked import Tell


def deliver_once(
    tell: Tell, home: Path, target: str, now: datetime, batch_rows: int, die_at: int | None
) -> None:
    """Deliver to a target of the home's file, and tell user and key of every row known to be written.

    It kills itself without any farewell after the `die_at`-th of them, before the ledger hears of it.
    """
    settings = Settings(
        home=home,
        destinations_file=home / "destinations.toml",
        webhook_url="https://example.org/unused",
    )
    clock = TurnedClock()
    clock.now = now
    written = 0

    def count(outcome: Outcome) -> None:
        nonlocal written
        if outcome.kind != "delivered":
            return
        written += 1
        tell(f"{outcome.item.user.user_id} {outcome.item.row_key}")
        if written == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with Registry.open(settings, clock) as registry:
        bench = Bench(settings, LocalStorage(home / "lake"), registry, clock)
        bench.target = Watcher(outcome=count).watch(get_target(settings, target), batch_rows)
        bench.deliver()
