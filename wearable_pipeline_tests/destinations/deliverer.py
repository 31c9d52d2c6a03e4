"""Deliveries to a target of a TOML file, by a process to be killed or through a filter.

As a script, `deliverer.py TOML TARGET ROWS`, it delivers and then hangs. It writes a line for every
outcome and never ends by itself, as if the ledger had not been told yet.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of
from wearable_pipeline_tests.destinations.bench import Bench, body_row

TOML = "destinations.toml"
A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"


def deliver_and_die(folder: Path, toml: str, target: str, rows: int, after: int) -> None:
    """Have another process deliver `rows` rows; it is killed once it knows of `after` outcomes."""
    file = folder / TOML
    file.write_text(toml)
    command = [sys.executable, __file__, str(file), target, str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    assert told == ["delivered\n"] * after


def send_filtered(bench: Bench, folder: Path, toml: str) -> None:
    """Note a day of A and of B for the one target of `toml`, then deliver."""
    file = folder / TOML
    file.write_text(toml)
    bench.settings = bench.settings.model_copy(
        update={"destinations_file": file, "webhook_url": None}
    )
    (bench.target,) = configured(bench.settings).values()
    for user_id in (A, B):
        bench.add_user(user_id)
    bench.note(body_row(A, [100]), body_row(B, [100]))
    assert bench.deliver().delivered == 1


if __name__ == "__main__":
    settings = Settings(home=Path(sys.argv[1]).parent, destinations_file=Path(sys.argv[1]))
    with get_target(settings, sys.argv[2]).open() as sender:
        for outcome in sender.deliver(batch_of(int(sys.argv[3]))):
            print(outcome.kind, flush=True)  # noqa: T201
        time.sleep(600)
