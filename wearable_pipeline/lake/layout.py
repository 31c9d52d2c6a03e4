"""Where things lie in the lake, and the manifest that says how the lake is cut.

Readers glob `<lake>/<table>/**/*.parquet`, so nothing else may ever match under a table's prefix.
"""

import re
from datetime import date

import msgspec

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.storage import ConflictError, Storage
from wearable_pipeline.partitions import Partition, Scheme

MANIFEST = "_lake.json"
_PARTITION = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/user=([A-Za-z0-9_-]+)/")


class Manifest(msgspec.Struct):
    """What must stay the same for the life of a lake."""

    format: int = 1
    cohorts: int | None = None


def partition_prefix(root: str, partition: Partition) -> str:
    """Hive folder of one partition under `root`, with a trailing slash."""
    return f"{root}/date={partition.date.isoformat()}/user={partition.cohort}/"


def raw_root(provider: str) -> str:
    """Prefix of a provider's verbatim records."""
    return f"raw/{provider}"


def table_path(table: str, partition: Partition) -> str:
    """The one file of a table's partition."""
    return partition_prefix(table, partition) + "part.parquet"


def quarantine_path(table: str, partition: Partition) -> str:
    """The file of what a partition of `table` had to leave out."""
    return partition_prefix(f"quarantine/{table}", partition) + "part.parquet"


def parse_partition(path: str) -> Partition | None:
    """The partition a path of the lake belongs to, or None."""
    match = _PARTITION.search(path)
    if match is None:
        return None
    return Partition(date.fromisoformat(match[1]), match[2])


def check_manifest(storage: Storage, scheme: Scheme) -> Manifest:
    """Return the lake's manifest, writing it at the first start.

    Raises UsageError when the lake is cut into another number of cohorts than the settings say.
    """
    found = storage.read_versioned(MANIFEST)
    if found is None:
        manifest = Manifest(cohorts=scheme.cohorts)
        try:
            storage.create(MANIFEST, msgspec.json.encode(manifest))
        except ConflictError:
            return check_manifest(storage, scheme)
        return manifest
    try:
        manifest = msgspec.json.decode(found[0], type=Manifest)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{storage.uri(MANIFEST)} is not a lake manifest: {error}") from None
    if manifest.cohorts != scheme.cohorts:
        raise UsageError(
            f"the lake {storage.url} is cut into {manifest.cohorts or 'one cohort per user'},"
            f" the settings say {scheme.cohorts or 'one cohort per user'}:"
            f" set WEARABLE_COHORTS={manifest.cohorts or ''} or use another lake"
        )
    return manifest
