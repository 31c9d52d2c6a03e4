"""A process that delivers what is due once: what the fault tests kill.

Says `ready` when its imports are done and begins when it is told to; then it says user and key of every
row known to be written. With `--die-at n` it kills itself without any farewell after the n-th of them,
before the ledger hears of it.
"""

import argparse
import os
import signal
import sys
from datetime import datetime
from pathlib import Path

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Outcome
from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import Bench, TurnedClock
from wearable_pipeline_tests.destinations.faulty import Watcher


def main() -> None:
    """Deliver to the target of the command line, at its instant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--now", type=datetime.fromisoformat, required=True)
    parser.add_argument("--batch-rows", type=int, required=True)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("target")
    asked = parser.parse_args()
    settings = Settings(
        home=asked.home,
        destinations_file=asked.home / "destinations.toml",
        webhook_url="https://example.org/unused",
    )
    clock = TurnedClock()
    clock.now = asked.now
    written = 0

    def count(outcome: Outcome) -> None:
        nonlocal written
        if outcome.kind != "delivered":
            return
        written += 1
        sys.stdout.write(f"{outcome.item.user.user_id} {outcome.item.row_key}\n")
        sys.stdout.flush()
        if written == asked.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with Registry.open(settings, clock) as registry:
        bench = Bench(settings, LocalStorage(asked.home / "lake"), registry, clock)
        target = get_target(settings, asked.target)
        bench.target = Watcher(outcome=count).watch(target, asked.batch_rows)
        bench.deliver()


if __name__ == "__main__":
    main()
