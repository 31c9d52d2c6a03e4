import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from wearable_pipeline.definitions import build_defs
from wearable_pipeline.providers import providers
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.normalize import tables_fed_by

ASSETS = {
    *(f"raw/{name}" for name in providers()),
    *{table for provider in providers().values() for table in tables_fed_by(provider)},
    "people",
    *{f"compact/{table}" for one in providers().values() for table in tables_fed_by(one)},
    "retention",
    "erasure_sweep",
    "marts/daily_merged",
    "marts/glucose_daily",
}


def keys(defs: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}


@pytest.fixture(scope="module")
def with_webhook(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """The definitions of an installation that delivers to a webhook."""
    return build_defs(
        Settings(
            _env_file=None,
            home=tmp_path_factory.mktemp("home"),
            webhook_url="https://app.example.org/hook",
            webhook_secret=SecretStr("x" * 32),
        )
    )


def test_the_assets_are_those_everybody_knows(make_settings: Callable[..., Settings]) -> None:
    assert keys(build_defs(make_settings())) == ASSETS


def test_a_destination_appears_only_when_it_is_configured(with_webhook: dg.Definitions) -> None:
    assert keys(with_webhook) == ASSETS | {"destinations/webhook"}
    assert with_webhook.resolve_job_def("deliver") is not None


def test_a_destination_stands_below_the_tables_it_takes_and_says_so(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    described = tmp_path / "destinations.toml"
    described.write_text(
        "[warehouse]\nkind = 'sql'\nurl = 'sqlite:///warehouse.sqlite'\ntypes = ['sleep', 'body']\n"
        "users = ['11111111-1111-4111-8111-111111111111']\n"
    )
    graph = build_defs(make_settings(destinations_file=described)).resolve_asset_graph()
    node = graph.get(dg.AssetKey(["destinations", "warehouse"]))
    assert {key.to_user_string() for key in node.parent_keys} == {"body", "sleep"}
    assert node.kinds == {"database", "sql"}
    assert node.description is not None
    assert node.description.startswith("SQL database. ")
    assert node.description.endswith("Takes types body, sleep; users 1 by id.")


def test_loading_warns_of_nothing_that_is_in_beta() -> None:
    code = "from wearable_pipeline.definitions import defs; defs.get_repository_def()"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "BetaWarning" not in done.stderr


def test_every_asset_says_who_owns_it_what_it_is_and_what_it_needs(
    with_webhook: dg.Definitions,
) -> None:
    graph = with_webhook.resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.owners, key
        assert node.kinds, key
        assert node.description, key
        assert node.group_name in {"raw", "tables", "destinations", "marts", "maintenance"}
        on_the_grid = node.group_name not in {"marts", "maintenance"}
        assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition) == on_the_grid
    parents = {k.to_user_string() for k in graph.get(dg.AssetKey("body")).parent_keys}
    assert parents >= {"raw/freestyle_libre", "raw/nightscout"}


def test_cohorts_make_the_user_dimension_static(make_settings: Callable[..., Settings]) -> None:
    graph = build_defs(make_settings(cohorts=4)).resolve_asset_graph()
    grid = graph.get(dg.AssetKey("body")).partitions_def
    assert isinstance(grid, dg.MultiPartitionsDefinition)
    users = grid.get_partitions_def_for_dimension("user")
    assert users.get_partition_keys() == ["s00", "s01", "s02", "s03"]


def test_definitions_load_with_no_network_no_secrets_and_no_data() -> None:
    # Any connection attempt ends the process; no home, no variables.
    code = """
import socket, sys
def refuse(*a, **k): sys.exit("network")
socket.socket.connect = refuse
socket.create_connection = refuse
import warnings
import dagster as dg
import pytest
warnings.simplefilter("error", dg.SupersessionWarning)
warnings.simplefilter("error", dg.PreviewWarning)
warnings.simplefilter("error", dg.DeprecationWarning) if hasattr(dg, "DeprecationWarning") else None
from wearable_pipeline.definitions import defs
assert isinstance(defs, dg.Definitions)
dg.Definitions.validate_loadable(defs)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not os.path.exists("/data")  # noqa: PTH110
