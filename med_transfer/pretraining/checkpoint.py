"""All that a killed run needs to go on as if nothing had been, in one file that is replaced as a whole."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from med_transfer.atomic import atomic_path
from med_transfer.errors import BackboneError

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
        BackboneError: it belongs to another run, or is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = state["settings"] == settings and source_scans in (None, state["source_scans"])
        same = same and taught in (None, state.get("taught", taught)) and device == state.get("device", device)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError, ValueError, TypeError) as error:
        raise BackboneError(
            "the checkpoint is damaged", where=path, action="Remove it to start again, or choose another folder"
        ) from error
    if not same:
        raise BackboneError(
            "checkpoint of another run",
            where=path,
            expected="the same source scans with the same labels and masks, teacher, settings, number of processes and "
            "kind of device",
            action="Give the arguments it was started with, or another folder",
        )
    return state
