"""Pytest plugin: the servers of the session, and lakes on each of them.

`lake_place` runs a test once on every store. Servers marked `real` are skipped where they are not
installed, except when CI=true.
"""

import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers import azurite, gcs, mariadb, postgres, redis_broker, rgw
from wearable_pipeline_tests.servers.processes import (
    Session,
    accepts_connections,
    find_free_port,
    wait_until,
)
from wearable_pipeline_tests.servers.proxy import FaultyProxy

_FOLDER = "WEARABLE_TEST_SERVERS"
_OWNER = "WEARABLE_TEST_SERVERS_OWNER"
_HERE = Path(__file__).parent

MOTO_KEY = "AKIAMOTOTESTS0000000"
MOTO_SECRET = "moto-tests-secret-key-000000000000000000"

MakeProxy = Callable[..., FaultyProxy]


@dataclass(frozen=True)
class Place:
    """A lake to be: an empty prefix or folder of its own."""

    kind: str
    url: str
    settings: Settings


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # Workers inherit the environment, and so find the same folder.
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="wearable-servers-")
        os.environ[_OWNER] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and _FOLDER in os.environ:
        folder = Path(os.environ.pop(_FOLDER))
        Session(folder, os.getpid()).stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> Session:
    """The session's servers, shared by all workers."""
    return Session(Path(os.environ[_FOLDER]), int(os.environ[_OWNER]))


@pytest.fixture(scope="session")
def moto_endpoint(servers: Session) -> str:
    """URL of an S3 and SQS server (moto); it checks no signatures."""

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        servers.launch([sys.executable, str(_HERE / "s3.py"), "--port", str(port)], log)
        wait_until(lambda: accepts_connections(port), 60, "moto", log)
        return {"url": f"http://127.0.0.1:{port}"}

    return servers.share("moto", start)["url"]


@pytest.fixture(scope="session")
def gcs_endpoint(servers: Session) -> str:
    """URL of the Google Cloud Storage stand-in."""

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        servers.launch([sys.executable, gcs.__file__, "--port", str(port)], log)
        wait_until(lambda: accepts_connections(port), 30, "the GCS stand-in", log)
        return {"url": f"http://127.0.0.1:{port}"}

    return servers.share("gcs", start)["url"]


@pytest.fixture(scope="session")
def azurite_endpoint(servers: Session) -> str:
    """URL of an Azure Blob server (Azurite), with its account."""
    if not azurite.PROGRAM.exists() or shutil.which("node") is None:
        _lack("Azurite")

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        servers.launch(azurite.command(port), log)
        wait_until(lambda: accepts_connections(port), 60, "Azurite", log)
        return {"url": f"http://127.0.0.1:{port}/{azurite.ACCOUNT}"}

    return servers.share("azurite", start)["url"]


@pytest.fixture(scope="session")
def rgw_endpoint(servers: Session) -> str:
    """URL of a real S3 server (Ceph RGW) that checks signatures."""
    missing = rgw.find_missing()
    if missing:
        _lack(f"Ceph RGW ({', '.join(missing)})")

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        ports = {"--port": port, "--mon-v1": find_free_port(), "--mon-v2": find_free_port()}
        command = [sys.executable, rgw.__file__, "--folder", str(folder / "ceph")]
        for name, value in ports.items():
            command += [name, str(value)]
        servers.launch(command, log)
        wait_until(lambda: accepts_connections(port), 120, "Ceph RGW", log)
        return {"url": f"http://127.0.0.1:{port}"}

    return servers.share("rgw", start)["url"]


@pytest.fixture(scope="session")
def postgres_server(servers: Session) -> str:
    """URL of a Postgres server, without the name of a database."""
    missing = postgres.find_missing()
    if missing:
        _lack(f"Postgres ({', '.join(missing)})")

    return servers.share("postgres", lambda folder: postgres.start(servers, folder))["url"]


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    """URL of an empty database of its own."""
    with postgres.create_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server(servers: Session) -> str:
    """URL of a MariaDB server, without the name of a database."""
    missing = mariadb.find_missing()
    if missing:
        _lack(f"MariaDB ({', '.join(missing)})")

    return servers.share("mariadb", lambda folder: mariadb.start(servers, folder))["url"]


@pytest.fixture
def empty_mariadb(mariadb_server: str) -> Iterator[str]:
    """URL of an empty database of its own."""
    with mariadb.create_database(mariadb_server) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(servers: Session) -> str:
    """URL of a Redis server, without the number of a database."""
    if redis_broker.find_missing():
        _lack("Redis")

    return servers.share("redis", lambda folder: redis_broker.start(servers, folder))["url"]


@pytest.fixture(scope="session")
def mongodb_server(servers: Session) -> str:
    """URI of a MongoDB server (nx-27017), without the name of a database."""

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        servers.launch([sys.executable, str(_HERE / "mongodb.py"), "--port", str(port)], log)
        wait_until(lambda: accepts_connections(port), 30, "nx-27017", log)
        return {"url": f"mongodb://127.0.0.1:{port}"}

    return servers.share("mongodb", start)["url"]


@pytest.fixture(scope="session")
def firestore_server(servers: Session) -> str:
    """Host and port of the double of Firestore."""

    def start(folder: Path) -> dict[str, str]:
        port, log = find_free_port(), folder / "log"
        servers.launch([sys.executable, str(_HERE / "firestore.py"), "--port", str(port)], log)
        wait_until(lambda: accepts_connections(port), 30, "the double of Firestore", log)
        return {"address": f"127.0.0.1:{port}"}

    return servers.share("firestore", start)["address"]


@pytest.fixture(scope="session")
def kafka_brokers(servers: Session) -> str:
    """Address of a Kafka cluster in memory, which makes topics at the first use."""

    def start(folder: Path) -> dict[str, str]:
        address, log = folder / "address", folder / "log"
        servers.launch([sys.executable, str(_HERE / "kafka.py"), "--address", str(address)], log)
        wait_until(address.exists, 30, "the Kafka cluster", log)
        return {"brokers": address.read_text()}

    return servers.share("kafka", start)["brokers"]


@pytest.fixture
def local_place(tmp_path: Path) -> Place:
    return Place("local", str(tmp_path / "lake"), make_settings())


@pytest.fixture
def moto_place(moto_endpoint: str) -> Place:
    return _s3_place("s3", moto_endpoint, MOTO_KEY, MOTO_SECRET)


@pytest.fixture
def rgw_place(rgw_endpoint: str) -> Place:
    return _s3_place("rgw", rgw_endpoint, rgw.ACCESS_KEY, rgw.SECRET_KEY)


@pytest.fixture
def gcs_place(gcs_endpoint: str) -> Place:
    bucket = _new_name()
    request = urllib.request.Request(f"{gcs_endpoint}/{bucket}", method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass
    return Place("gcs", f"gs://{bucket}/lake/one", make_settings(lake_endpoint=gcs_endpoint))


@pytest.fixture
def azurite_place(azurite_endpoint: str) -> Place:
    container = _new_name()
    azurite.create_container(azurite_endpoint, container)
    settings = make_settings(
        lake_endpoint=azurite_endpoint,
        lake_access_key_id=azurite.ACCOUNT,
        lake_secret_access_key=SecretStr(azurite.KEY),
    )
    return Place("azure", f"az://{container}/lake/one", settings)


@pytest.fixture(
    params=[
        "local",
        "moto",
        "gcs",
        pytest.param("azurite", marks=pytest.mark.real),
        pytest.param("rgw", marks=pytest.mark.real),
    ]
)
def lake_place(request: pytest.FixtureRequest) -> Place:
    """An empty lake on each store in turn."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Makes proxies that misbehave on demand, closed after the test."""
    made: list[FaultyProxy] = []

    def make(target: str, **habits: bool) -> FaultyProxy:
        proxy = FaultyProxy(target)
        for habit, value in habits.items():
            setattr(proxy, habit, value)
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def no_cloud_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own cloud credentials are out of sight."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)


def make_settings(**values: Any) -> Settings:
    """Settings of `values` and defaults, whatever file or variables lie around."""
    build: Callable[..., Settings] = Settings
    unset = {name: None for name in Settings.model_fields if name.startswith("lake_")}
    return build(_env_file=None, **{**unset, "lake_path_style": True, **values})


def create_s3_bucket(endpoint: str, bucket: str, key: str, secret: str) -> None:
    """Makes an empty bucket."""
    import boto3

    boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    ).create_bucket(Bucket=bucket)


def _s3_place(kind: str, endpoint: str, key: str, secret: str) -> Place:
    bucket = _new_name()
    create_s3_bucket(endpoint, bucket, key, secret)
    settings = make_settings(
        lake_endpoint=endpoint,
        lake_access_key_id=key,
        lake_secret_access_key=SecretStr(secret),
    )
    return Place(kind, f"s3://{bucket}/lake/one", settings)


def _new_name() -> str:
    return f"t-{uuid4().hex[:20]}"


def _lack(what: str) -> None:
    reason = f"{what} is not installed; run .ci/servers"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
