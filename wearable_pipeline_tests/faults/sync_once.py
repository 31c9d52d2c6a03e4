"""What a process does that fetches, normalizes and delivers once: what the tests kill."""

from collections.abc import Sequence
from datetime import datetime

from wearable_pipeline.settings import load_settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.faults.cast import sync
from wearable_pipeline_tests.servers.forked import Tell


def sync_once(tell: Tell, user_ids: Sequence[str], now: datetime) -> None:
    """Do it for the users at that instant, with the settings of the environment."""
    with open_workspace(load_settings(), lambda: now) as workspace:
        users = [workspace.registry.get_user(user_id) for user_id in user_ids]
        sync(workspace, users, days=0)
    tell("done")
