"""The training step's loss, its monitored figure, and what counts as better."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from med_transfer.backbones import load_backbone
from med_transfer.finetuning.alignment import Alignment, DomainAdversary
from med_transfer.finetuning.config import FinetuneConfig, TrainingConfig
from med_transfer.finetuning.early_stopping import monitored_figure
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.model.classifier import Classifier
from med_transfer.predictions.labels import Labels

RANDOM = np.random.default_rng(0)
LOGITS = torch.from_numpy(RANDOM.normal(size=(60, 3))).float()
LABELS = Labels(("a", "b", "c"))
TRUTH = torch.from_numpy(np.eye(3, dtype=bool)[RANDOM.integers(0, 3, 60)])


def module(multilabel: bool = False, alignment: Alignment | None = None, **training) -> FinetuningModule:
    classifier = Classifier(load_backbone("resnet18-w8").encoder, 3)
    config = FinetuneConfig(training=TrainingConfig(**training))
    labels = Labels(("a", "b", "c"), multilabel)
    terms = LossTerms(torch.ones(3), alignment=alignment)
    return FinetuningModule(classifier, config, terms, labels=labels, steps_per_epoch=1, seed=0)


def test_balanced_sensitivity_is_scikit_learns():
    expected = balanced_accuracy_score(TRUTH.int().argmax(1), LOGITS.argmax(1))
    assert monitored_figure("balanced_sensitivity", LOGITS, TRUTH, 0.0, LABELS) == pytest.approx(expected)


def test_macro_auc_is_scikit_learns():
    expected = roc_auc_score(TRUTH.int().argmax(1), LOGITS.softmax(1), multi_class="ovr")
    assert monitored_figure("macro_auc", LOGITS, TRUTH, 0.0, LABELS) == pytest.approx(expected)


def test_loss_can_be_monitored_and_then_lower_is_better():
    assert monitored_figure("loss", LOGITS, TRUTH, 1.25, LABELS) == 1.25
    watching = module(monitor="loss")
    assert watching.is_better(0.9, than=1.0)
    assert not watching.is_better(1.1, than=1.0)


@pytest.mark.parametrize("monitor", ["balanced_sensitivity", "loss"])
def test_no_number_is_never_better(monitor):
    assert not module(monitor=monitor).is_better(float("nan"), than=0.5)


def test_higher_is_better():
    assert module().is_better(0.6, than=0.5)
    assert not module().is_better(0.5, than=0.5)


def test_figure_is_smoothed_over_the_past():
    watching = module(smoothing=0.5)
    assert watching._smooth(0.8) == 0.8
    watching.history.append({"smoothed": 0.8})
    assert watching._smooth(0.4) == pytest.approx(0.6)


def test_loss_with_soft_targets_is_torchs():
    soft = LOGITS.softmax(1).roll(1, 0)
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(LOGITS, soft)
    torch.testing.assert_close(module().loss(LOGITS, soft, 0.1), expected)


def test_findings_are_learned_one_by_one():
    expected = nn.BCEWithLogitsLoss()(LOGITS, TRUTH.float())
    torch.testing.assert_close(module(multilabel=True).loss(LOGITS, TRUTH.float()), expected)


def test_the_domain_classifier_learns_with_the_network():
    adversary = DomainAdversary(1.0, 64)
    groups = module(alignment=adversary).configure_optimizers()["optimizer"].param_groups
    learning = {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in adversary.parameters()} <= learning
    alone = module().configure_optimizers()["optimizer"].param_groups
    assert len(groups) == len(alone) + 1
