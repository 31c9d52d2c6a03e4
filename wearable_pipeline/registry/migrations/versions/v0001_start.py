"""Users, credentials, sync state, work lists, ledgers, leases, imports, audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)
LIVE_ACCOUNT = "account_hash is not null and status in ('connected', 'needs_reauth')"


def upgrade() -> None:
    """Create everything. There is no way back: restore a backup instead."""
    op.create_table(
        "wearable_audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject_hash", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wearable_audit"),
    )
    op.create_table(
        "wearable_counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_wearable_counters"),
    )
    op.create_table(
        "wearable_leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_wearable_leases"),
    )
    op.create_table(
        "wearable_salts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_wearable_salts"),
    )
    op.create_table(
        "wearable_users",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("reference_id", sa.Text()),
        sa.Column("account_hash", sa.Text()),
        sa.Column("timezone", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "status in ('connected', 'needs_reauth', 'revoked', 'disconnected')",
            name="ck_wearable_users_status",
        ),
        sa.PrimaryKeyConstraint("user_id", name="pk_wearable_users"),
    )
    op.create_index("ix_wearable_users_provider", "wearable_users", ["provider", "status"])
    op.create_index("ix_wearable_users_reference", "wearable_users", ["reference_id"])
    op.create_index(
        "uq_wearable_users_account",
        "wearable_users",
        ["provider", "account_hash", sa.text("coalesce(reference_id, '')")],
        unique=True,
        sqlite_where=sa.text(LIVE_ACCOUNT),
        postgresql_where=sa.text(LIVE_ACCOUNT),
    )
    op.create_table(
        "wearable_credentials",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_credentials_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name="pk_wearable_credentials"),
    )
    op.create_table(
        "wearable_deliveries",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("wanted_hash", sa.Text(), nullable=False),
        sa.Column("ordering_timestamp", sa.BigInteger(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=False),
        sa.Column("wanted_at", INSTANT, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.Column("delivered_hash", sa.Text()),
        sa.Column("delivered_timestamp", sa.BigInteger()),
        sa.Column("delivered_at", INSTANT),
        sa.Column("claim", sa.Text()),
        sa.Column("claimed_until", INSTANT),
        sa.CheckConstraint(
            "status in ('pending', 'delivered', 'parked')", name="ck_wearable_deliveries_status"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_deliveries_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "user_id", "destination", "table_name", "row_key", name="pk_wearable_deliveries"
        ),
    )
    op.create_index(
        "ix_wearable_deliveries_pending",
        "wearable_deliveries",
        ["destination", "date", "ordering_timestamp"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_wearable_deliveries_status", "wearable_deliveries", ["destination", "status"]
    )
    op.create_table(
        "wearable_imports",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("file_hash", sa.Text(), nullable=False),
        sa.Column("importer", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_imports_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "file_hash", "importer", name="pk_wearable_imports"),
    )
    op.create_table(
        "wearable_partitions",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("content_hash", sa.Text()),
        sa.Column("newest_at", INSTANT),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_class", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("code_version", sa.Text(), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "status in ('ok', 'failed', 'empty')", name="ck_wearable_partitions_status"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_partitions_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "user_id", "table_name", "date", "provider", name="pk_wearable_partitions"
        ),
    )
    op.create_index("ix_wearable_partitions_code", "wearable_partitions", ["code_version"])
    op.create_index("ix_wearable_partitions_date", "wearable_partitions", ["table_name", "date"])
    op.create_index(
        "ix_wearable_partitions_failed",
        "wearable_partitions",
        ["status"],
        sqlite_where=sa.text("status = 'failed'"),
        postgresql_where=sa.text("status = 'failed'"),
    )
    op.create_table(
        "wearable_sync_state",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("last_attempt_at", INSTANT),
        sa.Column("last_success_at", INSTANT),
        sa.Column("newest_reading_at", INSTANT),
        sa.Column("next_due_at", INSTANT),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error_class", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("locked_until", INSTANT),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_sync_state_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", name="pk_wearable_sync_state"),
    )
    op.create_index(
        "ix_wearable_sync_state_due", "wearable_sync_state", ["provider", "next_due_at"]
    )
    op.create_table(
        "wearable_touched",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["wearable_users.user_id"],
            name="fk_wearable_touched_user_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_id", "table_name", "date", name="pk_wearable_touched"),
    )
    op.create_index("ix_wearable_touched_version", "wearable_touched", ["version"])
    op.execute("insert into wearable_counters (name, value) values ('touched', 0)")
