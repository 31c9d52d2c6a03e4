"""Cutting a lake into other cohorts, from raw, under readers that know nothing of it.

What holds. Raw is copied verbatim and compared, row for row and byte for byte. Tables are made again from
that copy in a folder of their own and compared with the old ones before anybody sees them. Then they take
the old ones' place:

- On a local disk a table is exchanged for its successor in one step of the file system. A bare glob sees
  the old table or the new one. A read that listed files just before and opens them just after finds them
  gone: it fails and is right the second time. It is never wrong, because no path of one cut exists in the
  next (`Scheme.generation`).
- An object store moves one object at a time, so a day's table cannot change hands in one step. While a day
  does, two objects that are no Parquet lie beside its files, before and behind them in the listing: a
  bare glob that meets a day half moved fails instead of counting twice. A day takes as long as its few
  files; reading a table while it moves may need several tries.

A kill at any point leaves a lake that refuses to be written to until `repartition` is called again and
goes on where it was. On a disk that cannot exchange folders a kill between two renames leaves a table away,
not wrong, until then. While files are copied the cut can be taken back; once the first table moves it can
only be finished.
"""

import ctypes
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import msgspec
import polars as pl

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake.layout import (
    Manifest,
    Move,
    parse_partition,
    partition_prefix,
    raw_root,
    read_manifest,
    replace_manifest,
    shown,
)
from wearable_pipeline.lake.retention import drop_compact
from wearable_pipeline.lake.storage import Entry, Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.model.columns import Table
from wearable_pipeline.partitions import Partition, Scheme, shard_number
from wearable_pipeline.raw.store import RAW_SCHEMA, RawStore
from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables.normalize import providers_feeding
from wearable_pipeline.tables.refresh import refresh
from wearable_pipeline.workspace import WRITER, Clock, Lake, keep_lease, utc_now

STAGE = "_moving"
# Stored bytes of raw read at a time; in memory they are several times that.
_GROUP_BYTES = 32 * 1024 * 1024
_FENCES = ("moving.parquet", "zz-moving.parquet")
_FENCE_TEXT = b"this day is being moved; try again in a moment"
_EXCHANGE = 2
_HERE = -100

Progress = Callable[[str, int], None]


@dataclass(slots=True)
class Repartitioned:
    """What was done: the number of cohorts there are now, and what was moved by this call."""

    cohorts: int | None
    was_needed: bool = True
    was_taken_back: bool = False
    raw_records: int = 0
    tables: dict[str, int] = field(default_factory=dict)


def repartition(
    settings: Settings,
    cohorts: int | None,
    *,
    now: Clock = utc_now,
    progress: Progress = lambda stage, done: None,
) -> Repartitioned:
    """Cut the lake of `settings` into `cohorts` (None: one per user); goes on with what was broken off.

    Asked for the number the lake has, it takes a cut back that has not moved tables yet.

    Raises UsageError while something writes to the lake, for another cut than the one under way, or when
    tables are not what raw makes of them; StorageError when a copy is not what was copied.
    """
    storage = Storage.open(settings.lake, settings)
    with (
        Registry.open(settings, clock=now) as registry,
        keep_lease(registry, "repartition") as mine,
    ):
        if not mine:
            raise UsageError("another process is cutting this lake anew: wait for it")
        found = read_manifest(storage)
        if found is None:
            raise UsageError(
                f"there is no lake at {storage.url} yet: start with WEARABLE_COHORTS set"
            )
        manifest, version = found
        if manifest.move is None and manifest.cohorts == cohorts:
            return Repartitioned(cohorts, was_needed=False)
        mover = _Mover(settings, storage, manifest, version, progress)
        if manifest.move is None:
            _check_names(registry, cohorts)
            mover.note(Move(cohorts, "copy"))
        elif manifest.move.cohorts != cohorts:
            if manifest.cohorts == cohorts and manifest.move.phase == "copy":
                return mover.take_back()
            wanted = shown(manifest.move.cohorts)
            raise UsageError(
                f"the lake is being cut otherwise: finish that with `wearable-pipeline repartition"
                f" --cohorts {wanted}`"
            )
        if mover.manifest.move == Move(cohorts, "copy"):
            _refuse_beside_writers(registry, mover)
        return mover.run()


def _check_names(registry: Registry, cohorts: int | None) -> None:
    """A user who is called like a shard would have a shard's folder."""
    if cohorts is None:
        odd = [u.user_id for u in registry.find_users() if shard_number(u.user_id) is not None]
        if odd:
            raise UsageError(f"user {odd[0]} is called like a shard: such a lake needs cohorts")


def _refuse_beside_writers(registry: Registry, mover: "_Mover") -> None:
    """Runs look for the mark after they say that they write; so one of the two sees the other."""
    writers = registry.count_leases(WRITER)
    if writers:
        if not mover.has_begun():
            mover.note(None)
        raise UsageError(
            f"{writers} steps of runs are writing to the lake: stop the daemon, wait until they end"
            " (a killed one counts for five minutes), then try again"
        )


class _Mover:
    """One cut, from the phase it is in to the end."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        manifest: Manifest,
        version: str,
        progress: Progress,
    ) -> None:
        self.storage = storage
        self.manifest = manifest
        self._version = version
        self._progress = progress
        self._staged = Storage.open(f"{settings.lake.rstrip('/')}/{STAGE}", settings)

    def note(self, move: Move | None, *, is_new: bool = False) -> None:
        """Write down the phase; with `is_new`, that the lake is cut the new way from now on."""
        cohorts, generation = self.manifest.cohorts, self.manifest.generation
        if is_new and move is not None:
            cohorts, generation = move.cohorts, generation + 1
        changed = msgspec.structs.replace(
            self.manifest, cohorts=cohorts, generation=generation, move=move
        )
        self._version = replace_manifest(self.storage, changed, self._version)
        self.manifest = changed

    def has_begun(self) -> bool:
        """Whether anything was copied already."""
        return next(self._staged.list(), None) is not None

    def run(self) -> Repartitioned:
        """All phases that are left."""
        move = self.manifest.move
        if move is None:
            raise StorageError(f"{self.storage.url}: the manifest names no cut that is under way")
        report = Repartitioned(move.cohorts)
        if move.phase == "copy":
            self._copy_raw(report)
            self._make_tables(report)
            move = Move(move.cohorts, "switch")
            self.note(move)
        if move.phase == "switch":
            for name in _tables():
                for root in (name, f"quarantine/{name}"):
                    self._switch(root)
                self._progress("tables switched", len(report.tables))
            move = Move(move.cohorts, "clean")
            self.note(move, is_new=True)
        self._clean()
        self.note(None)
        return report

    def take_back(self) -> Repartitioned:
        """Delete what was copied; the lake is as it was."""
        # First what says that something was copied: killed now, the cut begins from the start.
        self._empty_stage()
        for provider in self._providers():
            copies = [entry.path for entry in self._raw_entries(provider, is_new=True)]
            self.storage.delete_many(copies)
        self.note(None)
        return Repartitioned(self.manifest.cohorts, was_taken_back=True)

    @property
    def _new(self) -> Scheme:
        """The scheme moved to."""
        move = self.manifest.move
        if move is None:
            return self.manifest.scheme
        if move.phase == "clean":
            return self.manifest.scheme
        return Scheme(move.cohorts, self.manifest.generation + 1)

    def _is_new(self, cohort: str) -> bool:
        keys = self._new.cohort_keys()
        return shard_number(cohort) is None if keys is None else cohort in keys

    # Raw: copied as it is.

    def _providers(self) -> list[str]:
        return [path.rsplit("/", 1)[-1] for path in self.storage.list_prefixes("raw/")]

    def _raw_entries(self, provider: str, *, is_new: bool) -> Iterator[Entry]:
        for entry in self.storage.list(raw_root(provider) + "/"):
            cell = parse_partition(entry.path)
            if cell is not None and self._is_new(cell.cohort) == is_new:
                yield entry

    def _copy_raw(self, report: Repartitioned) -> None:
        for provider in self._providers():
            by_day: dict[date, list[Entry]] = {}
            for entry in self._raw_entries(provider, is_new=False):
                cell = parse_partition(entry.path)
                if cell is not None and entry.path.endswith(".parquet"):
                    by_day.setdefault(cell.date, []).append(entry)
            for day, entries in sorted(by_day.items()):
                mark = f"done/raw/{provider}/{day}"
                if self._staged.version(mark) is None:
                    for number, group in enumerate(_groups(entries)):
                        report.raw_records += self._copy_group(provider, day, number, group)
                        self._progress(f"raw records of {provider}", report.raw_records)
                    self._staged.put(mark, b"copied and compared")

    def _copy_group(self, provider: str, day: date, number: int, group: Sequence[Entry]) -> int:
        """Copy segments of a day cut anew, read the copies back and compare."""
        old = pl.concat([self._read(entry.path) for entry in group])
        cohorts = {user_id: self._new.cohort_of(user_id) for user_id in old["user_id"].unique()}
        # Nothing is written to the old ones any more, so a second call makes the same names and bytes.
        sources = "\n".join(f"{entry.path} {entry.size}" for entry in group)
        digest = hashlib.blake2b(sources.encode(), digest_size=8).hexdigest()
        stamp = group[-1].path.rsplit("/", 1)[1].split("-")[0]
        copies = []
        cut = old.with_columns(
            pl.col("user_id").replace_strict(cohorts, return_dtype=pl.String).alias("cohort")
        )
        for (cohort,), part in cut.partition_by(
            "cohort", as_dict=True, include_key=False, maintain_order=True
        ).items():
            prefix = partition_prefix(raw_root(provider), Partition(day, str(cohort)))
            path = f"{prefix}{stamp}-moved{number:04d}-{digest}.parquet"
            buffer = io.BytesIO()
            part.write_parquet(buffer, compression="zstd")
            self.storage.create(path, buffer.getvalue())
            copies.append(path)
        new = pl.concat([RAW_SCHEMA.to_frame(), *(self._read(path) for path in copies)])
        if not _ordered(old).equals(_ordered(new), null_equal=True):
            raise StorageError(
                f"the copy of raw/{provider} of {day} is not what was copied: nothing was moved, try again"
            )
        return old.height

    def _read(self, path: str) -> pl.DataFrame:
        frame: pl.DataFrame = pl.read_parquet(io.BytesIO(self.storage.read(path)))
        return frame.select(*RAW_SCHEMA)

    # Tables: made from the copy, compared with what there is.

    def _make_tables(self, report: Repartitioned) -> None:
        lake = Lake(self._staged, RawStore(self.storage, self._new), self._new)
        for name, table in _tables().items():
            cells: dict[date, set[Partition]] = {day: set() for day in self._days(name)}
            for provider in providers_feeding(name):
                for entry in self._raw_entries(provider, is_new=True):
                    cell = parse_partition(entry.path)
                    if cell is not None:
                        cells.setdefault(cell.date, set()).add(cell)
            rows = 0
            different: list[date] = []
            for day, some in sorted(cells.items()):
                mark = f"done/{name}/{day}"
                if self._staged.version(mark) is None:
                    refresh(lake, name, some)
                    new = self._content(self._staged, table, day, is_new=True)
                    if not new.equals(self._content(self.storage, table, day, is_new=False)):
                        different.append(day)
                        continue
                    rows += new.height
                    self._staged.put(mark, b"made and compared")
                    self._progress(f"rows of {name}", rows)
            if different:
                raise UsageError(
                    f"{name} of {different[0]} and {len(different) - 1} other days is not what raw makes of"
                    f" it: take this back (`wearable-pipeline repartition --cohorts"
                    f" {shown(self.manifest.cohorts)}`), run `wearable-pipeline rebuild`, begin anew"
                )
            report.tables[name] = rows

    def _days(self, root: str) -> set[date]:
        """Days of which `root` has a file cut the old way."""
        cells = (parse_partition(entry.path) for entry in self.storage.list(f"{root}/"))
        return {cell.date for cell in cells if cell is not None and not self._is_new(cell.cohort)}

    def _content(self, storage: Storage, table: Table, day: date, *, is_new: bool) -> pl.DataFrame:
        """What a day says of people, in an order of its own; where a row came from may differ."""
        frames = []
        for entry in storage.list(f"{table.name}/date={day}/"):
            cell = parse_partition(entry.path)
            if cell is not None and self._is_new(cell.cohort) == is_new:
                frames.append(pl.read_parquet(io.BytesIO(storage.read(entry.path))))
        # Files of older code may lack a column or have one that is gone: then they differ.
        rows = pl.concat([table.empty(), *frames], how="diagonal_relaxed")
        return rows.select(
            *table.content_columns, table.row_key_expression().alias("key\x00")
        ).sort("user_id", "key\x00")

    # The switch.

    def _switch(self, root: str) -> None:
        if self.storage.is_local:
            self._exchange(root)
            return
        days: dict[date, list[str]] = {}
        for entry in self.storage.list(f"{STAGE}/{root}/"):
            cell = parse_partition(entry.path)
            if cell is not None:
                days.setdefault(cell.date, []).append(entry.path)
        for day in self._days(root):
            days.setdefault(day, [])
        for day, staged in sorted(days.items()):
            self._move_day(root, day, staged)

    def _move_day(self, root: str, day: date, staged: Sequence[str]) -> None:
        """Move a day behind its fence; done again after a kill it ends the same."""
        fences = [f"{root}/date={day}/{name}" for name in _FENCES]
        for fence in fences:
            self.storage.put(fence, _FENCE_TEXT)
        for path in staged:
            self.storage.create(path.removeprefix(f"{STAGE}/"), self.storage.read(path))
        old = []
        for entry in self.storage.list(f"{root}/date={day}/"):
            cell = parse_partition(entry.path)
            if cell is not None and not self._is_new(cell.cohort):
                old.append(entry.path)
        self.storage.delete_many(old)
        self.storage.delete_many(fences)

    def _exchange(self, root: str) -> None:
        current, successor = Path(self.storage.url) / root, Path(self._staged.url) / root
        if not successor.is_dir() or any(
            self._is_new(cell.cohort)
            for entry in self.storage.list(f"{root}/")
            if (cell := parse_partition(entry.path)) is not None
        ):
            return
        if not current.exists():
            current.parent.mkdir(parents=True, exist_ok=True)
            successor.rename(current)
        elif not _exchange_folders(successor, current):
            aside = successor.with_name(successor.name + ".old")
            current.rename(aside)
            successor.rename(current)
        _sync_folder(current.parent)
        _sync_folder(successor.parent)

    # Afterwards.

    def _clean(self) -> None:
        for provider in self._providers():
            old = [entry.path for entry in self._raw_entries(provider, is_new=False)]
            self.storage.delete_many(old)
            self._progress(f"old segments of {provider} deleted", len(old))
        for name in _tables():
            for root in (name, f"quarantine/{name}"):
                for day in self._days(root):
                    self._move_day(root, day, [])
            # Their buckets are the cohorts of the former cut; the next compaction makes them anew.
            drop_compact(self.storage, name)
        self._empty_stage()

    def _empty_stage(self) -> None:
        for prefix in ("done/", ""):
            self._staged.delete_many([entry.path for entry in self._staged.list(prefix)])
        if self.storage.is_local:
            # Its own locks and empty folders.
            shutil.rmtree(self._staged.url, ignore_errors=True)


def _tables() -> dict[str, Table]:
    return {
        name: table
        for name, table in sorted(TABLES.items())
        if table.is_dated and providers_feeding(name)
    }


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """`entries` in order, as many at a time as fit."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and size + entry.size > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group


def _ordered(raw: pl.DataFrame) -> pl.DataFrame:
    return raw.sort(*RAW_SCHEMA, nulls_last=True)


def _exchange_folders(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where system or disk cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(one), os.fsencode(other))
    if sys.platform == "darwin":
        call = getattr(library, "renamex_np", None)
        return call is not None and call(*names, _EXCHANGE) == 0
    call = getattr(library, "renameat2", None)
    return call is not None and call(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
