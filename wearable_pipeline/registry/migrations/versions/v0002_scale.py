"""What more users, more machines and more doors need."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add it. There is no way back: restore a backup instead."""
