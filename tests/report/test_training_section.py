"""The learning curves of a report: epochs count from 1, and every word is in the page's language."""

import re
from pathlib import Path

import numpy as np
import pytest
from report_samples import CURVES
from small_network import small_classifier

from med_transfer.config import load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.fold_training import TrainedNetwork
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.summary import learning_curves
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.ensemble import Ensemble
from med_transfer.page.language import ENGLISH
from med_transfer.report.sections import training
from med_transfer.report.sections.training import learning_curves as drawn_curves
from med_transfer.report.writing import report_translator


def curves_of(monitor):
    """Of one network that was trained for two epochs, the second of which was kept."""
    classifier = small_classifier()
    rows = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.1, "smoothed": 0.5} for epoch in (0, 1)]
    gap = GeneralisationGap(
        training_sensitivity=0.5,
        validation_sensitivity=0.5,
        training_loss=1.0,
        validation_loss=1.1,
        limit=0.2,
    )
    networks = (TrainedNetwork(classifier, rows, best_epoch=1),)
    trained = TrainedEnsemble(Ensemble([classifier]), networks, np.zeros((0, 2)), np.zeros(0), gap)
    return learning_curves(trained, load_config(FinetuneConfig, None, [f"training.monitor={monitor}"]))


def test_epochs_count_from_1():
    """Kept is the second of three, which the history of a fold calls 1."""
    figure = drawn_curves(CURVES, ENGLISH)
    assert "member 0: 3 epochs, epoch 2 kept" in figure.caption
    ticks = re.findall(r">([\d.]+)</text>", figure.drawing)
    assert ticks[:3] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("monitor", "english", "chinese"),
    [
        ("macro_auc", "macro AUC, smoothed", "巨觀平均 AUC（平滑後）"),
        ("balanced_sensitivity", "balanced accuracy, smoothed", "平衡準確度（平滑後）"),
        ("loss", "loss, smoothed", "損失（平滑後）"),
    ],
)
def test_the_figure_that_was_watched_is_named_in_the_pages_language(monitor, english, chinese):
    curves = curves_of(monitor)
    figure = drawn_curves(curves, ENGLISH)
    assert english in figure.drawing
    assert "fold 1: 2 epochs, epoch 2 kept" in figure.caption
    t = report_translator("zh-TW").reading(Path(training.__file__).with_suffix(""))
    figure = drawn_curves(curves, t)
    assert chinese in figure.drawing
    assert "第 1 折：2 個週期，保留第 2 個週期" in figure.caption
