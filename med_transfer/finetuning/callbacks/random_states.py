"""Random generator states, saved with the training's state: a resumed training ends as an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from monai.data.dataloader import DataLoader
from monai.transforms.transform import Randomizable


class RandomStates(Callback):
    """Save and restore the random states of sampling, augmentation, mixup and dropout.

    Exact if batches are made in this process; worker processes (``training.workers``) restart their augmentation.

    Args:
        batches: the training batches.
        mixup: the generator of mixup.
    """

    def __init__(self, batches: DataLoader, mixup: np.random.Generator) -> None:
        self.draws: torch.Generator = batches.sampler.generator  # type: ignore[union-attr]
        self.augmentations = [part.R for part in _randomizable(batches.dataset)]
        self.mixup = mixup
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the state of every generator."""
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),  # empty without a GPU
            "draws": self.draws.get_state(),
            "augmentations": json.dumps(
                [random.get_state(legacy=False) for random in self.augmentations], default=_plain
            ),
            "mixup": json.dumps(self.mixup.bit_generator.state),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's states, to be restored when the next epoch begins."""
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the states of a checkpoint, if one was loaded."""
        state, self._restored = self._restored, None
        if state is None:
            return
        self.draws.set_state(state["draws"])
        for random, saved in zip(self.augmentations, json.loads(state["augmentations"]), strict=True):
            saved["state"]["key"] = np.array(saved["state"]["key"], dtype=np.uint32)
            random.set_state(saved)
        self.mixup.bit_generator.state = json.loads(state["mixup"])
        torch.set_rng_state(state["torch"])
        torch.empty((), dtype=torch.int64).random_()  # the loader has drawn the first epoch's seed before this hook
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def _randomizable(part: Any) -> Iterator[Randomizable]:
    """All random transforms, including nested ones, always in the same order."""
    if isinstance(part, Randomizable):
        yield part
    if isinstance(part, list | tuple):
        for inner in part:
            yield from _randomizable(inner)
    elif type(part).__module__.startswith(("monai.", "med_transfer.")):
        for inner in vars(part).values():
            yield from _randomizable(inner)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as JSON values, so that the state can be read without pickle."""
    return value.tolist()
