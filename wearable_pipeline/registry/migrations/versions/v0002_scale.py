"""What more users, more machines and more doors need."""

from datetime import date

import sqlalchemy as sa
from alembic import op

from wearable_pipeline.partitions import hash_user

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add it. There is no way back: restore a backup instead."""
    op.create_table(
        "wearable_connect_sessions",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True)),
        sa.Column("user_id", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_connect_sessions_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", name="pk_wearable_connect_sessions"),
    )
    op.create_table(
        "wearable_pushes_seen",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_wearable_pushes_seen"),
    )
    op.create_index("ix_wearable_pushes_seen_until", "wearable_pushes_seen", ["until"])
    op.create_table(
        "wearable_push_subscriptions",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint(
            "provider", "subscription_id", name="pk_wearable_push_subscriptions"
        ),
    )
    op.add_column(
        "wearable_users",
        sa.Column("user_hash", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    )
    known = op.get_bind().execute(sa.text("select user_id from wearable_users")).scalars().all()
    if known:
        op.get_bind().execute(
            sa.text("update wearable_users set user_hash = :hash where user_id = :user_id"),
            [{"user_id": user_id, "hash": hash_user(user_id)} for user_id in known],
        )
    op.create_table(
        "wearable_backfills",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("start", sa.Date(), nullable=False),
        sa.Column("upto", sa.Date(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("start_slot", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_forced", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error_class", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status in ('pending', 'done', 'failed')", name="ck_wearable_backfills_status"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_backfills_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name="pk_wearable_backfills"),
    )
    # History of those who are there already is not read all over again; `backfill` can ask for it.
    today = date.today()  # noqa: DTZ011 - any recent day will do
    op.get_bind().execute(
        sa.text(
            "insert into wearable_backfills (user_id, provider, start, upto, slot, start_slot, status,"
            " is_forced, attempts, next_attempt_at, requested_at, updated_at)"
            " select user_id, provider, :day, :day, :slot, :slot, 'done', :no, 0, created_at,"
            " created_at, created_at from wearable_users"
        ).bindparams(
            sa.bindparam("day", today, type_=sa.Date),
            sa.bindparam("slot", today.toordinal() // 28, type_=sa.Integer),
            sa.bindparam("no", False, type_=sa.Boolean),
        )
    )
    op.create_index(
        "ix_wearable_backfills_pending",
        "wearable_backfills",
        ["slot", "next_attempt_at"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.add_column("wearable_deliveries", sa.Column("reference", sa.Text()))
    op.add_column("wearable_deliveries", sa.Column("chunk", sa.Integer()))
    op.create_index(
        "ix_wearable_deliveries_reference",
        "wearable_deliveries",
        ["reference", "chunk"],
        sqlite_where=sa.text("reference is not null"),
        postgresql_where=sa.text("reference is not null"),
    )
    op.create_table(
        "wearable_events",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("destination", sa.Text()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_events_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_wearable_events"),
    )
    op.create_index("uq_wearable_events_event_id", "wearable_events", ["event_id"], unique=True)
    op.create_index("ix_wearable_events_user", "wearable_events", ["user_id"])
    op.execute("insert into wearable_counters (name, value) values ('events', 0)")
    op.add_column("wearable_sync_state", sa.Column("seen", sa.LargeBinary()))
    op.create_table(
        "wearable_budgets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("blocked_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_wearable_budgets"),
    )
