"""What a process does that dies while it delivers to a database."""

import os
import signal
from typing import Any

from pydantic import SecretStr

from wearable_pipeline.destinations import _sql_stores
from wearable_pipeline.destinations.sql import SqlSettings, open_sql
from wearable_pipeline_tests.destinations.batches import batch_of
from wearable_pipeline_tests.servers.forked import Tell

_STORES: tuple[Any, ...] = (
    _sql_stores.PostgresStore,
    _sql_stores.MySqlStore,
    _sql_stores.SqliteStore,
    _sql_stores.DuckDbStore,
)


def die_in_sql(tell: Tell, url: str, moment: str) -> None:
    """Deliver five rows and die `amid` the transaction, or `after` it and before anybody knows."""
    for store in _STORES:

        def insert(self: Any, relation: Any, frame: Any, insert: Any = store.insert) -> None:
            insert(self, relation, frame)
            if moment == "amid" and relation.name == "wearable_body_glucose_samples":
                os.kill(os.getpid(), signal.SIGKILL)

        store.insert = insert
    with open_sql(SqlSettings(url=SecretStr(url)), "clinic") as sender:
        for _ in sender.deliver(batch_of(5)):
            os.kill(os.getpid(), signal.SIGKILL)
    tell("still alive")
