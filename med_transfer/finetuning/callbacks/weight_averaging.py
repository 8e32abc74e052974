"""Weights averaged over the training instead of the last step's: flatter minima, less noise, at almost no cost.

PyTorch's ``swa_utils`` computes the averages; this module decides when, and validates the averaged weights.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from med_transfer.finetuning.config import TrainingConfig
from med_transfer.finetuning.lightning_module import FinetuningModule


def first_averaged_epoch(config: TrainingConfig) -> int:
    """The first epoch that validates averaged weights; weights of earlier epochs are not kept."""
    return min(math.ceil(config.swa_start * config.epochs), config.epochs - 1) if config.averaging == "swa" else 0


class WeightAverage(Callback):
    """Swap in the averaged weights for each validation, and the last step's weights back afterwards.

    ``ema``: exponential mean over steps (Polyak & Juditsky 1992). ``swa``: plain mean over the epochs from
    ``swa_start`` on (Izmailov et al. 2018, UAI, arXiv:1803.05407). BatchNorm's statistics are averaged like weights.
    List it after callbacks that look at the network when validation ends. Part of the saved state.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config, self.first_epoch = config, first_averaged_epoch(config)
        self._last: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start from a copy of the network."""
        averaging = get_ema_multi_avg_fn(self.config.ema_decay) if self.config.averaging == "ema" else None
        self.averaged = AveragedModel(_network(pl_module), multi_avg_fn=averaging, use_buffers=True)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the network's device."""
        self.averaged.to(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Update the exponential mean."""
        if self.config.averaging == "ema":
            self.averaged.update_parameters(_network(pl_module))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the network's weights by the mean."""
        network = _network(pl_module)
        if trainer.current_epoch < self.first_epoch:
            return
        if self.config.averaging == "swa":
            self.averaged.update_parameters(network)
        self._last = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.averaged.module.state_dict())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the last step's weights, from which training continues."""
        if self._last:
            _network(pl_module).load_state_dict(self._last)
            self._last = {}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the mean."""
        return self.averaged.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.averaged.load_state_dict(state_dict)


def _network(pl_module: L.LightningModule) -> torch.nn.Module:
    if not isinstance(pl_module, FinetuningModule):
        raise TypeError(f"{type(pl_module).__name__} has no classifier to average")
    return pl_module.classifier
