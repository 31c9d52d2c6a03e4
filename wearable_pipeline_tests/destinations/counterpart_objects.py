"""Object stores as counterparts: what their JSON objects say, read as the lake's storage reads."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations._objects import AzureBlobSettings, GcsSettings, S3Settings
from wearable_pipeline.destinations.azure_blob import DESTINATION as AZURE_BLOB
from wearable_pipeline.destinations.gcs import DESTINATION as GCS
from wearable_pipeline.destinations.s3 import DESTINATION as S3
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.servers import azurite
from wearable_pipeline_tests.servers.fixtures import Place

VERSION = "2022-03-16"


def storage_of(place: Place) -> Storage:
    """The store itself, to look into."""
    return Storage.open(place.url, place.settings)


def paths(place: Place) -> list[str]:
    """Names of all objects clients see."""
    return [entry.path for entry in storage_of(place).list(VERSION)]


def events(place: Place) -> Iterator[dict[str, Any]]:
    """Every JSON object clients see."""
    storage = storage_of(place)
    for path in paths(place):
        yield msgspec.json.decode(storage.read(path))


def key_of(event: dict[str, Any], row: dict[str, Any]) -> tuple[str, str, str]:
    """User, type, and session or day: what clients merge by."""
    meta = row["metadata"]
    name = str(meta.get("summary_id") or meta["start_time"][:10])
    return (event["user"]["user_id"], event["type"], name)


def read_rows(place: Place) -> State:
    """The rows of every object; two of one key would be a fault."""
    found: dict[tuple[str, str, str], Any] = {}
    for event in events(place):
        for row in event.get("data", ()):
            key = key_of(event, row)
            assert key not in found
            found[key] = row
    return found


def _split(place: Place) -> tuple[str, str]:
    bucket, _, prefix = place.url.partition("://")[2].partition("/")
    return bucket, prefix


def s3_settings(place: Place, **more: Any) -> S3Settings:
    """What a target needs to write to an S3 place."""
    bucket, prefix = _split(place)
    values: dict[str, Any] = {
        "bucket": bucket,
        "prefix": prefix,
        "endpoint": place.settings.lake_endpoint,
        "access_key_id": place.settings.lake_access_key_id,
        "secret_access_key": place.settings.lake_secret_access_key,
        "concurrency": 8,
    }
    return S3Settings(**{**values, **more})


def gcs_settings(place: Place, **more: Any) -> GcsSettings:
    """What a target needs to write to a Google place."""
    bucket, prefix = _split(place)
    values: dict[str, Any] = {
        "bucket": bucket,
        "prefix": prefix,
        "endpoint": place.settings.lake_endpoint,
        "concurrency": 8,
    }
    return GcsSettings(**{**values, **more})


def azure_settings(place: Place, **more: Any) -> AzureBlobSettings:
    """What a target needs to write to an Azure place."""
    container, prefix = _split(place)
    values: dict[str, Any] = {
        "account": azurite.ACCOUNT,
        "container": container,
        "prefix": prefix,
        "endpoint": place.settings.lake_endpoint,
        "account_key": azurite.KEY,
        "concurrency": 8,
    }
    return AzureBlobSettings(**{**values, **more})


def start_s3(request: pytest.FixtureRequest) -> Counterpart:
    """A bucket of moto."""
    place: Place = request.getfixturevalue("moto_place")
    return Counterpart(Target("s3", S3, s3_settings(place)), lambda: read_rows(place))


def start_gcs(request: pytest.FixtureRequest) -> Counterpart:
    """A bucket of the Google stand-in."""
    place: Place = request.getfixturevalue("gcs_place")
    return Counterpart(Target("gcs", GCS, gcs_settings(place)), lambda: read_rows(place))


def start_azure_blob(request: pytest.FixtureRequest) -> Counterpart:
    """A container of Azurite."""
    place: Place = request.getfixturevalue("azurite_place")
    target = Target("azure_blob", AZURE_BLOB, azure_settings(place))
    return Counterpart(target, lambda: read_rows(place))
