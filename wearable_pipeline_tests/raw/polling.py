"""What a process does that polls the users it is told, several times at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.servers.forked import Tell


def poll_at_once(tell: Tell, times: int, user_ids: Sequence[str]) -> None:
    """Poll `times` at once; told are the error classes of each poll, one word a poll."""
    with open_workspace() as workspace:
        provider = get_provider("freestyle_libre")
        users = workspace.registry.find_users(user_ids=user_ids)

        def ask(_: int) -> PollReport:
            now = workspace.now()
            return poll(workspace, provider, users, Window(now.date(), now.date(), now))

        with ThreadPoolExecutor(times) as pool:
            for report in pool.map(ask, range(times)):
                tell(",".join(sorted(error_class for error_class, _ in report.failures.values())))
