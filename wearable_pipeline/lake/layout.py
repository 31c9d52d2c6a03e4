"""Where things lie in the lake, and the manifest that says how the lake is cut.

Readers glob `<lake>/<table>/**/*.parquet`, so nothing else may ever match under a table's prefix.
"""

import re
from datetime import date
from typing import Literal

import msgspec

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.storage import ConflictError, Storage
from wearable_pipeline.partitions import Partition, Scheme

MANIFEST = "_lake.json"
_PARTITION = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/user=([A-Za-z0-9_-]+)/")


class Move(msgspec.Struct, frozen=True):
    """A cut into other cohorts that is under way; see `repartition`."""

    cohorts: int | None
    phase: Literal["copy", "switch", "clean"]


class Manifest(msgspec.Struct, frozen=True):
    """What must stay the same for the life of a lake; `generation` counts how often it was cut anew."""

    format: int = 1
    cohorts: int | None = None
    generation: int = 0
    move: Move | None = None

    @property
    def scheme(self) -> Scheme:
        """How the lake is cut."""
        return Scheme(self.cohorts, self.generation)


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


def shown(cohorts: int | None) -> str:
    """A number of cohorts as commands take it."""
    return "exact" if cohorts is None else str(cohorts)


def read_manifest(storage: Storage) -> tuple[Manifest, str] | None:
    """The lake's manifest and its version, or None before the first start."""
    found = storage.read_versioned(MANIFEST)
    if found is None:
        return None
    try:
        return msgspec.json.decode(found[0], type=Manifest), found[1]
    except msgspec.MsgspecError as error:
        raise StorageError(f"{storage.uri(MANIFEST)} is not a lake manifest: {error}") from None


def replace_manifest(storage: Storage, manifest: Manifest, version: str) -> str:
    """The new version, after replacing exactly `version`. Raises ConflictError."""
    return storage.replace(MANIFEST, msgspec.json.encode(manifest), version)


def check_manifest(storage: Storage, cohorts: int | None) -> Manifest:
    """Return the lake's manifest, writing it at the first start.

    Raises UsageError when the lake is cut into another number of cohorts than the settings say, or is
    just being cut anew.
    """
    found = read_manifest(storage)
    if found is None:
        made = Manifest(cohorts=cohorts)
        try:
            storage.create(MANIFEST, msgspec.json.encode(made))
        except ConflictError:
            return check_manifest(storage, cohorts)
        return made
    manifest = found[0]
    if manifest.move is not None:
        wanted = shown(manifest.move.cohorts)
        raise UsageError(
            f"the lake {storage.url} is being cut anew: wait, or, if that was broken off, go on with"
            f" `wearable-pipeline repartition --cohorts {wanted}`"
        )
    if manifest.cohorts != cohorts:
        raise UsageError(
            f"the lake {storage.url} is cut into {manifest.cohorts or 'one cohort per user'},"
            f" the settings say {cohorts or 'one cohort per user'}:"
            f" set WEARABLE_COHORTS={manifest.cohorts or ''}, or cut it anew with"
            f" `wearable-pipeline repartition --cohorts {shown(cohorts)}`"
        )
    return manifest
