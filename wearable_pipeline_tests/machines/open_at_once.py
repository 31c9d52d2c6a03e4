"""Opens a home and a registry nobody has opened yet, in several processes in the same moment.

Arguments: how many, then the folder of each; the rest by environment variables. Prints what went wrong.
Imports once and forks, because importing is the slow part.
"""

import multiprocessing
import os
import sys
import traceback
from multiprocessing.synchronize import Barrier
from pathlib import Path

from wearable_pipeline.orchestration.instance import open_instance
from wearable_pipeline.settings import load_settings
from wearable_pipeline.workspace import open_workspace


def open_everything(name: str, folder: Path, barrier: Barrier) -> None:
    """What a process of the deployment does at its start, and one write of its own."""
    os.environ["WEARABLE_HOME"] = str(folder)
    barrier.wait(60)
    try:
        settings = load_settings()
        with open_instance(settings) as instance, open_workspace(settings) as workspace:
            instance.add_dynamic_partitions("users", [name])
            workspace.registry.add_user("nightscout", user_id=name)
    except BaseException:  # noqa: BLE001 - whatever it is, the test wants to read it
        sys.stdout.write(traceback.format_exc())
        sys.stdout.flush()
        os._exit(1)


def main(folders: list[Path]) -> None:
    """Forks one process a folder."""
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(len(folders))
    processes = [
        fork.Process(target=open_everything, args=(f"u{number}", folder, barrier))
        for number, folder in enumerate(folders)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
