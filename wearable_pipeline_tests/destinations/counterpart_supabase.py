"""A Supabase project: a Postgres of its own, and the double of its HTTP side."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr

from wearable_pipeline.destinations._contract import Batch, Target
from wearable_pipeline.destinations.supabase import DESTINATION, SupabaseSettings, rest_ddl
from wearable_pipeline.model import TABLES
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.destinations.counterpart_sql import as_polars, fetch, read_tables, run
from wearable_pipeline_tests.servers.supabase import SERVICE_KEY, SupabaseDouble


def start_double(request: pytest.FixtureRequest) -> SupabaseDouble:
    """A project with an empty database and an empty bucket `payloads`."""
    project = SupabaseDouble(request.getfixturevalue("empty_postgres").replace("+psycopg2", ""))
    project.__enter__()
    request.addfinalizer(lambda: project.__exit__(None, None, None))
    return project


def settings_for(project: SupabaseDouble, mode: str = "postgres", **more: Any) -> SupabaseSettings:
    """Settings that lead to the project; with mode `rest` its tables are made."""
    known: dict[str, Any] = {"project_url": project.url, "service_key": SERVICE_KEY, "mode": mode}
    if mode == "rest":
        run(project.database_url, rest_ddl())
    else:
        known |= {"url": SecretStr(project.database_url), "bucket": "payloads"}
    return SupabaseSettings(**{**known, **more})


def read_bucket(objects: Mapping[str, bytes]) -> State:
    """What lies in the bucket, by what it says of itself."""
    state: dict[tuple[str, str, str], Any] = {}
    for path, content in objects.items():
        said = json.loads(content)
        (row,) = said["data"]
        name = row["metadata"].get("summary_id") or row["local_date"]
        assert path.split("/")[1:3] == [said["type"], said["user"]["user_id"]]
        state[said["user"]["user_id"], said["type"], name] = row
    return state


def read_both(project: SupabaseDouble) -> State:
    """The rows of the tables, which the bucket must agree with."""
    state = read_tables(project.database_url)
    assert read_bucket(project.objects["payloads"]) == state
    return state


def read_rest(project: SupabaseDouble) -> State:
    """The rows of the tables made for the HTTP interface."""
    state: dict[tuple[str, str, str], Any] = {}
    for table in TABLES.values():
        if not table.is_dated:
            continue
        schema = table.polars_schema()
        lines = fetch(
            project.database_url, f"select * from wearable_{table.name} where not is_deleted"
        )
        values = [{n: as_polars(line[n], dtype) for n, dtype in schema.items()} for line in lines]
        rows = pl.DataFrame(values, schema=schema)
        keys = rows.select("user_id", table.row_key_expression().alias("key")).rows()
        for (user_id, key), row in zip(keys, Batch(table, (), rows).payloads, strict=True):
            state[user_id, table.name, key] = row
    return state


def start_supabase(request: pytest.FixtureRequest) -> Counterpart:
    """A project written to directly, with a bucket."""
    project = start_double(request)
    target = Target("supabase", DESTINATION, settings_for(project))
    return Counterpart(target, lambda: read_tables(project.database_url))


def start_supabase_agreeing(request: pytest.FixtureRequest) -> Counterpart:
    """The same, where tables and bucket must agree whenever they are read."""
    project = start_double(request)
    target = Target("supabase", DESTINATION, settings_for(project))
    return Counterpart(target, lambda: read_both(project))


def start_supabase_rest(request: pytest.FixtureRequest) -> Counterpart:
    """A project written to through the HTTP interface."""
    project = start_double(request)
    target = Target("supabase", DESTINATION, settings_for(project, "rest"))
    return Counterpart(target, lambda: read_rest(project))
