"""All that a killed run needs to go on as if nothing had been, in one file that is replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from med_transfer.atomic import atomic_path, sha256_of
from med_transfer.cohorts.left_behind import left_behind, require_whole
from med_transfer.errors import BackboneError
from med_transfer.pretraining.source.origin import same_settings

CHECKPOINT_FILE = "checkpoint.pt"
State = dict[str, Any]


def save_checkpoint(folder: Path, state: State) -> None:
    """Raises OutputError."""
    with atomic_path(folder / CHECKPOINT_FILE) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch ends the file, which fails too, before it tells that the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(
    folder: Path, settings: str, device: str, source_scans: list[str] | None = None, taught: list[str] | None = None
) -> State | None:
    """The state in a folder; None when there is none.

    Args:
        settings: what the checkpoint must have been made with.
        device: kind of device, whose random numbers another kind cannot go on with; earlier versions do not tell it.
        source_scans: content hashes that it must have been made on; None: not known yet.
        taught: hashes of their labels, regions and masks; checkpoints of earlier versions do not tell them.

    Raises:
        BackboneError: it belongs to another run.
        UsageError: it is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    with left_behind(path):
        require_whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = same_settings(state["settings"], settings) and source_scans in (None, state["source_scans"])
        same = same and taught in (None, state.get("taught", taught)) and device == state.get("device", device)
    if not same:
        raise BackboneError(
            "checkpoint of another run",
            where=path,
            expected="the same source scans with the same labels and masks, teacher, settings, number of processes and "
            "kind of device",
            action="Give the arguments it was started with, or another folder",
        )
    return state


def require_encoder(encoder: Path, state: State) -> None:
    """That of a finished pretraining is the one that its checkpoint was saved beside; earlier versions do not tell it.

    Raises:
        UsageError: it is not, or is not there.
    """
    with left_behind(encoder, remove=f"{CHECKPOINT_FILE} beside it"):
        if not is_of(encoder, state):
            raise ValueError("not as it was written")


def is_of(encoder: Path, state: State) -> bool:
    """Whether it is the one that a checkpoint was saved beside. Raises OSError."""
    return state.get("encoder") in (None, sha256_of(encoder))
