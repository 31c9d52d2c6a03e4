"""Deliveries to a target of a TOML file, by a process to be killed or through a filter."""

import signal
import time
from pathlib import Path

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of
from wearable_pipeline_tests.destinations.bench import Bench, body_row
from wearable_pipeline_tests.servers.forked import Tell, fork

TOML = "destinations.toml"
A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"


def deliver_and_die(folder: Path, toml: str, target: str, rows: int, after: int) -> None:
    """Have another process deliver `rows` rows; it is killed once it knows of `after` outcomes."""
    file = folder / TOML
    file.write_text(toml)
    child = fork(_deliver_and_hang, file, target, rows).begin()
    told = [child.hear() for _ in range(after)]
    child.kill()
    assert child.process.exitcode == -signal.SIGKILL
    assert told == ["delivered"] * after


def _deliver_and_hang(tell: Tell, file: Path, target: str, rows: int) -> None:
    """Tell every outcome and never end, as if the ledger had not been told yet."""
    settings = Settings(home=file.parent, destinations_file=file)
    with get_target(settings, target).open() as sender:
        for outcome in sender.deliver(batch_of(rows)):
            tell(outcome.kind)
        time.sleep(600)


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
