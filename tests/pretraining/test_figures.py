"""The figures that judge a pretraining, against scikit-learn on the same answers of an untrained network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, r2_score
from tiny import tiny_method

from med_transfer.predictions.labels import Labels
from med_transfer.pretraining import SourceScans


def judged(name: str, source: SourceScans, **changes):
    method = tiny_method(name, source, **changes).eval()
    method.begin()
    with torch.no_grad():
        return method, method.quality(method.encoder)


@torch.no_grad()
def seen(method, hu: torch.Tensor) -> list[torch.Tensor]:
    return method.maps(method.windowed(hu, degraded=False))


@torch.no_grad()
def test_facts_and_kinds_of_painted_nodules(chest):
    method, figures = judged("painted_nodules", chest, batch=32)
    hu, nodules = method._held_out_painted
    means = torch.cat([stage.mean((2, 3, 4)) for stage in seen(method, hu)[-2:]], dim=1)
    there = nodules.present
    facts = method.facts(means)[there] * method.spread + method.centre
    explained = r2_score(nodules.facts[there], facts, multioutput="raw_values")
    each = [value for name, value in figures.items() if name.startswith("explained_")]
    assert each == pytest.approx(explained, rel=1e-3, abs=1e-5)
    assert figures["explained"] == pytest.approx(explained.mean(), rel=1e-3)
    assert figures["kind_accuracy"] == pytest.approx(accuracy_score(nodules.kind, method.kind(means).argmax(1)))


@torch.no_grad()
def test_agreement_with_a_teacher(chest):
    method, figures = judged("distillation", chest)
    truth = method.teacher(method.held_out_hu).means
    said = method.loss.predicted_means(seen(method, method.held_out_hu)[-2:])
    explained = [
        r2_score((t - t.mean(0)).flatten(), (s - t.mean(0)).flatten()) for t, s in zip(truth, said, strict=True)
    ]
    assert [figures["agreement_stage_-2"], figures["agreement_stage_-1"]] == pytest.approx(explained, rel=1e-4)
    assert figures["agreement"] == pytest.approx(np.mean(explained), rel=1e-4)


@torch.no_grad()
def test_labels_and_findings(labelled):
    method, figures = judged("labels", labelled, validation_scans=4)
    truth = [method.context.validation.scans[n].label for n in method.held_out.scan]
    probabilities = method.head(method.pooled(seen(method, method.held_out.hu))).double().softmax(1)
    names = np.array(method.labels.names)
    assert figures["log_likelihood"] == pytest.approx(-log_loss(truth, probabilities, labels=names), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, names[probabilities.argmax(1)]))

    findings = [(), ("calcified",), ("solid",), ("calcified", "solid")]
    scans = tuple(replace(scan, label=frozenset(findings[n % 4])) for n, scan in enumerate(labelled.scans))
    several = SourceScans(scans, Labels(("calcified", "solid"), multilabel=True))
    method, figures = judged("labels", several, validation_scans=4)
    held_out = [method.context.validation.scans[n].label for n in method.held_out.scan]
    truth = np.array([[name in label for name in ("calcified", "solid")] for label in held_out])
    probabilities = method.head(method.pooled(seen(method, method.held_out.hu))).double().sigmoid().numpy()
    assert figures["log_likelihood"] == pytest.approx(-log_loss(truth.ravel(), probabilities.ravel()), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth.ravel(), probabilities.ravel() > 0.5))


@torch.no_grad()
def test_dice_of_masks(labelled):
    method = tiny_method("masks", labelled, validation_scans=3)
    crops = method.sampler(method.context.validation, seed=0).batch(method.config.batch, with_masks=True)
    mask = crops.mask.reshape(8, 1, 8, 1, 8, 2, 8, 2).mean((3, 5, 7))  # on the encoder's grid
    logits = mask - 0.5 + 0.25 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(0))
    method.decoded = lambda decoder, x, encoder: logits
    dice = f1_score((mask > 0.5).flatten(), (logits > 0).flatten())
    assert 0.3 < dice < 0.9
    assert method.quality(method.encoder)["dice"] == pytest.approx(dice, abs=0.005)  # a voxel is added to each


@torch.no_grad()
def test_the_other_view_of_a_crop_is_the_nearest(chest):
    method, figures = judged("contrastive", chest)
    settings = method.config.contrastive
    pairs = method.sampler(method.context.validation, seed=0).pairs(8, settings.shift, settings.stretch)
    features = torch.cat([method.pooled(seen(method, one.hu)) for one in pairs]).numpy()
    features = features - features.mean(axis=0)
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    centres, extent = pairs[0].centre_mm.numpy(), pairs[0].size_mm.mean(1).numpy()
    found, chance = [], []
    for view in range(16):
        crop = view % 8
        far = np.linalg.norm(centres - centres[crop], axis=1) >= 0.5 * extent[crop]  # of one scan
        partner = (view + 8) % 16
        among = [other for other in range(16) if other == partner or (far[other % 8] and other % 8 != crop)]
        found.append(max(among, key=lambda other, view=view: features[other] @ features[view]) == partner)
        chance.append(1 / len(among))
    assert figures["retrieval"] == pytest.approx(np.mean(found))
    assert figures["chance"] == pytest.approx(np.mean(chance))


@torch.no_grad()
def test_the_share_of_what_was_hidden_that_is_explained(chest):
    """By an untrained decoder, as by the visible mean of each crop; the student's window is 2000 HU wide."""
    method, figures = judged("masked_autoencoding", chest)
    x = method.windowed(method.held_out_hu, degraded=False)
    hidden = method._hidden(len(x), torch.Generator().manual_seed(0)) > 0
    mean = torch.stack([one[~there].mean() for one, there in zip(x, hidden, strict=True)])[:, None, None, None, None]
    filled = torch.where(hidden, mean, x)
    said = mean + method.decoder(method.maps(filled), (8, 8, 8))
    error = float((said - x)[hidden].square().mean())
    assert figures["explained"] == pytest.approx(1 - error / float((mean - x)[hidden].square().mean()), abs=1e-4)
    assert figures["error_hu"] == pytest.approx(1000 * np.sqrt(error), rel=1e-4)
