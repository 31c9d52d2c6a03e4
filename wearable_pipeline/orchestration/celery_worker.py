"""A Celery worker that runs what Dagster's daemon hands over, with the broker of `dagster.yaml`.

    celery -A wearable_pipeline.orchestration.celery_worker worker

Each of its processes imports the definitions before the first run, so that a run starts in a moment.
The import happens in the child: threads that libraries start at import do not survive a fork.
"""

import importlib

import dagster as dg
from celery import Celery
from celery.signals import worker_process_init
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from wearable_pipeline.errors import UsageError

# The import takes longer than the four seconds Celery grants a new child.
CHILD_START_SECONDS = 120.0


def build_app() -> Celery:
    """The Celery app of the instance's run launcher, with the tasks that execute runs."""
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, CeleryRunLauncher):
            raise UsageError(
                f"the dagster.yaml in DAGSTER_HOME launches runs by {type(launcher).__name__},"
                " so a Celery worker would never get one; see docs/deploy.md"
            )
        made: Celery = launcher.celery
    made.conf.worker_proc_alive_timeout = CHILD_START_SECONDS
    create_execute_job_task(made)
    create_resume_job_task(made)
    return made


def load_definitions(**_: object) -> None:
    """Import in this child what its first run would."""
    importlib.import_module("wearable_pipeline.definitions")


worker_process_init.connect(load_definitions)
app = build_app()
