"""The checkpoint: everything needed to resume an interrupted run exactly, in one file that is replaced atomically."""

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
    """Write the checkpoint of a folder. Raises OutputError."""
    with atomic_path(folder / CHECKPOINT_FILE) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # on a full disk torch also fails to close the file, which hides the first error
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(
    folder: Path, settings: str, device: str, source_scans: list[str] | None = None, taught: list[str] | None = None
) -> State | None:
    """Read the checkpoint of a folder; None if there is none.

    Args:
        settings: that the checkpoint must have been made with, see :meth:`Origin.settings`.
        device: kind of device that it must have been made on, since random states cannot move to another kind. Earlier
            versions did not record it.
        source_scans: content hashes that it must have been made from; None if not known yet.
        taught: hashes of their labels, regions and masks; None if not known yet. Earlier versions did not record them.

    Raises:
        BackboneError: the checkpoint belongs to another run.
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
    """Check that the encoder of a finished pretraining is the one that its checkpoint was saved with.

    Raises:
        UsageError: it is another one, or missing.
    """
    with left_behind(encoder, remove=f"{CHECKPOINT_FILE} beside it"):
        if not is_of(encoder, state):
            raise ValueError("not as it was written")


def is_of(encoder: Path, state: State) -> bool:
    """Whether the encoder is the one that the checkpoint was saved with; True if it does not say. Raises OSError."""
    return state.get("encoder") in (None, sha256_of(encoder))
