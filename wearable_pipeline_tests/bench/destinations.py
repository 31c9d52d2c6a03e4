"""A backfill of 1,000,000 glucose samples (people's days of 144 samples each) to every kind of destination.

`backfill` is all of it: noted in the ledger, claimed, read from the lake, sent, acknowledged. `send` is the
sender alone, from frames to outcomes. The peer of both is the plain client's bulk insert of the same rows
without ledger, order of revisions or outcome per row (how: see each figure): of frames for SQL, of Python
dicts that are there already for the others, written as JSON by orjson where the client wants bytes.

Servers are processes of the same machine and take part of its time: PostgreSQL; moto (S3, SQS), Azurite, a
GCS server and a Firestore double of ours, nx-27017 (MongoDB), librdkafka's mock cluster, a webhook receiver.
Their absolute rates are not those of the real ones; the ratio says what we add.
"""

import statistics
from pathlib import Path

import pytest

from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.destinations.counterparts import COUNTERPARTS
from wearable_pipeline_tests.destinations.rates import Rates

SAMPLES_PER_ROW = 144
# Servers keep what they get in memory: each round has its own.
MOST_ROUNDS = 3
_SESSION = Path(__file__).parents[1] / "destinations" / "rates.py"


def measure(scale: Scale) -> list[Figure]:
    """Rows a second of every kind beside its plain client."""
    samples = scale.of(1_000_000, 5_000)
    rows = -(-samples // SAMPLES_PER_ROW)
    kinds = sorted(COUNTERPARTS)
    found: list[Rates] = []
    for turn in range(min(scale.rounds, MOST_ROUNDS)):
        for group in [kinds] if scale.short else [[kind] for kind in kinds]:
            rates = Rates(group, rows, turn)
            run_session(rates)
            found.append(rates)
    return [figure for kind in kinds for figure in figures(kind, rows, found)]


def run_session(rates: Rates) -> None:
    """Measure with servers of its own. RuntimeError when a kind did not end well."""
    arguments = ["-q", "--no-header", "-p", "no:cacheprovider", str(_SESSION)]
    status = pytest.main(arguments, plugins=[rates])
    if status != pytest.ExitCode.OK:
        raise RuntimeError(f"{', '.join(rates.kinds)}: not measured; pytest {status.name}")


def figures(kind: str, rows: int, found: list[Rates]) -> list[Figure]:
    """What the rounds say in the middle; nothing of a kind whose server is not installed."""
    measured = [rates for rates in found if "plain" in rates.seconds.get(kind, {})]
    if not measured:
        return []

    def rate(way: str) -> float:
        return rows / statistics.median(rates.seconds[kind][way] for rates in measured)

    peer = measured[0].peers[kind]
    return [
        Figure(
            f"{way}_rows_per_second: {kind}",
            rate(way),
            "1/s",
            peer,
            rate("plain"),
            note=f"{rate(way) * SAMPLES_PER_ROW:,.0f} samples/s",
        )
        for way in ("backfill", "send")
    ]
