"""A process that polls the users it is told, several times at once, when it is told to begin."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.workspace import open_workspace


def _main() -> None:
    times, user_ids = int(sys.argv[1]), sys.argv[2:]
    with open_workspace() as workspace:
        provider = get_provider("freestyle_libre")
        users = workspace.registry.find_users(user_ids=user_ids)

        def ask(_: int) -> PollReport:
            now = workspace.now()
            return poll(workspace, provider, users, Window(now.date(), now.date(), now))

        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        with ThreadPoolExecutor(times) as pool:
            reports = list(pool.map(ask, range(times)))
    told = [sorted(error_class for error_class, _ in one.failures.values()) for one in reports]
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main()
