"""``made_from.json``: hashes of the source and of the prepared scans that a folder's training was made from.

A resumed run must continue from the same inputs. A path cannot tell whether its weights are still those that the first
folds started from, nor whether a mask still marks the same region.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

from med_transfer.atomic import write_text
from med_transfer.backbones import LoadedBackbone
from med_transfer.bundle import BUNDLE_FOLDER, read_record
from med_transfer.cohorts import PreparedCohort, cache_key
from med_transfer.cohorts.left_behind import DAMAGED, left_behind
from med_transfer.config import dump_config, load_config
from med_transfer.errors import BundleError, UsageError
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.features import tensor_hash

log = logging.getLogger(__name__)

MADE_FROM_FILE = "made_from.json"
Part = Literal["source", "scans", "handcrafted"]
Config = TypeVar("Config", bound=FinetuneConfig)
_DIFFERENCE_BY_PART = {
    "source": "from another source",
    "scans": "on other images or regions",
    "handcrafted": "on regions of another size, or other masks",
}
_PART_NAMES = {"handcrafted": "regions"}


def claim(
    file: Path, config: Config, source: LoadedBackbone, what: str, *, started: bool, same: Callable[[Config], bool]
) -> None:
    """Claim the folder of ``file``: write the config there, or check that an interrupted run left the same one.

    Args:
        file: of the config.
        config: of this run.
        source: what the run starts from.
        what: the kind of job in the folder, in a word.
        started: whether something was trained there. If not, a config there is replaced: a run that was refused does
            not block the folder for the corrected one.
        same: whether a config found there trains as this one does.

    Raises:
        UsageError: the folder holds something else, or a config that cannot be read.
        OutputError: the config cannot be written.
    """
    if started and file.exists():
        with left_behind(file):
            there = load_config(type(config), file)
        if not same(there):
            raise UsageError(
                f"the folder holds a {what} with another config",
                where=file.parent,
                expected="a new folder, or the same config",
                action="Choose another -o",
            )
    # Random weights follow from the config and have no hash.
    require_made_from(file.parent, "source", source.sha256 or "random values", started=started)
    dump_config(config, file)


def require_made_from(out: Path, part: Part, found: str, *, started: bool) -> None:
    """Record what the training in ``out`` is made from; if it was ``started`` before, check that it is the same.

    Raises:
        UsageError: the training was made from something else, or the record is damaged.
        OutputError: the record cannot be written.
    """
    recorded = _read_made_from(out)
    if started and part not in recorded:
        log.warning("%s does not say what it was made from (%s): assumed to be the same as now", out, part)
    if started and recorded.get(part, found) != found:
        raise UsageError(
            f"the folder holds a run {_DIFFERENCE_BY_PART[part]}",
            where=out,
            expected=f"a new folder, or the {_PART_NAMES.get(part, part)} that its training was made from",
            action="Choose another -o",
        )
    write_text(out / MADE_FROM_FILE, json.dumps(recorded | {part: found}, indent=2) + "\n")


def scans_hash(cohorts: Iterable[PreparedCohort | None]) -> str:
    """Hash of the network's inputs, independent of the order of rows."""
    return cache_key([sorted(map(tensor_hash, cohort.tensors)) for cohort in cohorts if cohort])


def handcrafted_hash(cohort: PreparedCohort) -> str:
    """Hash of the handcrafted features, which a region's size can change without changing the network's input.

    Values are rounded to four digits, since sums on another machine may differ in the last ones.
    """
    return cache_key(sorted([f"{value:.4g}" for value in scan.handcrafted.tolist()] for scan in cohort.scans))


def _read_made_from(out: Path) -> dict[str, str]:
    """Content of the file; without one, for a finished run of an earlier version, the source that its bundle names."""
    file = out / MADE_FROM_FILE
    if file.exists():
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except DAMAGED as error:
            raise UsageError("is damaged", where=file, action="Choose another -o") from error
    with contextlib.suppress(BundleError):
        sha256 = read_record(out / BUNDLE_FOLDER).backbone.sha256
        return {"source": sha256} if sha256 else {}  # none if the from-scratch baseline was kept
    return {}
