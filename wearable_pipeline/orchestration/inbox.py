"""The inbox: what the receiver kept is brought into raw by a run of its own."""

import dagster as dg

from wearable_pipeline.orchestration.resources import WorkspaceOpener
from wearable_pipeline.providers import providers
from wearable_pipeline.raw.push import has_pushes, needs_renewal, renew_subscriptions, take_in
from wearable_pipeline.workspace import Workspace

JOB = "take_in_pushes"
_LANE = {"wearable/lane": "push", "dagster/priority": "10"}
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.op(
    description="Bring what providers pushed into raw and the work lists; extend subscriptions."
    " Touched days and due users are for the other sensors."
)
def take_in_all(
    context: dg.OpExecutionContext, workspace: dg.ResourceParam[WorkspaceOpener]
) -> None:
    """Every provider that pushes, one after the other."""
    with workspace.open() as opened:
        for name, provider in providers().items():
            if provider.push is None:
                continue
            report = take_in(opened, provider)
            if report is None:
                context.log.info(f"{name}: another run is at it")
                continue
            renewed = renew_subscriptions(opened, provider)
            counts = ", ".join(f"{what} {count}" for what, count in report.as_dict().items())
            context.log.info(f"{name}: {counts}, subscriptions renewed {renewed}")


@dg.job(
    name=JOB,
    executor_def=dg.in_process_executor,
    tags=_LANE,
    description="What the receiver kept, into raw.",
)
def take_in_job() -> None:
    """One op: a push has no partition before it is read."""
    take_in_all()


def waits(workspace: Workspace) -> list[str]:
    """Providers with something in the inbox, or with a subscription about to end."""
    return [
        name
        for name, provider in providers().items()
        if provider.push is not None
        and (has_pushes(workspace.lake.storage, name) or needs_renewal(workspace, provider))
    ]


@dg.sensor(
    job=take_in_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Pushes that wait in the inbox.",
)
def pushes(
    context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[WorkspaceOpener]
) -> dg.SensorResult | dg.SkipReason:
    """One run for all that waits; what comes meanwhile is the next run's."""
    under_way = dg.RunsFilter(job_name=JOB, statuses=_UNFINISHED)
    if context.instance.get_runs(under_way, limit=1):
        return dg.SkipReason("a run is on its way and takes along what is there")
    with workspace.open() as opened:
        names = waits(opened)
        if not names:
            return dg.SkipReason("nothing was pushed")
        return dg.SensorResult(run_requests=[dg.RunRequest(tags={"providers": ",".join(names)})])
