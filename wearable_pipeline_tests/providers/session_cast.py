"""People of the sandbox who connect by a password, and the sessions they have there."""

import httpx
import polars as pl

from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.registry import User
from wearable_pipeline.sandbox.server import SandboxProcess
from wearable_pipeline.tables.normalize import tables_fed_by
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace


def change_session(sandbox: SandboxProcess, provider: str, person: str, action: str) -> None:
    """`reset`, `expire` or `change_password` of somebody's session at the sandbox."""
    httpx.post(
        f"{sandbox.url}/{provider}/control/sessions",
        json={"person": person, "action": action},
        trust_env=False,
    ).raise_for_status()


def rows_of(there: Workspace, user: User) -> dict[str, list[dict[str, object]]]:
    """Rows of every table of this user, brought up to date; of tables without any there is no list."""
    found: dict[str, list[dict[str, object]]] = {}
    cohort = there.lake.scheme.cohort_of(user.user_id)
    for name in sorted(tables_fed_by(get_provider(user.provider))):
        update_table(there, name, [Partition(there.now().date(), cohort)])
        if not any(there.lake.storage.list(f"{name}/")):
            continue
        glob = f"{there.lake.storage.url}/{name}/**/*.parquet"
        rows = pl.read_parquet(glob, hive_partitioning=False)
        columns = [one for one in TABLES[name].content_columns if one != "user_id"]
        keys = [one for one in TABLES[name].row_key if one not in ("user_id", "local_date")]
        mine = rows.filter(pl.col("user_id") == user.user_id)
        found[name] = mine.select(columns).sort("local_date", *keys).to_dicts()
    return found
