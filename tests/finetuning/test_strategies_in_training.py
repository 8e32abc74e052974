"""Strategies through the training loop: what is stored on disk, resumed, averaged and reported."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from scipy.special import softmax
from small_network import SmallEncoder, small_classifier
from small_run_data import small_config, small_run_data, source_of

from med_transfer.finetuning import features, fold_training
from med_transfer.finetuning.batches import fold_data
from med_transfer.finetuning.callbacks.checkpoints import ResumePoint
from med_transfer.finetuning.callbacks.weight_averaging import first_averaged_epoch
from med_transfer.finetuning.config import FinetuneConfig, TrainingConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.fold_training import TrainedNetwork, train_network
from med_transfer.finetuning.folds import train_folds
from med_transfer.finetuning.generalisation_gap import measure_gap
from med_transfer.finetuning.initialisation import initialise
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.finetuning.strategies.by_stage import Full
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.linear_head import probe_model
from med_transfer.predictions.labels import Labels
from med_transfer.progress import silent

PLAN = small_run_data(signal=0.7, n=36, n_test=10)
STRATEGIES = {
    "full": {},
    "lp_ft": {},
    "gradual_unfreezing": {},
    "lora": {"rank": 2},
    "adapters": {"reduction": 2},
    "surgical": {"stages": [1]},
}


def resolved(strategy: str = "full", **sections) -> FinetuneConfig:
    settings = {"name": strategy} | STRATEGIES.get(strategy, {}) | sections.pop("settings", {})
    return small_config(settings, **sections).resolved(from_source=True)


def start_classifier(config: FinetuneConfig) -> Classifier:
    classifier = small_classifier(dropout=config.training.dropout)
    config.transfer.strategy.build(classifier)
    return classifier


def run_member(
    config: FinetuneConfig, folder: Path, run_data: RunData = PLAN, progress: Callback | None = None
) -> TrainedNetwork:
    data = fold_data(run_data.prepared, run_data.split, 0)
    classifier = start_classifier(config)
    return train_network(
        classifier,
        data,
        FeatureSource(folder.parent / "features", config, run_data.preprocessing),
        folder,
        seed=0,
        progress=progress,
    )


class Kill(Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *args, **kwargs) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


class Watch(Callback):
    """The network as each epoch finds it, and as each step leaves it, and as each validation sees it."""

    def __init__(self) -> None:
        self.starts, self.steps, self.judged = [], [], []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.starts.append(weights(pl_module.classifier))

    def on_train_batch_end(self, trainer, pl_module, *args, **kwargs) -> None:
        self.steps.append((trainer.current_epoch, weights(pl_module.classifier)))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self.judged.append(weights(pl_module.classifier))


def weights(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in classifier.named_parameters()}


@pytest.mark.parametrize(
    ("strategy", "averaging"), [("full", "none"), ("gradual_unfreezing", "ema"), ("lora", "swa"), ("adapters", "ema")]
)
def test_a_killed_training_ends_as_one_that_was_not(strategy, averaging, tmp_path, monkeypatch):
    """With chance in draws, augmentation, mixup and dropout: all of it goes on where it was."""
    monkeypatch.setattr(fold_training, "ResumePoint", lambda path: ResumePoint(path, seconds=0.0))
    config = resolved(
        strategy,
        training={"averaging": averaging, "epochs": 5, "swa_start": 0.2, "dropout": 0.5},
        augmentation={"strength": 1.0, "mixup": 0.4},
        transfer={"regularise": ["delta"], "batch_norm": "bn_adapt"},
    )
    whole = run_member(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_member(config, tmp_path / "killed", progress=Kill(epoch=3))
    assert (tmp_path / "killed" / fold_training.RESUME_FILE).exists()
    again = run_member(config, tmp_path / "killed")
    assert [row["epoch"] for row in again.history] == [0, 1, 2, 3, 4]
    assert again.history == whole.history
    expected = whole.classifier.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in again.classifier.state_dict().items())


def interrupted(*_) -> None:
    raise KeyboardInterrupt


def test_early_stopping_ends_a_killed_training_where_it_ends_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(fold_training, "ResumePoint", lambda path: ResumePoint(path, seconds=0.0))
    config = resolved(training={"epochs": 12, "patience": 2, "smoothing": 0.0}, settings={"learning_rate": 1e-4})
    whole = run_member(config, tmp_path / "whole")
    n_epochs = len(whole.history)
    assert n_epochs == whole.best_epoch + 1 + 2 < 12
    for epoch in range(1, n_epochs):
        with pytest.raises(KeyboardInterrupt):
            run_member(config, tmp_path / f"{epoch}", progress=Kill(epoch))
        assert run_member(config, tmp_path / f"{epoch}").history == whole.history
    with monkeypatch.context() as patch:  # between its end and its last file
        patch.setattr(fold_training, "write_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_member(config, tmp_path / "ended")
    assert run_member(config, tmp_path / "ended").history == whole.history


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_written_is_a_plain_network_that_answers_as_the_trained_one(strategy, tmp_path):
    config = resolved(strategy)
    trained = run_member(config, tmp_path)
    stored = load_file(tmp_path / "best.safetensors")
    plain = set(small_classifier().state_dict())
    extra = {name for name in stored if name.startswith("encoder.adapters")} if strategy == "adapters" else set()
    assert set(stored) == plain | extra
    assert bool(extra) == (strategy == "adapters")
    loaded = run_member(config, tmp_path).classifier  # a finished member is read
    images = torch.randn(4, 1, 8, 8, 8)
    assert loaded(images).equal(trained.classifier(images))


def test_gradual_unfreezing_lets_a_stage_more_move_in_each_epoch(tmp_path):
    watch, source = Watch(), weights(small_classifier())
    run_member(resolved("gradual_unfreezing"), tmp_path, progress=watch)
    first: dict[str, int] = {}
    for epoch, now in watch.steps:
        for name in now:
            if not now[name].equal(source[name]):
                first.setdefault(name.removeprefix("encoder.").split(".")[0], epoch)
    assert first == {"head": 0, "layer2": 1, "layer1": 2, "conv1": 3, "bn1": 3}


def test_statistics_of_a_stage_follow_each_batch_from_when_it_learns(tmp_path):
    statistics = []

    class Means(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            means = pl_module.classifier.encoder.named_buffers()
            statistics.append({name: x.clone() for name, x in means if name.endswith("running_mean")})

    source = dict(small_classifier().encoder.named_buffers())
    config = resolved("gradual_unfreezing", transfer={"batch_norm": "train"})
    run_member(config, tmp_path, progress=Means())
    moved = [[name.split(".")[0] for name, x in now.items() if not x.equal(source[name])] for now in statistics]
    assert moved == [[], ["layer2"], ["layer1", "layer2"], ["bn1", "layer1", "layer2"]]


def test_probe_then_finetune_starts_from_the_probes_head(tmp_path):
    config, data = resolved("lp_ft"), fold_data(PLAN.prepared, PLAN.split, 0)
    classifier = start_classifier(config)
    reader = FeatureSource(tmp_path, config, PLAN.preprocessing)
    start = initialise(classifier, data, reader)
    torch.testing.assert_close(classifier.head.weight, torch.from_numpy(start.probe.weight).float())
    torch.testing.assert_close(classifier.head.bias, torch.from_numpy(start.probe.bias).float())
    probe = run_member(resolved("linear_probe"), tmp_path / "probe").classifier
    assert classifier.head.weight.equal(probe.head.weight)


def test_the_linear_probe_is_scikit_learns_regression_on_the_cached_features(tmp_path):
    config, data = resolved("linear_probe"), fold_data(PLAN.prepared, PLAN.split, 0)
    trained = run_member(config, tmp_path / "fold-0")
    source = small_classifier().state_dict()
    found = trained.classifier.state_dict()
    assert {name for name in source if not source[name].equal(found[name])} == {"head.weight", "head.bias"}

    reader = FeatureSource(tmp_path / "features", config, PLAN.preprocessing)
    known = reader.cached(trained.classifier, data.training.tensors).numpy().astype(np.float64)
    model = probe_model(trained.history[0]["inverse_strength"], balanced=True)
    expected = model.fit(known, data.training.truth.argmax(1)).predict_proba(known)
    logits = trained.classifier.head(torch.from_numpy(known).float()).detach().double().numpy()
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)


def test_frozen_features_are_computed_once(tmp_path, monkeypatch):
    computed = []
    real = features.pooled_features
    monkeypatch.setattr(features, "pooled_features", lambda *a: computed.append(len(out := real(*a))) or out)
    run_data = small_run_data(signal=0.7, n=40, n_test=4, members=4)
    config = small_config("linear_probe")
    first = train_folds(run_data, config, source_of("sees"), tmp_path, silent)
    assert sum(computed) == 40
    by_size = sorted((tmp_path / "features").iterdir(), key=lambda file: file.stat().st_size)
    assert len(by_size) == 2  # the encoder's features, and the statistics of its input, which novelty looks at
    ours = {file.name for file in by_size}
    again = train_folds(run_data, config, source_of("sees"), tmp_path, silent)
    assert sum(computed) == 40
    np.testing.assert_array_equal(first.validation, again.validation)
    train_folds(run_data, config, source_of("blind"), tmp_path / "other", silent)  # another encoder: other features
    others = {file.name for file in (tmp_path / "other/features").iterdir()}
    assert len(others & ours) == 1  # the input is the same
    for file in by_size:
        file.write_bytes(b"damaged")
    train_folds(run_data, config, source_of("sees"), tmp_path, silent)
    assert sum(computed) == 120


def by_hand(values: list[dict[str, torch.Tensor]], decay: float | None) -> dict[str, torch.Tensor]:
    """The exponential mean that starts from the first, or the plain mean."""
    mean = dict(values[0])
    for number, value in enumerate(values[1:], start=2):
        share = 1 / number if decay is None else 1 - decay
        mean = {name: mean[name] + share * (value[name] - mean[name]) for name in mean}
    return mean


def assert_each_epoch_goes_on_from_the_last_step(watch: Watch) -> None:
    """And not from the mean that validation has seen."""
    for epoch, start in enumerate(watch.starts[1:], start=1):
        last = [w for e, w in watch.steps if e < epoch][-1]
        assert all(tensor.equal(last[name]) for name, tensor in start.items())


def test_ema_is_the_exponential_mean_over_steps(tmp_path):
    watch = Watch()
    trained = run_member(resolved(training={"averaging": "ema", "ema_decay": 0.8}), tmp_path, progress=watch)
    for epoch, judged in enumerate(watch.judged):
        expected = by_hand([w for e, w in watch.steps if e <= epoch], 0.8)
        for name, tensor in judged.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    kept = dict(trained.classifier.named_parameters())
    torch.testing.assert_close(kept["head.weight"], watch.judged[trained.best_epoch]["head.weight"])
    assert_each_epoch_goes_on_from_the_last_step(watch)
    assert not torch.allclose(watch.steps[-1][1]["head.weight"], watch.judged[-1]["head.weight"])


def test_swa_is_the_mean_of_the_last_epochs_and_no_earlier_one_is_kept(tmp_path):
    watch = Watch()
    config = resolved(training={"averaging": "swa", "swa_start": 0.5, "epochs": 6, "patience": 1})
    trained = run_member(config, tmp_path, progress=watch)
    assert len(trained.history) == 6  # no early stopping
    assert trained.best_epoch >= 3
    ends = [[w for e, w in watch.steps if e == epoch][-1] for epoch in range(6)]
    for epoch in range(6):
        expected = ends[epoch] if epoch < 3 else by_hand(ends[3 : epoch + 1], None)
        for name, tensor in watch.judged[epoch].items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    assert_each_epoch_goes_on_from_the_last_step(watch)


@pytest.mark.parametrize("warmup_epochs", [0, 3])
def test_swa_keeps_the_rate_from_where_it_begins(warmup_epochs):
    config = TrainingConfig(epochs=10, warmup_epochs=warmup_epochs, averaging="swa", swa_start=0.5)
    adamw, schedule = optimiser(small_classifier(), config, Full(learning_rate=1.0), steps_per_epoch=4)
    rates = []
    for _ in range(40):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()
    assert len(set(rates[20:])) == 1
    along = np.arange(21 - 4 * warmup_epochs) / (40 - 4 * warmup_epochs)
    assert rates[4 * warmup_epochs : 21] == pytest.approx(0.505 + 0.495 * np.cos(np.pi * along))
    assert first_averaged_epoch(config) == 5


def test_gap_between_training_and_validation():
    labels, truth = Labels(("a", "b")), np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    right, half = np.where(truth, 2.0, -2.0), np.where(truth[[0, 2, 2, 0]], 2.0, -2.0)
    gap = measure_gap([(right, truth)], [(half, truth)], labels, limit=0.2)
    assert (gap.training_sensitivity, gap.validation_sensitivity, gap.difference) == (1.0, 0.5, 0.5)
    assert gap.training_loss == pytest.approx(np.log1p(np.exp(-4)))
    assert gap.validation_loss == pytest.approx((np.log1p(np.exp(-4)) + np.log1p(np.exp(4))) / 2)
    assert gap.exceeded
    assert "a gap of +0.50 (limit 0.20)" in gap.sentence
    assert "memorised their training scans" in gap.sentence
    assert not measure_gap([(right, truth)], [(half, truth)], labels, limit=0.5).exceeded
    nothing = GeneralisationGap(
        training_sensitivity=None, validation_sensitivity=None, training_loss=1, validation_loss=1, limit=0
    )
    assert (nothing.exceeded, "undefined" in nothing.sentence) == (False, True)


def test_a_network_that_learns_by_heart_is_warned_of(tmp_path, caplog):
    run_data = small_run_data(signal=0.0, n=24, n_test=4, seed=3)
    config = small_config(
        "linear_probe", transfer={"probe": {"inverse_strengths": [1e4]}}, training={"gap_limit": 0.05}
    )
    trained = train_folds(run_data, config, source_of("sees", 3), tmp_path, silent)
    assert trained.gap.exceeded
    assert [r.levelname for r in caplog.records if "a gap of" in r.message] == ["WARNING"]

    caplog.clear()
    lenient = config.model_copy(update={"training": config.training.model_copy(update={"gap_limit": 1.0})})
    with caplog.at_level(logging.INFO):
        again = train_folds(run_data, lenient, source_of("sees", 3), tmp_path, silent)
    assert again.gap.difference == trained.gap.difference > 0.2  # above the default too
    assert not again.gap.exceeded
    assert [r.levelname for r in caplog.records if "a gap of" in r.message] == ["INFO"]


def test_adapted_statistics_are_in_what_is_written_and_stay_in_training(tmp_path):
    config = resolved("full", transfer={"batch_norm": "bn_adapt"})
    trained = run_member(config, tmp_path).classifier.encoder
    source = small_classifier().encoder
    data = fold_data(PLAN.prepared, PLAN.split, 0)
    images = torch.from_numpy(np.stack(data.training.tensors)[..., 1:-1, 1:-1, 1:-1].astype(np.float32))
    with torch.no_grad():
        response = source.conv1(images)
    torch.testing.assert_close(trained.bn1.running_mean, response.mean((0, 2, 3, 4)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trained.bn1.running_mean, source.bn1.running_mean)


def test_adapted_statistics_depend_on_neither_the_order_of_the_table_nor_the_trainings_batch(tmp_path):
    """Rows sorted by class, as in many tables, against rows in another order; and a batch of one scan."""
    data = fold_data(PLAN.prepared, PLAN.split, 0)
    second = data.training.truth[:, 1]
    tensors = [tensor * (3 if bright else 1) for tensor, bright in zip(data.training.tensors, second, strict=True)]
    by_class, mixed = np.argsort(second, kind="stable"), np.random.default_rng(0).permutation(len(tensors))
    statistics = []
    for order, batch_size in ((by_class, 8), (mixed, 8), (mixed, 1)):
        config = resolved("full", transfer={"batch_norm": "bn_adapt"}, training={"batch_size": batch_size})
        training = replace(data.training, tensors=[tensors[i] for i in order], truth=data.training.truth[order])
        ordered = replace(data, training=training)
        classifier, reader = start_classifier(config), FeatureSource(tmp_path, config, PLAN.preprocessing)
        initialise(classifier, ordered, reader)
        statistics.append({name: x for name, x in classifier.encoder.state_dict().items() if "running" in name})
    first, *others = statistics
    assert all(x.equal(first[name]) for other in others for name, x in other.items())
    images = torch.from_numpy(np.stack(tensors)[..., 1:-1, 1:-1, 1:-1].astype(np.float32))
    with torch.no_grad():
        response = small_classifier().encoder.conv1(images).transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(first["bn1.running_mean"], response.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first["bn1.running_var"], response.var(axis=1, ddof=1), rtol=1e-4)


def test_novelty_of_a_network_with_few_features_and_ensembles_of_adapters_answer(tmp_path):
    trained = train_folds(
        small_run_data(0.7, 36, 4, members=2), small_config("adapters"), source_of("sees"), tmp_path, silent
    )
    assert isinstance(trained.ensemble, Ensemble)
    assert trained.validation.shape == (36, 2)
    assert isinstance(trained.fold_models[0].classifier.encoder, SmallEncoder)
    assert json.loads((tmp_path / "fold-0/history.json").read_text())["best_epoch"] == trained.fold_models[0].best_epoch
