"""The registry: users, encrypted credentials, sync state, work lists, ledgers, leases, audit.

`Registry.open(settings)` is the way in; everything a caller needs is named here.
"""

from types import TracebackType
from typing import Self

from wearable_pipeline.registry.backfills import (
    Backfills,
    BackfillTotal,
    History,
    HistoryResult,
    Waiting,
)
from wearable_pipeline.registry.budgets import Allowance, Budgets, SetAside, Turns
from wearable_pipeline.registry.connect_sessions import ConnectSession, ConnectSessions
from wearable_pipeline.registry.credentials import Credentials
from wearable_pipeline.registry.database import Database, connect
from wearable_pipeline.registry.deliveries import (
    Deliveries,
    Delivery,
    DeliveryCounts,
    DeliveryStatus,
    WantedRow,
)
from wearable_pipeline.registry.erasure import AuditRow, Erasure
from wearable_pipeline.registry.events import (
    EVENT_TYPES,
    Events,
    EventType,
    NewEvent,
    StoredEvent,
)
from wearable_pipeline.registry.imports import Import, Imports
from wearable_pipeline.registry.inbox import Inbox
from wearable_pipeline.registry.keys import KeyRing
from wearable_pipeline.registry.leases import Lease
from wearable_pipeline.registry.ledger import (
    PartitionLedger,
    PartitionResult,
    PartitionRow,
    PartitionStatus,
    PartitionTotal,
)
from wearable_pipeline.registry.migration import upgrade
from wearable_pipeline.registry.store import Clock, utc_now
from wearable_pipeline.registry.sync import (
    DueUser,
    Freshness,
    SyncResult,
    SyncState,
    SyncStates,
)
from wearable_pipeline.registry.touched import Touched, TouchedPartitions, TouchedRow
from wearable_pipeline.registry.users import NewUser, Status, User, Users
from wearable_pipeline.registry.work import DueCohort, TouchedCell, Work
from wearable_pipeline.settings import Settings

__all__ = [
    "EVENT_TYPES",
    "Allowance",
    "AuditRow",
    "BackfillTotal",
    "Clock",
    "ConnectSession",
    "Delivery",
    "DeliveryCounts",
    "DeliveryStatus",
    "DueCohort",
    "DueUser",
    "EventType",
    "Freshness",
    "History",
    "HistoryResult",
    "Import",
    "Lease",
    "NewEvent",
    "NewUser",
    "PartitionResult",
    "PartitionRow",
    "PartitionStatus",
    "PartitionTotal",
    "Registry",
    "SetAside",
    "Status",
    "StoredEvent",
    "SyncResult",
    "SyncState",
    "Touched",
    "TouchedCell",
    "TouchedRow",
    "Turns",
    "User",
    "Waiting",
    "WantedRow",
    "utc_now",
]


class Registry(
    Users,
    Credentials,
    Budgets,
    SyncStates,
    TouchedPartitions,
    Work,
    Backfills,
    PartitionLedger,
    Deliveries,
    Events,
    Imports,
    ConnectSessions,
    Inbox,
    Erasure,
):
    """All the pipeline remembers besides the lake. Thread-safe; one per process is enough."""

    @classmethod
    def open(cls, settings: Settings, clock: Clock = utc_now) -> Self:
        """The registry of `settings`, made or upgraded if need be.

        Raises UsageError or TransientError, in one line, when the database cannot be used. The
        secret key is looked for when it is first needed.
        """
        database = Database(connect(settings.registry))
        try:
            upgrade(database)
        except BaseException:
            database.close()
            raise
        secret = settings.secret_key.get_secret_value() if settings.secret_key else None
        return cls(database, KeyRing(database, secret, settings.key_file), clock)

    def __repr__(self) -> str:
        return f"<Registry {self._db.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._db.close()
