"""polars and DuckDB open the lake with what the storage tells them."""

import sys
from io import BytesIO
from pathlib import Path

import duckdb
import polars as pl
import pytest
from pydantic import SecretStr

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline_tests.servers import gcs
from wearable_pipeline_tests.servers.fixtures import Place, make_settings


@pytest.fixture
def storage(lake_place: Place) -> Storage:
    storage = Storage.open(lake_place.url, lake_place.settings)
    for date, values in {"2026-01-01": [1, 2], "2026-01-02": [3]}.items():
        buffer = BytesIO()
        pl.DataFrame({"value": values}).write_parquet(buffer)
        storage.put(f"body/date={date}/user=s00/part.parquet", buffer.getvalue())
    storage.put("_lake.json", b"{}")
    return storage


@pytest.fixture
def connection(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    config = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    return duckdb.connect(config={**config, "extension_directory": str(tmp_path / "extensions")})


def test_polars_reads_one_file(storage: Storage) -> None:
    frame = pl.read_parquet(
        storage.uri("body/date=2026-01-01/user=s00/part.parquet"),
        storage_options=storage.polars_options(),
        hive_partitioning=False,
    )

    assert frame["value"].to_list() == [1, 2]


def test_polars_scans_a_glob_with_its_partitions(storage: Storage) -> None:
    frame = (
        pl.scan_parquet(
            storage.uri("body/**/*.parquet"),
            storage_options=storage.polars_options(),
            hive_partitioning=True,
        )
        .filter(pl.col("date") == pl.date(2026, 1, 2))
        .collect()
    )

    assert frame.select("value", "user").rows() == [(3, "s00")]


@pytest.mark.parametrize(
    "kind",
    [
        "local",
        "moto",
        pytest.param("rgw", marks=pytest.mark.real),
        pytest.param("azurite", marks=pytest.mark.real),
    ],
)
def test_duckdb_reads_a_glob(
    request: pytest.FixtureRequest, kind: str, connection: duckdb.DuckDBPyConnection
) -> None:
    place: Place = request.getfixturevalue(f"{kind}_place")
    storage = Storage.open(place.url, place.settings)
    for number in (1, 2, 3):
        buffer = BytesIO()
        pl.DataFrame({"value": [number]}).write_parquet(buffer)
        path = f"body/date=2026-01-0{number}/user=s00/part.parquet"
        version = storage.create(path, buffer.getvalue())
    storage.replace(path, buffer.getvalue() + b"", version)
    if duckdb.__version__ != "1.5.5" and not storage.is_local:
        pytest.skip("only DuckDB 1.5.5 has httpfs on PyPI")

    storage.prepare_duckdb(connection)
    rows = connection.execute(
        "select sum(value), count(distinct date) from read_parquet(?, hive_partitioning=true)",
        [storage.uri("body/**/*.parquet")],
    ).fetchall()

    assert rows == [(6, 3)]


def test_duckdb_reads_google_with_an_hmac_key(
    gcs_place: Place, connection: duckdb.DuckDBPyConnection
) -> None:
    settings = gcs_place.settings.model_copy(
        update={"lake_access_key_id": "GOOG1", "lake_secret_access_key": SecretStr("it's")}
    )

    setup = Storage.open(gcs_place.url, settings).duckdb_setup()

    assert setup.extensions == ("httpfs",)
    (statement,) = setup.statements
    assert "TYPE gcs" in statement
    assert "SECRET 'it''s'" in statement
    with pytest.raises(StorageError, match="HMAC"):
        Storage.open(gcs_place.url, gcs_place.settings).duckdb_statements()


def test_a_secret_with_quotes_stays_one_string(
    moto_place: Place, connection: duckdb.DuckDBPyConnection
) -> None:
    secret = "a'); drop secret x; --"
    settings = moto_place.settings.model_copy(
        update={"lake_access_key_id": "it's", "lake_secret_access_key": SecretStr(secret)}
    )

    Storage.open(moto_place.url, settings).prepare_duckdb(connection)

    ((name, shown),) = connection.execute(
        "select name, secret_string from duckdb_secrets()"
    ).fetchall()
    assert name == "wearable_lake"
    assert "it's" in shown
    assert secret not in shown


def test_without_keys_duckdb_asks_the_clouds_own_chain(no_cloud_variables: None) -> None:
    setup = Storage.open("s3://bucket/x", make_settings(lake_region="eu-west-1")).duckdb_setup()

    assert setup.extensions == ("httpfs", "aws")
    assert setup.statements == (
        "CREATE OR REPLACE SECRET wearable_lake (TYPE s3, SCOPE 's3://bucket',"
        " PROVIDER credential_chain, REGION 'eu-west-1')",
    )


def test_an_extension_that_is_not_to_be_had_is_named(
    connection: duckdb.DuckDBPyConnection,
    azurite_settings: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = Storage.open(azurite_settings.url, azurite_settings.settings)
    # As on a machine without the extra: neither in DuckDB's own folder nor as a package.
    connection.execute(f"SET extension_directory = '{tmp_path}'")
    monkeypatch.setitem(sys.modules, "duckdb_extensions", None)

    with pytest.raises(StorageError, match="duckdb-extension-azure"):
        storage.prepare_duckdb(connection)


@pytest.fixture
def azurite_settings() -> Place:
    settings = make_settings(lake_access_key_id="account", lake_secret_access_key=SecretStr("a2V5"))
    return Place("azure", "az://container/lake", settings)


def test_virtual_hosts_put_the_bucket_into_the_endpoint() -> None:
    settings = make_settings(
        lake_endpoint="https://s3.example.com",
        lake_path_style=False,
        lake_access_key_id="key",
        lake_secret_access_key=SecretStr("secret"),
    )
    storage = Storage.open("s3://bucket/x", settings)

    assert storage.polars_options()["aws_endpoint_url"] == "https://bucket.s3.example.com"
    assert storage.duckdb_statements() == [
        "CREATE OR REPLACE SECRET wearable_lake (TYPE s3, SCOPE 's3://bucket', KEY_ID 'key',"
        " SECRET 'secret', REGION 'us-east-1', ENDPOINT 's3.example.com', URL_STYLE 'vhost',"
        " USE_SSL true)"
    ]


def test_the_token_goes_to_polars_too(gcs_place: Place) -> None:
    settings = gcs_place.settings.model_copy(update={"lake_session_token": SecretStr(gcs.TOKEN)})

    assert Storage.open(gcs_place.url, settings).polars_options() == {
        "google_bearer_token": gcs.TOKEN,
        "google_base_url": gcs_place.settings.lake_endpoint,
        "allow_http": "true",
    }
