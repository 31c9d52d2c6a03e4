"""The registry's tables, as the newest migration leaves them.

Only declarations. A change here needs a migration beside it (a test compares both) and a new
`SCHEMA_VERSION`. Names carry a prefix because a Postgres database may be shared with Dagster.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultExecutionContext

from wearable_pipeline.partitions import hash_user

SCHEMA_VERSION = "0002"
VERSION_TABLE = "wearable_version"

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An instant; aware in UTC on both databases. SQLite keeps it as text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse naive values: nobody knows which zone they mean."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the registry stores instants; got a datetime without a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give back aware UTC, whatever the session's zone is."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _owner() -> sa.Column[str]:
    return sa.Column(
        "user_id",
        sa.Text,
        sa.ForeignKey("wearable_users.user_id", ondelete="CASCADE"),
        nullable=False,
    )


def _hash_new_user(context: DefaultExecutionContext) -> int:
    return hash_user(context.get_current_parameters()["user_id"])  # type: ignore[no-untyped-call]


users = sa.Table(
    "wearable_users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("reference_id", sa.Text),
    sa.Column("account_hash", sa.Text),
    sa.Column("timezone", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_reason", sa.Text),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # What cohorts are counted out of, so that the database can group users by cohort.
    sa.Column(
        "user_hash",
        sa.BigInteger,
        nullable=False,
        default=_hash_new_user,
        server_default=sa.text("0"),
    ),
    sa.CheckConstraint(
        "status in ('connected', 'needs_reauth', 'revoked', 'disconnected')", name="status"
    ),
)
sa.Index("ix_wearable_users_reference", users.c.reference_id)
sa.Index("ix_wearable_users_provider", users.c.provider, users.c.status)
# Two people pressing "connect" at once must not leave two live connections of one account.
sa.Index(
    "uq_wearable_users_account",
    users.c.provider,
    users.c.account_hash,
    sa.text("coalesce(reference_id, '')"),
    unique=True,
    sqlite_where=sa.text("account_hash is not null and status in ('connected', 'needs_reauth')"),
    postgresql_where=sa.text(
        "account_hash is not null and status in ('connected', 'needs_reauth')"
    ),
)

credentials = sa.Table(
    "wearable_credentials",
    metadata,
    _owner(),
    sa.Column("token", sa.LargeBinary, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("user_id"),
)

sync_state = sa.Table(
    "wearable_sync_state",
    metadata,
    _owner(),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    sa.Column("last_attempt_at", UtcDateTime),
    sa.Column("last_success_at", UtcDateTime),
    sa.Column("newest_reading_at", UtcDateTime),
    sa.Column("next_due_at", UtcDateTime),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("error_class", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("locked_until", UtcDateTime),
    # Fingerprints of the last answer's items; absent means that everything is read and compared.
    sa.Column("seen", sa.LargeBinary),
    sa.PrimaryKeyConstraint("user_id"),
)
sa.Index("ix_wearable_sync_state_due", sync_state.c.provider, sync_state.c.next_due_at)

touched = sa.Table(
    "wearable_touched",
    metadata,
    sa.Column("table_name", sa.Text, nullable=False),
    _owner(),
    sa.Column("date", sa.Date, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("touched_at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("user_id", "table_name", "date"),
)
sa.Index("ix_wearable_touched_version", touched.c.version)

partitions = sa.Table(
    "wearable_partitions",
    metadata,
    _owner(),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("date", sa.Date, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("samples", sa.BigInteger, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),
    sa.Column("content_hash", sa.Text),
    sa.Column("newest_at", UtcDateTime),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error_class", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("user_id", "table_name", "date", "provider"),
    sa.CheckConstraint("status in ('ok', 'failed', 'empty')", name="status"),
)
sa.Index("ix_wearable_partitions_date", partitions.c.table_name, partitions.c.date)
sa.Index("ix_wearable_partitions_code", partitions.c.code_version)
sa.Index(
    "ix_wearable_partitions_failed",
    partitions.c.status,
    sqlite_where=sa.text("status = 'failed'"),
    postgresql_where=sa.text("status = 'failed'"),
)

deliveries = sa.Table(
    "wearable_deliveries",
    metadata,
    sa.Column("destination", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    _owner(),
    sa.Column("row_key", sa.Text, nullable=False),
    sa.Column("date", sa.Date, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False),
    sa.Column("wanted_hash", sa.Text, nullable=False),
    sa.Column("ordering_timestamp", sa.BigInteger, nullable=False),
    sa.Column("trace_id", sa.Text, nullable=False),
    sa.Column("wanted_at", UtcDateTime, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", UtcDateTime, nullable=False),
    sa.Column("last_error", sa.Text),
    sa.Column("delivered_hash", sa.Text),
    sa.Column("delivered_timestamp", sa.BigInteger),
    sa.Column("delivered_at", UtcDateTime),
    sa.Column("claim", sa.Text),
    sa.Column("claimed_until", UtcDateTime),
    sa.Column("reference", sa.Text),
    sa.Column("chunk", sa.Integer),
    sa.PrimaryKeyConstraint("user_id", "destination", "table_name", "row_key"),
    sa.CheckConstraint("status in ('pending', 'delivered', 'parked')", name="status"),
)
sa.Index(
    "ix_wearable_deliveries_pending",
    deliveries.c.destination,
    deliveries.c.date,
    deliveries.c.ordering_timestamp,
    sqlite_where=sa.text("status = 'pending'"),
    postgresql_where=sa.text("status = 'pending'"),
)
sa.Index("ix_wearable_deliveries_status", deliveries.c.destination, deliveries.c.status)

# History still to be read: days `start` to `upto` of a user, newest first; `upto` goes back as it is done.
backfills = sa.Table(
    "wearable_backfills",
    metadata,
    _owner(),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("start", sa.Date, nullable=False),
    sa.Column("upto", sa.Date, nullable=False),
    # The window `upto` falls into: users whose next window is the same go into one run.
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("start_slot", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("is_forced", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", UtcDateTime, nullable=False),
    sa.Column("error_class", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("user_id"),
    sa.CheckConstraint("status in ('pending', 'done', 'failed')", name="status"),
)
sa.Index(
    "ix_wearable_backfills_pending",
    backfills.c.slot,
    backfills.c.next_attempt_at,
    sqlite_where=sa.text("status = 'pending'"),
    postgresql_where=sa.text("status = 'pending'"),
)

sa.Index(
    "ix_wearable_deliveries_reference",
    deliveries.c.reference,
    deliveries.c.chunk,
    sqlite_where=sa.text("reference is not null"),
    postgresql_where=sa.text("reference is not null"),
)

events = sa.Table(
    "wearable_events",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False),
    _owner(),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Column("destination", sa.Text),
    sa.Column("at", UtcDateTime, nullable=False),
)
sa.Index("uq_wearable_events_event_id", events.c.event_id, unique=True)
sa.Index("ix_wearable_events_user", events.c.user_id)

leases = sa.Table(
    "wearable_leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

# Requests per second are epoch seconds here: a process that reserves some moves `next_at` on.
budgets = sa.Table(
    "wearable_budgets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("blocked_until", sa.Double, nullable=False),
)

imports = sa.Table(
    "wearable_imports",
    metadata,
    _owner(),
    sa.Column("file_hash", sa.Text, nullable=False),
    sa.Column("importer", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("user_id", "file_hash", "importer"),
)

# `sealed` is encrypted; the state a browser carries is stored as a hash only.
connect_sessions = sa.Table(
    "wearable_connect_sessions",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("used_at", UtcDateTime),
    sa.Column("user_id", sa.Text, sa.ForeignKey("wearable_users.user_id", ondelete="CASCADE")),
    sa.Column("error", sa.Text),
)

# Signed pushes already stored: the same one again within its tolerance is not stored twice.
pushes_seen = sa.Table(
    "wearable_pushes_seen",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("until", UtcDateTime, nullable=False),
)
sa.Index("ix_wearable_pushes_seen_until", pushes_seen.c.until)

push_subscriptions = sa.Table(
    "wearable_push_subscriptions",
    metadata,
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("subscription_id", sa.Text, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("expires_at", UtcDateTime),
    sa.PrimaryKeyConstraint("provider", "subscription_id"),
)

audit = sa.Table(
    "wearable_audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject_hash", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)

# One row per counter; the row lock puts writers in line, so a higher number was committed later.
counters = sa.Table(
    "wearable_counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

# `account` is encrypted with the secret key, and so proves that a key is the right one.
salts = sa.Table(
    "wearable_salts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

# Every table with rows of a user, children before their parent.
USER_TABLES = (
    credentials,
    sync_state,
    touched,
    partitions,
    deliveries,
    events,
    imports,
    backfills,
    connect_sessions,
    users,
)
