"""Random configs from the corners of the schema: each trains to the end, the same whether it is killed or not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from config_corners import drawn
from lightning.pytorch.callbacks import Callback
from monai.data.meta_tensor import MetaTensor
from pydantic import ValidationError
from small_run_data import small_config, small_run_data, source_of

from med_transfer.errors import TrainingDiverged
from med_transfer.finetuning import FinetuneConfig, fold_training
from med_transfer.finetuning.augmentation import augmentation, margin_voxels
from med_transfer.finetuning.callbacks.checkpoints import ResumePoint
from med_transfer.finetuning.config import AugmentationConfig, TrainingConfig
from med_transfer.finetuning.folds import TrainedEnsemble, train_folds
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.finetuning.transfer_config import BSSConfig, DeltaConfig, L2SPConfig
from med_transfer.model.calibration import CalibrationConfig
from med_transfer.progress import silent

DATA = small_run_data(signal=0.7, n=12, n_test=0, members=2)
EPOCHS = 2
N_CONFIGS = 12
OWN = {"epochs", "epoch_scans", "batch_size", "workers", "precision"}  # a test cannot wait for the largest


def config_of(seed: int) -> FinetuneConfig | None:
    """A random config; None if its parts contradict each other."""
    random = np.random.default_rng(seed)
    name = str(random.choice(sorted(STRATEGIES.keys() - {"attention_probe", "auto", "scratch"})))
    strategy = {"name": name, "stages": [1]} if name == "surgical" else {"name": name}
    strategy |= drawn(STRATEGIES[name], random, 0.4, {"stages", "learning_rate"})
    penalties = [penalty for penalty in ("l2_sp", "delta", "bss") if random.random() < 0.25]
    transfer = {"regularise": penalties, "batch_norm": str(random.choice(["source", "bn_adapt", "train"]))}
    transfer |= {"l2_sp": drawn(L2SPConfig, random, 0.3), "delta": drawn(DeltaConfig, random, 0.5)}
    transfer |= {"bss": drawn(BSSConfig, random, 0.5)}
    training = {"epochs": EPOCHS, "batch_size": int(random.choice([2, 5, 64]))}
    try:
        return small_config(
            strategy,
            transfer=transfer,
            training=training | drawn(TrainingConfig, random, 0.25, OWN),
            augmentation=drawn(AugmentationConfig, random, 0.3),
            calibration=drawn(CalibrationConfig, random, 0.7),
        )
    except ValidationError:
        return None


CONFIGS = {seed: config for seed in range(200) if (config := config_of(seed)) is not None}


class Kill(Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int, *_) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("seed", list(CONFIGS)[:N_CONFIGS])
def test_a_random_config_trains_to_the_end_also_if_it_is_killed(seed, tmp_path, monkeypatch):
    config = CONFIGS[seed]
    monkeypatch.setattr(fold_training, "ResumePoint", partial(ResumePoint, seconds=0.0))

    def train(folder: str) -> TrainedEnsemble:
        return train_folds(DATA, config, source_of("sees"), tmp_path / folder, silent)

    try:
        whole = train("whole")
    except TrainingDiverged:
        return
    assert np.isfinite(whole.validation).all()
    assert whole.validation.sum(axis=1) == pytest.approx(1)
    with monkeypatch.context() as patch:
        patch.setattr("med_transfer.finetuning.folds.TrainingProgress", partial(Kill, seed % EPOCHS))
        if config.transfer.strategy.trains:
            with pytest.raises(KeyboardInterrupt):
                train("killed")
    again = train("killed")
    assert [model.history for model in again.fold_models] == [model.history for model in whole.fold_models]
    assert again.validation.tolist() == whole.validation.tolist()
    assert again.validation_novelty.tolist() == whole.validation_novelty.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_a_view_at_any_corner_of_the_augmentation_is_finite(seed):
    random, shape = np.random.default_rng(seed), ((8, 8, 8), (8, 20, 11))[seed % 2]
    low, high = ((-1.0, 1.0), (0.0, 1e-3), (-65504.0, 65504.0))[seed % 3]
    config = AugmentationConfig.model_validate(drawn(AugmentationConfig, random, 0.9) | {"flips": [0, 2]})
    size = [n + 2 * margin for n, margin in zip(shape, margin_voxels(shape), strict=True)]
    image = torch.from_numpy(random.uniform(low, high, (2, *size)).astype(np.float32))
    voxels = torch.diag(torch.tensor([5.0, 0.5, 0.5, 1.0]))
    view = augmentation(config, shape, (low, high)).set_random_state(seed)(MetaTensor(image, affine=voxels))
    assert view.shape == (2, *shape)
    assert torch.as_tensor(view).isfinite().all()
