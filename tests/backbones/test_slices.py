"""A 2D network on every slice, attention over slices, and a bundle of such a network."""

import nibabel
import numpy as np
import pytest
import torch
from planar_reference import random_planar_state, resnet

from med_transfer.backbones import load_backbone
from med_transfer.backbones.networks.instances import GatedAttention
from med_transfer.bundle import (
    BackboneRecord,
    BundleRecord,
    InputEnvelope,
    Provenance,
    load_network,
    save_bundle,
)
from med_transfer.finetuning.strategies.by_stage import Full
from med_transfer.inference import Predictor
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def state():
    return random_planar_state(18)


@pytest.fixture
def encoder(tmp_path, state):
    """ResNet-18 on slices, with an attention that has an opinion."""
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")
    loaded = load_backbone("slices-resnet18", tmp_path / "resnet18-f37072fd.pth").encoder.eval()
    torch.nn.init.normal_(loaded.attention.score.weight, generator=torch.Generator().manual_seed(4))
    return loaded


@torch.no_grad()
def test_it_says_which_parts_it_takes_one_by_one(encoder):
    encoder, x = encoder.double(), rand(1, 1, 3, 40, 48).double()  # in which no processor's rounding shows
    maps, parts = encoder(x), encoder.cuts((3, 40, 48))
    assert len(parts) == 3
    for index, part in enumerate(parts):
        for whole, alone in zip(maps, encoder(x[:, :, *part]), strict=True):
            torch.testing.assert_close(alone[:, :, 0], whole[:, :, index], rtol=1e-4, atol=1e-4)


def test_channels_lie_last_from_the_first_convolution_to_the_last(encoder):
    layouts = []
    for name in ("conv1", "layer4"):
        part = encoder.net.get_submodule(name)
        part.register_forward_pre_hook(lambda _, given: layouts.append(given[0].stride(1)))
    encoder.train()(rand(1, 1, 3, 40, 48))[-1].sum().backward()
    with torch.no_grad():
        encoder.eval()(rand(1, 1, 3, 40, 48))
    assert layouts == [1, 1, 1, 1]


@torch.no_grad()
def test_each_slice_of_a_map_is_the_2d_network_on_that_slice(encoder, state):
    x = rand(2, 1, 3, 40, 48)
    maps = encoder(x)
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 3, h, w) for c, h, w in [(64, 10, 12), (128, 5, 6), (256, 3, 3), (512, 2, 2)]
    ]
    for index in range(3):
        photograph = (x[:, :, index].repeat(1, 3, 1, 1) - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        for mine, theirs in zip(maps, resnet(18, state, photograph), strict=True):
            assert theirs.abs().mean() > 0.1
            torch.testing.assert_close(mine[:, :, index], theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_is_that_of_the_paper():
    torch.manual_seed(0)
    attention, features = GatedAttention(6, hidden=5), torch.randn(2, 4, 6)
    attention.score.weight.normal_()
    h, v, u = features.numpy(), attention.value, attention.gate
    gated = np.tanh(h @ v.weight.numpy().T + v.bias.numpy())
    gated = gated / (1 + np.exp(-(h @ u.weight.numpy().T + u.bias.numpy())))
    raised = np.exp((gated @ attention.score.weight.numpy().T)[..., 0])
    np.testing.assert_allclose(attention(features).numpy(), raised / raised.sum(1, keepdims=True), rtol=1e-5)


@torch.no_grad()
def test_slice_weights_sum_to_one_and_differ(encoder):
    weights = encoder.instance_weights(encoder(rand(2, 1, 6, 32, 32)))
    assert weights.shape == (2, 6)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights.std(1).min() > 0.001


@torch.no_grad()
def test_features_are_weighted_means_over_slices(encoder):
    x = rand(2, 1, 5, 32, 32)
    maps, classifier = encoder(x), Classifier(encoder, 3, pooled_stages=(1, 3)).eval()
    weights = encoder.instance_weights(maps).numpy()
    expected = [(m.numpy().mean((3, 4)) * weights[:, None]).sum(2) for m in (maps[1], maps[3])]
    np.testing.assert_allclose(classifier.features(x).numpy(), np.concatenate(expected, 1), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_order_of_slices_changes_no_feature_but_moves_the_weights(encoder):
    x, order = rand(1, 1, 6, 32, 32), torch.tensor([3, 0, 5, 1, 4, 2])
    classifier = Classifier(encoder, 2).eval()
    torch.testing.assert_close(classifier.features(x[:, :, order]), classifier.features(x), rtol=1e-4, atol=1e-5)
    moved = encoder.instance_weights(encoder(x[:, :, order]))
    torch.testing.assert_close(moved, encoder.instance_weights(encoder(x))[:, order], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_untrained_attention_is_the_mean():
    encoder = load_backbone("slices-resnet18", scratch=True).encoder.eval()
    maps = encoder(rand(1, 1, 4, 32, 32))
    torch.testing.assert_close(encoder.pool(maps, (3,)), maps[3].mean((2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_attention_from_the_first_step():
    classifier = Classifier(load_backbone("slices-resnet18", scratch=True).encoder, 2)
    optimiser = torch.optim.SGD(classifier.parameters(), lr=0.1)
    for _ in range(2):  # the score leaves zero in the first step, what lies behind it learns in the second
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(classifier(rand(2, 1, 3, 32, 32)), torch.tensor([0, 1])).backward()
        assert classifier.encoder.attention.score.weight.grad.abs().sum() > 0
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters())


def test_all_stages_frozen_freezes_the_attention_with_them():
    classifier = Classifier(load_backbone("slices-resnet18", scratch=True).encoder, 2)
    Full(freeze_stages=4).set_learning(classifier, 0)
    assert all(p.requires_grad for p in classifier.encoder.attention.parameters())
    Full(freeze_stages=5).set_learning(classifier, 0)
    assert not any(p.requires_grad for p in classifier.encoder.parameters())


def test_bundle_is_rebuilt_predicts_and_is_a_source(tmp_path, encoder):
    spec = load_backbone("slices-resnet18", scratch=True).spec
    preprocessing = PreprocessingConfig(
        shape=(8, 32, 32), spacing_mm=(5, 2, 2), window_hu=spec.input.window_hu, output_range=spec.input.output_range
    )
    record = BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=preprocessing,
        n_fold_models=1,
        backbone=BackboneRecord(name=spec.name, pooled_stages=(-1,), licence=spec.licence, source=spec.source),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )
    ensemble = Ensemble([Classifier(encoder, 2)]).eval()
    bundle = save_bundle(tmp_path / "bundle", record, ensemble, "")
    hu = np.random.default_rng(0).integers(-900, 300, (32, 32, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "scan.nii.gz")

    predictor = Predictor(bundle, "cpu")
    prediction = predictor.predict(tmp_path / "scan.nii.gz")

    image = predictor.preprocessing(predictor.read(tmp_path / "scan.nii.gz"))[None]
    with torch.no_grad():
        expected = ensemble(image)[0]
        assert torch.equal(load_network(bundle)(image)[0], expected)
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert prediction.predicted == ("benign", "malignant")[int(expected.argmax())]
    loaded = load_backbone("slices-resnet18", bundle)
    assert loaded.report.matched_share == 1
    assert not loaded.report.fresh
    assert torch.equal(loaded.encoder.attention.score.weight, encoder.attention.score.weight)


def test_what_leads_to_a_map_is_not_kept_for_its_gradient(encoder, monkeypatch):
    """Of an encoder that does not train; the gradients are those of all slices at once."""
    encoder, x, kept = encoder.double(), rand(1, 1, 6, 64, 64).double(), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one)
    monkeypatch.setattr("med_transfer.backbones.networks.slices._CHUNK_PIXELS", 2 * 64 * 64)

    def gradients() -> tuple[torch.Tensor, ...]:
        kept.clear()
        with hooks:
            maps = encoder(x)
        wanted = [maps[-1], *encoder.parameters()]
        return torch.autograd.grad(encoder.pool(maps, (-1,)).square().sum(), wanted, allow_unused=True)

    few = gradients()
    assert sum(kept) <= 3 * x.numel()  # the slices themselves, as photographs
    monkeypatch.setattr(encoder, "_in_chunks", encoder.net_maps)
    for found, expected in zip(few, gradients(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert sum(kept) > sum(one.numel() for one in encoder(x))


@torch.no_grad()
def test_slices_pass_a_few_at_a_time_and_empty_ones_not_at_all(encoder, monkeypatch):
    x = rand(2, 1, 7, 32, 32)
    expected = encoder(x)
    x[0, :, [0, 6]] = 0.0
    passed, net_maps = [], encoder.net_maps
    monkeypatch.setattr(encoder, "net_maps", lambda slices: passed.append(len(slices)) or net_maps(slices))
    monkeypatch.setattr("med_transfer.backbones.networks.slices._CHUNK_PIXELS", 4 * 32 * 32)
    encoder(x)
    assert passed == [4, 4, 4, 2]
    passed.clear()
    encoder.pool_by("max")
    for found, whole in zip(encoder(x), expected, strict=True):
        assert (found[0, :, [0, 6]] == 0).all()
        torch.testing.assert_close(found[0, :, 1:6], whole[0, :, 1:6], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1], whole[1], rtol=1e-4, atol=1e-5)
    assert passed == [4, 4, 4]
