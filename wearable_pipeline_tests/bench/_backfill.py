"""The run of the backfill bench: a process that reads weeks of history for all users it finds.

Started with the environment of an installation and the days to read; answers with a JSON line.
"""

import json
import sys
import time
from dataclasses import replace
from datetime import date, datetime

from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import Window
from wearable_pipeline.raw.history import HISTORY_SHARE
from wearable_pipeline.raw.poll import poll
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.bench._cycle import peak_mb

PROVIDER = "oura"
CONCURRENCY = get_provider(PROVIDER).max_concurrency


def _main() -> None:
    now = datetime.fromisoformat(sys.argv[1])
    start, end = (date.fromisoformat(text) for text in sys.argv[2:4])
    # The pace agreed with the provider is not what is measured.
    provider = replace(get_provider(PROVIDER), requests_per_second=1e6, quotas=())
    with open_workspace(now=lambda: now) as workspace:
        users = workspace.registry.find_users(PROVIDER)
        started, cpu = time.perf_counter(), time.process_time()
        report = poll(workspace, provider, users, Window(start, end, now), share=HISTORY_SHARE)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    sys.stdout.write(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "peak_mb": peak_mb(),
                "users": report.users,
                "records": report.appended.new,
                "failures": {user_id: told[0] for user_id, told in report.failures.items()},
            }
        )
    )


if __name__ == "__main__":
    _main()
