"""Everything a step works with, opened from the settings: registry, lake, clock.

Opened where work starts (a command, an asset, a sensor tick) and handed down, so that the steps
themselves read neither environment nor wall clock.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from wearable_pipeline.errors import PipelineError, UsageError
from wearable_pipeline.lake.layout import check_manifest
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Members, Partition, Scheme
from wearable_pipeline.raw.store import RawStore
from wearable_pipeline.registry import Registry, User
from wearable_pipeline.settings import Settings, load_settings

Clock = Callable[[], datetime]


WRITER = "writer:"
# A holder that was killed is in nobody's way for longer.
LEASE = timedelta(minutes=5)


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Lake:
    """Where tables are read from and written to."""

    storage: Storage
    raw: RawStore
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class Workspace:
    """The opened parts of one installation."""

    settings: Settings
    registry: Registry
    lake: Lake
    now: Clock

    def users_in(
        self, cells: Iterable[Partition], provider: str | None, user_ids: Collection[str] = ()
    ) -> list[User]:
        """The users whose cohorts `cells` cover; `user_ids`, unless empty, narrows them."""
        members = self.members_in(cells)
        if user_ids:
            members = members.narrowed(user_ids)
        return self.registry.find_users(provider=provider, members=members)

    def members_in(self, cells: Iterable[Partition]) -> Members:
        """The users whose cohorts `cells` cover, without naming more of them than need be."""
        return self.lake.scheme.members_of({cell.cohort for cell in cells})

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say, for the block, that the lake is written to, so that nobody cuts it anew meanwhile.

        Raises UsageError when somebody is just doing that.
        """
        with keep_lease(self.registry, f"{WRITER}{uuid.uuid4()}"):
            # After the lease: whoever cuts the lake marks it first and looks for leases then.
            check_manifest(self.lake.storage, self.settings.cohorts)
            yield


@contextmanager
def keep_lease(registry: Registry, name: str) -> Iterator[bool]:
    """Hold a lease for the block, renewed in the background; False when somebody else has it."""
    owner = str(uuid.uuid4())
    if not registry.lease(name, owner, LEASE):
        yield False
        return
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE.total_seconds() / 5):
            # A database that is away for a moment is no reason to stop: the next turn is soon.
            with suppress(PipelineError):
                registry.renew(name, owner, LEASE)

    keeper = threading.Thread(target=renew, name=f"lease {name}", daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        over.set()
        keeper.join()
        registry.release_lease(name, owner)


@contextmanager
def open_workspace(settings: Settings | None = None, now: Clock = utc_now) -> Iterator[Workspace]:
    """Open registry and lake; close them at the end.

    Raises UsageError or StorageError with one line saying what cannot be opened and what to do.
    """
    settings = settings or load_settings()
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot create {settings.home}: {error.strerror}; set WEARABLE_HOME to a folder you may write"
        ) from None
    storage = Storage.open(settings.lake, settings)
    scheme = check_manifest(storage, settings.cohorts).scheme
    registry = Registry.open(settings, clock=now)
    try:
        yield Workspace(settings, registry, Lake(storage, RawStore(storage, scheme), scheme), now)
    finally:
        registry.close()
