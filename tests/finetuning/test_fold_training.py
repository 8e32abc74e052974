"""What the training of a fold reports as it runs, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, log_loss
from small_network import small_classifier
from small_run_data import small_config, small_run_data

from med_transfer.finetuning import fold_training
from med_transfer.finetuning.alignment import Alignment
from med_transfer.finetuning.batches import fold_data
from med_transfer.finetuning.callbacks.progress import TrainingProgress
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.fold_training import TrainedNetwork, train_network

PLAN = small_run_data(signal=0.7, n=24, n_test=4)
OTHERS = small_run_data(signal=0.7, n=10, n_test=0, seed=7)
EPOCHS, BATCHES = 3, 2  # 16 scans learn, 8 a batch


def train(folder: Path, progress: Callback | None = None, **transfer) -> TrainedNetwork:
    config = small_config("full", transfer=transfer, training={"epochs": EPOCHS}).resolved(from_source=True)
    reader = FeatureSource(folder / "features", config, PLAN.preprocessing)
    data = fold_data(PLAN.prepared, PLAN.split, 0, OTHERS.prepared)
    return train_network(small_classifier(), data, reader, folder, seed=0, progress=progress)


def test_lightning_writes_nothing_of_its_own_and_says_nothing(tmp_path, monkeypatch, capfd):
    """Neither its logs nor its checkpoints where the command was typed, nor bars among our progress."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    train(Path("../fold"))
    assert list(here.iterdir()) == []
    assert {path.name for path in (tmp_path / "fold").iterdir()} == {"best.safetensors", "history.json"}
    assert capfd.readouterr() == ("", "")


def test_each_step_is_told_with_the_figure_of_the_epoch_before(tmp_path):
    said = []
    history = train(tmp_path, TrainingProgress("fine-tuning", lambda *words: said.append(words))).history
    figures = [f", balanced accuracy {row['smoothed']:.3f}" for row in history]
    notes = [f"epoch {epoch + 1}{figure}" for epoch, figure in enumerate(["", *figures[:-1]])]
    assert said == [("fine-tuning", step + 1, EPOCHS * BATCHES, notes[step // BATCHES]) for step in range(6)]


def test_the_best_epochs_row_is_what_its_network_reaches_on_the_validation_scans(tmp_path):
    trained, validation = train(tmp_path), fold_data(PLAN.prepared, PLAN.split, 0).validation
    images = np.stack(validation.tensors)[..., 1:-1, 1:-1, 1:-1].astype(np.float32)
    with torch.no_grad():
        logits = trained.classifier(torch.from_numpy(images)).double().numpy()
    row, truth = trained.history[trained.best_epoch], validation.truth.argmax(1)
    assert row["val_loss"] == pytest.approx(log_loss(truth, softmax(logits, axis=1)), rel=1e-5)
    assert row["figure"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))


class Remembering(Alignment):
    """An alignment whose loss is the number of the step."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.progress = []

    def forward(self, labelled: torch.Tensor, unlabelled: torch.Tensor, progress: float) -> torch.Tensor:
        assert labelled.shape == unlabelled.shape == (8, 6)
        self.progress.append(progress)
        return 0 * labelled.sum() + len(self.progress)


def test_the_alignment_hears_how_far_the_training_is_and_its_loss_is_in_the_history(tmp_path, monkeypatch):
    alignment = Remembering()
    monkeypatch.setattr(fold_training, "find_alignment", lambda *_: alignment)
    history = train(tmp_path, align={"method": "mmd", "unlabelled": "."}).history
    assert alignment.progress == pytest.approx(np.arange(6) / 6)
    assert [row["alignment"] for row in history] == [1.5, 3.5, 5.5]
