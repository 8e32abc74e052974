"""When training stops and whose weights are kept, given validation figures that are written out here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from made_up_cohort import made_up_cohort
from safetensors.torch import load_file
from small_network import small_classifier
from small_run_data import small_config, small_run_data

from med_transfer.errors import TooFewPatients, TrainingDiverged
from med_transfer.finetuning import finetune, lightning_module
from med_transfer.finetuning.batches import fold_data
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.fold_training import train_network
from med_transfer.finetuning.run import checked_start

PLAN = small_run_data(signal=0.7, n=24, n_test=4)


class AfterEachEpoch(Callback):
    """The head's weights as each epoch leaves them."""

    def __init__(self) -> None:
        self.heads: list[torch.Tensor] = []

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self.heads.append(pl_module.classifier.head.weight.detach().clone())


class LossOfEachBatch(Callback):
    """What each step was trained on."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))


def figures(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Instead of what the network reaches on its validation scans, epoch by epoch."""
    script: Iterator[float] = iter(values)
    monkeypatch.setattr(lightning_module, "monitored_figure", lambda *_: next(script))


def train_and_check(training: dict, best: int, n_epochs: int, folder: Path) -> list[dict[str, float]]:
    """Train, and find so many epochs and the weights of the best one, in the network and in its file."""
    config = small_config("full", training=training).resolved(from_source=True)
    data, watch = fold_data(PLAN.prepared, PLAN.split, 0), AfterEachEpoch()
    trained = train_network(
        small_classifier(),
        data,
        FeatureSource(folder / "features", config, PLAN.preprocessing),
        folder,
        seed=0,
        progress=watch,
    )
    assert [row["epoch"] for row in trained.history] == list(range(n_epochs))
    assert trained.best_epoch == best
    kept = trained.classifier.head.weight
    assert [kept.equal(head) for head in watch.heads] == [epoch == best for epoch in range(n_epochs)]
    assert load_file(folder / "best.safetensors")["head.weight"].equal(kept)
    return trained.history


@pytest.mark.parametrize(
    ("monitor", "values", "best", "n_epochs"),
    [
        ("balanced_sensitivity", (0.5, 0.7, 0.9, 0.8, 0.9, 0.6, 1.0), 2, 6),  # as good as the best is no improvement
        ("balanced_sensitivity", (0.5, 0.4, 0.3, 0.6, 0.5, 0.4, 0.3), 3, 7),  # two without improvement, and on
        ("macro_auc", (0.9, 0.8, 0.7, 0.6), 0, 4),
        ("loss", (0.9, 0.7, 0.5, 0.6, 0.7, 0.8, 0.1), 2, 6),
        ("loss", (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 7, 8),  # better to the end: all epochs
    ],
)
def test_training_stops_after_the_patience_and_the_best_epoch_is_kept(
    monitor, values, best, n_epochs, tmp_path, monkeypatch
):
    figures(monkeypatch, *values)
    training = {"epochs": 8, "patience": 3, "smoothing": 0, "monitor": monitor}
    train_and_check(training, best, n_epochs, tmp_path)


def test_the_smoothed_figure_decides(tmp_path, monkeypatch):
    """Smoothed by a half the course is 0.4, 0.7, 0.75, 0.725, 0.7125: the best is not where the figure itself is."""
    figures(monkeypatch, 0.4, 1.0, 0.8, 0.7, 0.7)
    course = train_and_check({"epochs": 8, "patience": 2, "smoothing": 0.5}, 2, 5, tmp_path)
    assert [row["figure"] for row in course] == [0.4, 1.0, 0.8, 0.7, 0.7]
    assert [row["smoothed"] for row in course] == pytest.approx([0.4, 0.7, 0.75, 0.725, 0.7125])


@pytest.mark.parametrize("monitor", ["loss", "balanced_sensitivity"])  # NaN logits have a most probable class, too
def test_a_training_that_diverges_is_an_error_and_leaves_no_network(monitor, tmp_path):
    training = {"epochs": 8, "monitor": monitor, "gradient_clip": 1e30, "warmup_epochs": 0}
    config = small_config({"name": "full", "learning_rate": 1e30}, training=training).resolved(from_source=True)
    data = fold_data(PLAN.prepared, PLAN.split, 0)
    reader = FeatureSource(tmp_path / "features", config, PLAN.preprocessing)
    with pytest.raises(TrainingDiverged, match=r"epoch 1: .* not finite.*Lower transfer.strategy.learning_rate"):
        train_network(small_classifier(), data, reader, tmp_path, seed=0)
    assert not (tmp_path / "best.safetensors").exists()


def test_a_figure_that_is_no_number_takes_the_place_of_none(tmp_path, monkeypatch):
    figures(monkeypatch, 0.7, 0.5, float("nan"))
    with pytest.raises(TrainingDiverged, match="epoch 3: loss is not finite"):
        train_and_check({"epochs": 8, "monitor": "loss"}, 1, 3, tmp_path)


def test_an_epochs_training_loss_is_the_mean_of_its_batches(tmp_path):
    config = small_config("full", training={"epochs": 2}).resolved(from_source=True)
    data, watch = fold_data(PLAN.prepared, PLAN.split, 0), LossOfEachBatch()
    reader = FeatureSource(tmp_path / "features", config, PLAN.preprocessing)
    trained = train_network(small_classifier(), data, reader, tmp_path, seed=0, progress=watch)
    of_epochs = np.array(watch.losses).reshape(2, -1).mean(axis=1)
    assert [row["train_loss"] for row in trained.history] == pytest.approx(of_epochs)


@pytest.mark.parametrize("strategy", ["full", "linear_probe"])
def test_a_class_with_nobody_to_say_when_training_stops_is_refused_before_a_scan_is_read(strategy, tmp_path):
    """The baseline beside a linear probe is trained too."""
    cohort, split = made_up_cohort([*"aaaabb"]).cohort, {"folds": 2, "test_fraction": 0}
    with pytest.raises(
        TooFewPatients, match=r"^split: .*one patient outside validation 0.*from_scratch_baseline=false"
    ):
        finetune(cohort, small_config(strategy, split=split), tmp_path)
    alone = small_config(strategy, split=split, from_scratch_baseline=False)
    if strategy == "linear_probe":
        checked_start(cohort, alone)
