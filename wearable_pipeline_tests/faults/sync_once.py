"""A process that fetches, normalizes and delivers once: what the tests kill.

Says `ready` when its imports are done and begins when it is told to.
"""

import argparse
import sys
from datetime import datetime

from wearable_pipeline.settings import load_settings
from wearable_pipeline.workspace import open_workspace
from wearable_pipeline_tests.faults.cast import sync


def main() -> None:
    """Do it for the users and at the instant of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--now", type=datetime.fromisoformat, required=True)
    parser.add_argument("--days", type=int, default=0)
    parser.add_argument("user_ids", nargs="+")
    asked = parser.parse_args()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with open_workspace(load_settings(), lambda: asked.now) as workspace:
        users = [workspace.registry.get_user(user_id) for user_id in asked.user_ids]
        sync(workspace, users, asked.days)
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
