"""Shards of a batch, one per machine: which scans belong to each, the record it writes, and merging the results."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from med_transfer.atomic import sha256_of, write_bytes, write_text
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import few
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import merge_tables

RECORD_FILE, TABLE_FILE = "batch.json", "predictions.csv"


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``of``, counted from 1. Scans are assigned by their names alone, independent of how many there
    are and of their order."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse text such as ``3/8``. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        shard = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise UsageError(repr(text), where="--shard", expected="i/n with i from 1 to n, for example 3/8")
        return shard

    def holds(self, *name: str) -> bool:
        """Whether a scan of this name belongs to the shard."""
        return int.from_bytes(_digest(name)[:8]) % self.of == self.number - 1

    @property
    def folder(self) -> str:
        """Its folder within that of the batch; empty if it is the whole batch."""
        return f"shard-{self.number:0{len(str(self.of))}d}-of-{self.of}" if self.of > 1 else ""


WHOLE = Shard()


class BatchRecord(BaseModel):
    """``batch.json``: the task of a ``predict`` run, and whether it is finished.

    Attributes:
        shard, of: the shard's number, and the number of shards.
        bundle, version: hashes of the predictor and of the package versions.
        settings: what else a row may depend on: device, read limits, region.
        n_listed, listing: number of all scans, including those of other shards, and the hash of their names.
        n_scans: number of scans in this shard.
        table_sha256: hash of the finished ``predictions.csv``; empty until then.
    """

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    shard: int
    of: int
    bundle: str
    version: str
    settings: Mapping[str, str] = {}
    n_listed: int
    listing: str
    n_scans: int
    table_sha256: str = ""

    def write(self, folder: Path, table: Path | None = None) -> None:
        """Write the record, as finished if ``table`` is given. Raises OutputError."""
        done = self.model_copy(update={"table_sha256": sha256_of(table) if table else ""})
        write_text(folder / RECORD_FILE, done.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> BatchRecord:
        """Read the record. Raises UsageError if ``predict`` did not write the folder."""
        try:
            return cls.model_validate_json((folder / RECORD_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(
                f"no {RECORD_FILE} that can be read",
                where=folder,
                expected="the folder of a shard, as predict --shard writes it",
                action="Run this shard, or leave the folder out",
            ) from error


def begin(
    shard: Shard, names: Sequence[tuple[str, ...]], made_by: Mapping[str, str], settings: Mapping[str, str]
) -> tuple[BatchRecord, list[bool]]:
    """Return the record of a starting run, and for each scan name whether it belongs to the shard."""
    is_own = [shard.holds(*name) for name in names]
    record = BatchRecord(
        shard=shard.number,
        of=shard.of,
        bundle=made_by["bundle"],
        version=made_by["version"],
        settings=settings,
        n_listed=len(names),
        listing=hashlib.sha256(b"".join(sorted(map(_digest, names)))).hexdigest(),
        n_scans=sum(is_own),
    )
    return record, is_own


def merge(folders: Sequence[Path], out: Path) -> tuple[Path, list[Prediction]]:
    """Merge all shards into ``out/predictions.csv``, with the content that a single run over all scans would write.

    After an interruption it can be called again and writes what is still missing.

    Returns:
        The table, and its rows, shard by shard.

    Raises:
        UsageError: a shard is missing, duplicated, incomplete, or was made with another bundle, other settings or
            other scans; or ``out`` is a shard, or holds other predictions or another kind of run.
        FolderInUse: another run is writing to ``out``.
        OutputError: a file cannot be written.
    """
    records = {folder: BatchRecord.read(folder) for folder in folders if not folder.is_file()}  # OUT/* also names files
    if not records:
        raise UsageError("no shard", where=", ".join(map(str, folders)), expected="the folders of all shards")
    _require_alike(records)
    _require_all(records)
    if out.resolve() in {folder.resolve() for folder in records}:
        raise UsageError("the folder of a shard", where=out, expected="a new folder", action="Choose another -o")
    table, first = out / TABLE_FILE, next(iter(records.values()))
    tables = {folder / TABLE_FILE: _finished_table(folder, record) for folder, record in records.items()}
    whole, rows = merge_tables(tables)
    with sole_writer(out, "a batch of predictions"):
        _write_once(table, whole)
        first.model_copy(update={"shard": 1, "of": 1, "n_scans": first.n_listed}).write(out, table)
    return table, rows


def _finished_table(folder: Path, record: BatchRecord) -> bytes:
    """The table of a finished shard, read once: the shard may be running again. Raises UsageError."""
    if not record.table_sha256:
        raise _incomplete(folder, record, "is not finished")
    try:
        content = (folder / TABLE_FILE).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != record.table_sha256:
        raise _incomplete(folder, record, f"has a {TABLE_FILE} that is not the one that it was finished with")
    return content


def _write_once(table: Path, content: bytes) -> None:
    """Write the table unless it is there already. Raises UsageError if other predictions are there."""
    if not table.exists():
        write_bytes(table, content)
    elif table.read_bytes() != content:
        raise UsageError("there are predictions already", where=table, expected="a new folder", action="Choose another")


def _require_alike(records: Mapping[Path, BatchRecord]) -> None:
    (place, first), *others = records.items()
    for folder, record in others:
        for what, (one, other) in {
            "number of shards": (first.of, record.of),
            "bundle": (first.bundle[:12], record.bundle[:12]),
            "version of this program": (first.version, record.version),
            "settings": (_settings_text(first.settings), _settings_text(record.settings)),
            "scans": ((first.n_listed, first.listing[:12]), (record.n_listed, record.listing[:12])),
        }.items():
            if one != other:
                raise UsageError(
                    f"another {what} than in {place.name}: {_value_text(other)}, and there {_value_text(one)}",
                    where=folder,
                    expected="shards of one batch",
                    action="Run the odd one again in a new folder; scans that came or went meanwhile need all again",
                )


def _require_all(records: Mapping[Path, BatchRecord]) -> None:
    numbers, of = [record.shard for record in records.values()], next(iter(records.values())).of
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    for what, which in (("missing", missing), ("there twice", twice)):
        if which:
            raise UsageError(
                f"{len(which)} of {of} shards {what}: {few([str(number) for number in which], 20)}",
                where=next(iter(records)).parent,
                expected="each shard once",
                action=f"med-transfer predict ... --shard {which[0]}/{of}" if what == "missing" else "Leave one out",
            )


def _incomplete(folder: Path, record: BatchRecord, found: str) -> UsageError:
    return UsageError(
        f"shard {record.shard} of {record.of} {found}",
        where=folder,
        expected=f"{record.n_scans} scans, each with a row",
        action=f"Run it again with --shard {record.shard}/{record.of}: it goes on where it was",
    )


def _settings_text(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))


def _value_text(value: object) -> str:
    return f"{value[0]} scans ({value[1]})" if isinstance(value, tuple) else str(value)


def _digest(name: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\0".join(name).encode("utf-8", "surrogateescape")).digest()
