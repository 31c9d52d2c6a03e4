"""The import door: files people export by hand, streamed into raw."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from wearable_pipeline.errors import BadPayloadError, UsageError
from wearable_pipeline.providers._contract import Importer, ImportOptions, Provider, Record
from wearable_pipeline.raw.ingest import ingest
from wearable_pipeline.raw.store import Appended, Arrival
from wearable_pipeline.registry import User
from wearable_pipeline.workspace import Workspace

HEAD_BYTES = 64 * 1024
RECORDS_PER_SEGMENT = 100_000


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

    Raises UsageError when the file cannot be opened, BadPayloadError (before anything is written) when it
    is not what it should be. `progress` is called with the number of records read so far.
    """
    try:
        handle = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    with handle:
        head = handle.read(HEAD_BYTES)
        importer = choose_importer(provider, head, path.name)
        file_hash = _hash_file(handle)
        handle.seek(0)
        report = ImportReport(importer.name)
        waiting: list[Record] = []

        def store() -> None:
            arrival = Arrival(user.user_id, waiting, workspace.now())
            report.appended.add(ingest(workspace, provider, [arrival], "import"))
            waiting.clear()

        for batch in importer.read(handle, options):
            waiting.extend(batch)
            report.records += len(batch)
            if len(waiting) >= RECORDS_PER_SEGMENT:
                store()
            progress(report.records)
        if waiting:
            store()
    workspace.registry.record_import(user.user_id, file_hash, importer.name, report.records)
    return report


def _hash_file(handle: BinaryIO) -> str:
    handle.seek(0)
    digest = hashlib.blake2b(digest_size=16)
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
