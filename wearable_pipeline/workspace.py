"""Everything a step works with, opened from the settings: registry, lake, clock.

Opened where work starts (a command, an asset, a sensor tick) and handed down, so that the steps
themselves read neither environment nor wall clock.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from wearable_pipeline.errors import UsageError
from wearable_pipeline.lake.layout import check_manifest
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.raw.store import RawStore
from wearable_pipeline.registry import Registry, User
from wearable_pipeline.settings import Settings, load_settings

Clock = Callable[[], datetime]


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
        cohorts = {cell.cohort for cell in cells}
        if self.lake.scheme.cohorts is None:
            wanted = cohorts & set(user_ids) if user_ids else cohorts
            return self.registry.find_users(provider=provider, user_ids=sorted(wanted))
        found = self.registry.find_users(provider=provider, user_ids=sorted(user_ids) or None)
        return [user for user in found if self.lake.scheme.cohort_of(user.user_id) in cohorts]


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
    scheme = Scheme(settings.cohorts)
    check_manifest(storage, scheme)
    registry = Registry.open(settings, clock=now)
    try:
        yield Workspace(settings, registry, Lake(storage, RawStore(storage, scheme), scheme), now)
    finally:
        registry.close()
