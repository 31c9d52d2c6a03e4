"""What one of many processes does that open a fresh registry at once."""

from datetime import date

from wearable_pipeline.registry import Registry, Touched
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers.forked import Tell


def open_and_add(tell: Tell, settings: Settings, number: int) -> None:
    """Open the registry, add a user and mark a day of theirs five times."""
    with Registry.open(settings) as registry:
        registry.add_user("oura", user_id=f"u{number}", credentials={"n": str(number)})
        for _ in range(5):
            registry.mark_touched([Touched("body", f"u{number}", date(2026, 11, 20))])
    tell("done")
