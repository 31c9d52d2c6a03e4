"""What a process does that cuts a lake anew, and may be killed at it."""

from datetime import datetime

from wearable_pipeline.lake.repartition import repartition
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers.forked import Tell


def cut_anew(tell: Tell, settings: Settings, cohorts: int | None, at: datetime) -> None:
    """Cut the lake into `cohorts`, the clock standing still."""
    repartition(settings, cohorts, now=lambda: at)
    tell("done")
