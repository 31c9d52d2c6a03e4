"""The import door: files people export by hand, streamed into raw."""

import hashlib
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from wearable_pipeline.errors import BadPayloadError, UsageError
from wearable_pipeline.providers._contract import (
    HEAD_BYTES,
    Importer,
    ImportOptions,
    Provider,
    Record,
)
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import Appended, Arrival
from wearable_pipeline.registry import User
from wearable_pipeline.workspace import Workspace

RECORDS_PER_SEGMENT = 50_000


@dataclass(slots=True)
class ImportReport:
    """What an import brought in."""

    importer: str
    records: int = 0
    appended: Appended = field(default_factory=Appended)


def choose_importer(provider: Provider, head: bytes, name: str) -> Importer:
    """The importer of `provider` that knows the file beginning with `head`.

    Raises BadPayloadError when the file is empty, binary or of another kind.
    """
    if not provider.importers:
        raise UsageError(
            f"{provider.title} has no file import: `wearable-pipeline sync` fetches it"
        )
    if not head.strip():
        raise BadPayloadError(f"{name} is empty: export it again")
    for importer in provider.importers:
        if importer.recognise(head):
            return importer
    titles = ", ".join(importer.title for importer in provider.importers)
    kind = "a binary file" if b"\x00" in head else "not a file this provider exports"
    raise BadPayloadError(f"{name} is {kind}: {provider.title} imports {titles}")


def import_file(
    workspace: Workspace,
    provider: Provider,
    user: User,
    path: Path,
    options: ImportOptions,
    progress: Callable[[int], None] = lambda records: None,
) -> ImportReport:
    """Stream the file at `path` into raw for `user`; importing it twice adds nothing.

    Raises UsageError when the file cannot be opened, BadPayloadError (before anything is written)
    when it is not what it should be. `progress` is called with the number of records read so far.
    """
    with _open(path) as handle:
        with _explained(path):
            head = handle.read(HEAD_BYTES)
        importer = choose_importer(provider, head, path.name)
        report = ImportReport(importer.name)
        for records in _in_segments(importer.read(handle, options), path, progress):
            arrival = Arrival(user.user_id, records, workspace.now())
            report.appended.add(ingest(workspace, provider, [arrival], "import"))
            report.records += len(records)
        with _explained(path):
            file_hash = _hash_file(handle)
    workspace.registry.record_import(user.user_id, file_hash, importer.name, report.records)
    return report


def _open(path: Path) -> BinaryIO:
    with _explained(path):
        # Opening a pipe would wait for somebody to write into it, and a pipe cannot be read twice.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "no regular file"
            raise UsageError(f"cannot read {path}: it is {kind}")
        return path.open("rb")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or 'it does not open'}") from None


def _in_segments(
    batches: Iterator[list[Record]], path: Path, progress: Callable[[int], None]
) -> Iterator[list[Record]]:
    """The records of `batches`, so many at a time that each append is worth its segments."""
    waiting: list[Record] = []
    count = 0
    while True:
        with _explained(path):
            batch = next(batches, None)
        if batch is None:
            break
        waiting.extend(batch)
        count += len(batch)
        progress(count)
        if len(waiting) >= RECORDS_PER_SEGMENT:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _hash_file(handle: BinaryIO) -> str:
    handle.seek(0)
    digest = hashlib.blake2b(digest_size=16)
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
