"""Requests: what a five-minute cycle asks of the object storage, and what a user's day takes there.

People of the sandbox in one cohort, a day of history, then cycles five minutes apart through fetch,
normalize and deliver; every call to the storage is counted by the kind object stores bill: writes, reads,
listings. Requests go by cohort, not by user, so a cohort of two people costs what one of 1,500 does. Bytes
are those of whole days of glucose every five minutes. Peer: the fewest requests that keep raw and replace
one table file (write both, read the old one back).
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from wearable_pipeline.lake.storage import LocalStorage
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.bench._figures import Figure, Scale
from wearable_pipeline_tests.faults.cast import connect_people, sync

_NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
_KINDS = {
    "create": "writes",
    "replace": "writes",
    "put": "writes",
    "read": "reads",
    "read_versioned": "reads",
    "read_range": "reads",
    "version": "reads",
    "list": "listings",
    "list_prefixes": "listings",
}
_SECRET = "secret-of-the-bench"
_FEWEST = {"writes": 2.0, "reads": 1.0, "listings": 1.0}


def measure(scale: Scale) -> list[Figure]:
    """Count over some cycles; the last one is reported, and how much each added to the one before."""
    cycles = scale.of(12, 4)
    counted: list[Counter[str]] = []
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wearable-requests-")))
        sandbox = stack.enter_context(SandboxProcess(now=_NOON))
        receiver = stack.enter_context(Receiver(_SECRET))
        now = _NOON
        settings = Settings(
            _env_file=None,
            home=home,
            cohorts=1,
            webhook_url=receiver.url,
            webhook_secret=_SECRET,
            webhook_allow_private=True,
        )
        workspace = stack.enter_context(open_workspace(settings, lambda: now))
        users = list(connect_people(workspace, sandbox, ("dag", "esi")).values())
        sync(workspace, users, days=2)
        for _ in range(cycles):
            now += timedelta(minutes=5)
            sandbox.set_clock(now)
            with _counting() as count:
                sync(workspace, users, days=0)
            counted.append(count)
        sizes = {
            kind: _bytes_of_a_day(home / "lake" / kind, _NOON - timedelta(days=1), len(users))
            for kind in ("raw", "body")
        }
    last, growth = counted[-1], counted[-1] - counted[0]
    figures = [
        Figure(
            f"requests_{kind}",
            float(last[kind]),
            "per cohort and cycle",
            "fewest possible",
            fewest,
            "lower",
            note=f"in cycle {cycles}; {(growth[kind]) / (cycles - 1):.2f} more with every cycle",
        )
        for kind, fewest in _FEWEST.items()
    ]
    figures.append(
        Figure(
            "bytes_user_day",
            sizes["raw"] + sizes["body"],
            "bytes",
            "288 readings as (time, value) of 12 bytes",
            288 * 12.0,
            "lower",
            note=f"raw {sizes['raw']:,.0f}, table {sizes['body']:,.0f}, in cohorts of {len(users)}",
        )
    )
    return figures


@contextmanager
def _counting() -> Iterator[Counter[str]]:
    """Counts the calls of the storage by what they are billed as."""
    count: Counter[str] = Counter()

    def counted(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[kind] += 1
            return function(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for name, kind in _KINDS.items():
            real = getattr(LocalStorage, name)
            stack.enter_context(mock.patch.object(LocalStorage, name, counted(real, kind)))
        yield count


def _bytes_of_a_day(folder: Path, day: datetime, users: int) -> float:
    files = [path for path in folder.rglob("*.parquet") if f"date={day:%Y-%m-%d}" in path.parts]
    return sum(path.stat().st_size for path in files) / users
