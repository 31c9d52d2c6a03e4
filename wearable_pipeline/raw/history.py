"""Old days of many users: one window of their history read, what is there already left alone."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

from wearable_pipeline.errors import QuotaSpentError
from wearable_pipeline.partitions import Members
from wearable_pipeline.providers._contract import Provider, Window
from wearable_pipeline.raw.poll import PollReport, poll
from wearable_pipeline.registry import History, HistoryResult, Touched
from wearable_pipeline.registry.backfills import window_days
from wearable_pipeline.tables.normalize import CODE_VERSION, tables_fed_by
from wearable_pipeline.workspace import Workspace

NEXT_TRY = timedelta(hours=1)
# Of a provider's rate limit; the rest is for readings that are due.
HISTORY_SHARE = 0.5


def fetch_history(
    workspace: Workspace,
    provider: Provider,
    slot: int,
    members: Members,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> PollReport:
    """Read the window `slot` for those of `members` who have it next in line; report as `poll` does.

    Who holds rows of every day of it is not asked again, unless that was ordered; days made by older code
    are marked for the tables instead. How it went is written down per user, so that what is killed in
    between is simply read again.
    """
    now = workspace.now()
    registry = workspace.registry
    found = registry.histories_in(slot, provider.name, now, members, limit)
    _mark_stale(workspace, provider, found, slot)
    missing = _missing(workspace, found, slot)
    asked_for = {one.user_id for one in missing}
    registry.record_history(
        [HistoryResult(history=one) for one in found if one.user_id not in asked_for]
    )
    if not missing:
        return PollReport(provider.name)
    users = registry.find_users(user_ids=asked_for)
    days = [_days(one, slot) for one in missing]
    window = Window(min(start for start, _ in days), max(end for _, end in days), now)
    report = poll(
        workspace, provider, users, window, progress, share=HISTORY_SHARE, is_what_is_due=False
    )
    results = []
    for one in missing:
        error_class, text = report.failures.get(one.user_id, (None, None))
        next_try = None if error_class is None else now + NEXT_TRY
        if error_class == QuotaSpentError.error_class and report.spent_until is not None:
            next_try = report.spent_until
        results.append(
            HistoryResult(
                history=one, error_class=error_class, error_message=text, next_attempt_at=next_try
            )
        )
    registry.record_history(results)
    return report


def _days(one: History, slot: int) -> tuple[date, date]:
    first, last = window_days(slot)
    return max(first, one.start), min(last, one.upto)


def _missing(workspace: Workspace, found: Sequence[History], slot: int) -> list[History]:
    """Those who lack a day of the window, or are to be asked in any case."""
    by_days: dict[tuple[date, date], list[History]] = {}
    for one in found:
        by_days.setdefault(_days(one, slot), []).append(one)
    missing: list[History] = []
    for (start, end), some in by_days.items():
        held = workspace.registry.count_days_held([one.user_id for one in some], start, end)
        wanted = (end - start).days + 1
        missing += [one for one in some if one.is_forced or held.get(one.user_id, 0) < wanted]
    return missing


def _mark_stale(
    workspace: Workspace, provider: Provider, found: Sequence[History], slot: int
) -> None:
    first, last = window_days(slot)
    rows = workspace.registry.stale_partitions(
        CODE_VERSION, user_ids=[one.user_id for one in found], start=first, end=last
    )
    tables = tables_fed_by(provider)
    workspace.registry.mark_touched(
        Touched(row.table, row.user_id, row.date) for row in rows if row.table in tables
    )
