"""Attention over features of slices or tiles that were computed once by a frozen network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_network import SmallEncoder
from small_run_data import small_config, small_run_data, source_of

from med_transfer.backbones import load_backbone
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.errors import ConfigError
from med_transfer.finetuning import features
from med_transfer.finetuning.attention_probe import LEARNING_RATE as RATE
from med_transfer.finetuning.attention_probe import WEIGHT_DECAY as DECAY
from med_transfer.finetuning.attention_probe import AttentionHead, AttentionTraining, Bags, fit_attention
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.duration import measure_cost
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.folds import train_folds
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.model.linear_head import cross_entropy
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.progress import silent

N_INSTANCES, CHANNELS = 12, 16


def bags_with_a_finding(n, strength, seed=0):
    """Noise, and in one instance of every second scan something along one direction; the last two are empty."""
    random, has = np.random.default_rng(seed), np.arange(n) % 2 == 1
    values, places = random.normal(size=(n, N_INSTANCES, CHANNELS)), random.integers(N_INSTANCES - 2, size=n)
    values[has, places[has], :4] += strength / 2
    values[:, -2:] = 0
    instances = torch.from_numpy(values).float()
    return Bags.of([instances], instances), np.stack([~has, has], axis=1), places


def patients(n):
    return [f"p{i}" for i in range(n)]


def by_hand(bags, truth, n_steps, seed):
    """The same training in a few lines: equation 9 of the paper on standardised features, AdamW as its paper has it.
    Yields logits of any raw instances after each step."""
    torch.manual_seed(seed)
    start = AttentionHead(CHANNELS, CHANNELS, 2)
    v, bv, u, bu, w, weight, bias = p = [q.detach().clone().requires_grad_() for q in start.parameters()]
    shown = bags.pooled[:, :-2]
    mean, scale = shown.flatten(0, 1).mean(0), shown.flatten(0, 1).std(0, unbiased=False)

    def logits(raw):
        h = (raw[:, :-2] - mean) / scale
        share = ((torch.tanh(h @ v.T + bv) * torch.sigmoid(h @ u.T + bu)) @ w.T).softmax(dim=1)
        return (share * h).sum(1) @ weight.T + bias

    target, first, second = torch.from_numpy(truth).long().argmax(1), [0.0] * len(p), [0.0] * len(p)
    for step in range(1, n_steps + 1):
        gradients = torch.autograd.grad(F.cross_entropy(logits(bags.pooled), target), p)
        with torch.no_grad():
            for k, g in enumerate(gradients):
                first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g**2
                p[k] *= 1 - RATE * DECAY
                moved = first[k] / (1 - 0.9**step) / ((second[k] / (1 - 0.999**step)).sqrt() + 1e-8)
                p[k] -= RATE * moved
        yield logits


def test_it_is_the_papers_formula_and_stops_where_left_out_patients_are_told_best():
    (bags, truth, _), (new, _, _) = (
        bags_with_a_finding(25, 5.0),
        bags_with_a_finding(9, 5.0, seed=1),
    )
    fitted = fit_attention(bags, truth, patients(25), AttentionTraining(40, dropout=0.0, balanced=False, seed=3))

    folds, held_out = patient_folds(truth, patients(25), 5), np.zeros((8, 25, 2))
    centred = bags.pooled[:, :-2].flatten(0, 1)
    standard = (bags.pooled - centred.mean(0)) / centred.std(0, unbiased=False)
    for fold in range(5):
        learn, rest = folds != fold, folds == fold
        torch.manual_seed(3)
        head = AttentionHead(CHANNELS, CHANNELS, 2)
        adamw = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
        for step in range(1, 41):
            parts = (standard[learn], standard[learn], bags.shown[learn])
            F.cross_entropy(head(Bags(*parts)), torch.from_numpy(truth[learn]).float()).backward()
            adamw.step()
            adamw.zero_grad()
            if step % 5 == 0:
                parts = (standard[rest], standard[rest], bags.shown[rest])
                held_out[step // 5 - 1, rest] = head(Bags(*parts)).detach().numpy()
    losses = [cross_entropy(of_look, truth, multilabel=False, balanced=False) for of_look in held_out]
    assert fitted.n_steps == 5 * (1 + int(np.argmin(losses))) > 5

    *_, logits = by_hand(bags, truth, fitted.n_steps, seed=3)
    torch.testing.assert_close(fitted.head(new), logits(new.pooled), atol=1e-5, rtol=1e-4)


def test_before_its_first_step_it_says_every_class_alike():
    bags, _, _ = bags_with_a_finding(6, 5.0)
    assert not AttentionHead(CHANNELS, CHANNELS, 3)(bags).any()


def test_attention_goes_to_the_instance_that_holds_the_finding():
    bags, truth, _ = bags_with_a_finding(60, 6.0)
    new, new_truth, places = bags_with_a_finding(60, 6.0, seed=1)
    head = fit_attention(bags, truth, patients(60), AttentionTraining()).head
    with torch.no_grad():
        weights, logits = head.attention(new.deepest, new.shown).numpy(), head(new).numpy()
    assert (logits.argmax(1) == new_truth.argmax(1)).mean() > 0.9
    assert not weights[:, -2:].any()
    assert np.mean(weights.argmax(1)[1::2] == places[1::2]) > 0.9


def test_it_ends_where_left_out_patients_are_told_no_better():
    bags, truth, _ = bags_with_a_finding(20, 0.0)
    assert fit_attention(bags, truth, patients(20), AttentionTraining(10**9)).n_steps < 100


@pytest.mark.parametrize(("balanced", "rare"), [(True, 0.5), (False, 0.34)])
def test_classes_count_alike_where_that_is_asked_for(balanced, rare):
    alike = torch.ones(50, 3, 4)
    truth = np.eye(2, dtype=bool)[(np.arange(50) % 5 == 0).astype(int)]  # ten of fifty, and nothing distinguishes them
    course = AttentionTraining(400, dropout=0.0, balanced=balanced)
    head = fit_attention(Bags.of([alike], alike), truth, ["one patient"] * 50, course).head  # no folds: all steps
    with torch.no_grad():  # on its way from .5 to .2, at the learning rate's pace
        assert head(Bags.of([alike], alike)).softmax(dim=1)[:, 1].numpy() == pytest.approx(rare, abs=0.03)


def test_findings_of_which_one_has_no_case_are_learned_too():
    bags, truth, _ = bags_with_a_finding(20, 6.0)
    truth[:, 0] = False
    head = fit_attention(bags, truth, patients(20), AttentionTraining(20, multilabel=True)).head
    assert torch.isfinite(head(bags)).all()


def test_a_run_computes_instances_once_and_keeps_the_encoder(tmp_path, monkeypatch):
    computed, real = [], features.instance_features
    monkeypatch.setattr(features, "instance_features", lambda *a: computed.append(len(out := real(*a))) or out)
    run_data, source = small_run_data(signal=0.7, n=24, n_test=4, members=2), source_of("sees")
    encoder = TileEncoder(source.encoder, (4, 4, 4))
    encoder.pool_by("attention")
    settings = {"name": "attention_probe", "steps": 20}
    trained = train_folds(run_data, small_config(settings), replace(source, encoder=encoder), tmp_path, silent)
    assert sum(computed) == 24  # not once per fold
    for fold_model in trained.fold_models:
        learned = fold_model.classifier.encoder.state_dict()
        moved = {name for name, tensor in encoder.state_dict().items() if not tensor.equal(learned[name])}
        assert moved == {f"attention.{name}" for name in encoder.attention.state_dict()}
        assert 5 <= fold_model.history[0]["steps"] <= 20
    reader = FeatureSource(tmp_path / "features", small_config(settings), run_data.preprocessing)
    tensors = [scan.tensor for scan in run_data.prepared.scans[:5]]
    classifier = trained.fold_models[1].classifier
    with torch.no_grad():
        straight = classifier.features(torch.from_numpy(np.stack(tensors))[..., 1:-1, 1:-1, 1:-1].float())
    torch.testing.assert_close(reader.cached(classifier, tensors), straight)
    assert sum(computed) == 24


def test_it_is_refused_where_there_is_no_attention():
    with pytest.raises(
        ConfigError,
        match=r"^transfer\.strategy: .*has no attention; expected slices-.* with backbone\.instance_pooling=attention",
    ):
        check_transfer(small_config("attention_probe"), SmallEncoder())


def test_its_time_is_told():
    asked = {"backbone": {"name": "tiles-med-transfer-small"}, "input": {"shape": [16, 32, 32], "region": "whole"}}

    def seconds(steps):
        settings = {"name": "attention_probe", "steps": steps}
        config = FinetuneConfig.model_validate(asked | {"transfer": {"strategy": settings}})
        return measure_cost(config, load_backbone("tiles-med-transfer-small"), Labels(("a", "b")), 0.1, 20).head

    few, many = (min(seconds(steps) for _ in range(3)) for steps in (100, 1000))  # another program slows one down
    assert 0 < 3 * few < many
