"""Dagster's Celery run launcher, which also notices workers that are gone with their machine.

Celery tells when a worker's child process died, because its parent says so. When the parent goes too
nobody says anything: the task stays STARTED, and with it the run, its lane and its people's readings.
So a run whose worker no longer answers counts as dead, and the next tick takes over what it left.
"""

import warnings
from collections.abc import Collection

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

# The base class declares its task anew at every launch.
warnings.filterwarnings("ignore", message="Task name 'execute_job' is already registered")

ANSWER_SECONDS = 2.0
ASKED_TIMES = 3


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """Named in `dagster.yaml`; configured like `dagster_celery.CeleryRunLauncher`."""

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker is there. Asked by run monitoring of runs that are STARTED."""
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if task_id is None:
            # The daemon died between handing the run over and noting where: only its runtime is bounded.
            return CheckRunHealthResult(WorkerStatus.RUNNING, "no task is noted for this run")
        task = self.celery.AsyncResult(task_id)
        state, told = task.state, task.info
        if state == "SUCCESS":
            # The task ends after the run's last event, so a run that is still STARTED never had one.
            return CheckRunHealthResult(WorkerStatus.FAILED, "the task ended and the run did not")
        if state != "STARTED":
            return super().check_run_worker_health(run)
        worker = told.get("hostname") if isinstance(told, dict) else None
        if worker is None or self._answers(worker, task_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"worker {worker} no longer has the run")

    def _answers(self, worker: str, task_id: str) -> bool:
        """Whether `worker` says it works on the task; three silences make a no."""
        for _ in range(ASKED_TIMES):
            told = self.celery.control.inspect([worker], timeout=ANSWER_SECONDS).query_task(task_id)
            if told and worker in told:
                # A worker that was started again under the same name knows nothing of the task.
                return _knows(told[worker], task_id)
        return False


def _knows(tasks: object, task_id: str) -> bool:
    return isinstance(tasks, Collection) and task_id in tasks
