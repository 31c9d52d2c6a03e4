"""The command line: what a person types, and the one clear line they get when it cannot be done.

Exit codes: 0 done, 1 failed for good, 2 the call or its input is wrong, 3 not connected, 4 try again later,
5 a body or file is not what it should be, 6 the lake cannot be read or written.
"""

# Each module adds its commands; this order is that of `--help`.
from wearable_pipeline.cli import (  # isort: skip
    start,
    users,
    sync,
    lake,
    destinations,
    push,
    status,
    machine,
)
from wearable_pipeline.cli._console import app

__all__ = ["app", "destinations", "lake", "machine", "push", "start", "status", "sync", "users"]
