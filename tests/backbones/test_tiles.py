"""A 3D network on tiles of a scan: where they lie, which are skipped, how they are pooled, and the cost of training."""

import itertools
import math

import numpy as np
import pytest
import torch

from med_transfer.backbones import backbones, load_backbone
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.backbones.networks.resnet import slim_resnet
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.errors import BackboneError
from med_transfer.finetuning.batch_norm import adapt_statistics
from med_transfer.model.classifier import Classifier

TILE = (16, 32, 32)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def body(*shape, seed=0):
    """Noise in the middle of a scan whose first and last third of the width hold nothing."""
    x = torch.full(shape, -1.0)
    third = shape[-1] // 3
    x[..., third:-third] = rand(*shape, seed=seed)[..., third:-third]
    return x


@pytest.fixture(scope="module")
def encoder():
    """The shipped weights, with an attention that has an opinion."""
    tiles = load_backbone("tiles-med-transfer-small").encoder.eval()
    torch.nn.init.normal_(tiles.attention.score.weight, generator=torch.Generator().manual_seed(4))
    return tiles


@pytest.fixture(scope="module")
def base():
    return load_backbone("med-transfer-small").encoder.eval()


def cut_by_hand(x, starts):
    return [x[:, :, k : k + 16, i : i + 32, j : j + 32] for k, i, j in itertools.product(*starts)]


def test_how_much_tiles_overlap_is_chosen():
    shape = (48, 96, 96)
    for overlap, starts in ((None, (0, 11, 21, 32)), (0.0, (0, 16, 32)), (0.5, (0, 8, 16, 24, 32))):
        cuts = load_backbone("tiles-med-transfer-small", instances=InstanceChoice(tile_overlap=overlap)).encoder.cuts(
            shape
        )
        assert sorted({depth.start for depth, _, _ in cuts}) == list(starts)
        assert len(cuts) == len(starts) ** 3
    with pytest.raises(BackboneError, match=r"0\.5 with slices-efficientnet-lite0, which has no tiles"):
        load_backbone("slices-efficientnet-lite0", instances=InstanceChoice(tile_overlap=0.5))


@torch.no_grad()
def test_each_voxel_of_a_map_is_the_mean_of_the_networks_map_of_one_tile(encoder, base):
    x = rand(2, 1, 28, 56, 44)
    maps = encoder(x)
    starts = ((0, 12), (0, 24), (0, 12))  # a quarter of 16 and 32 overlaps, and the last ones end at the edge
    assert [tuple(m.shape) for m in maps] == [(2, c, 2, 2, 2) for c in (32, 64, 128, 256)]
    for number, tile in enumerate(cut_by_hand(x, starts)):
        k, i, j = np.unravel_index(number, (2, 2, 2))
        for mine, theirs in zip(maps, base(tile), strict=True):
            torch.testing.assert_close(mine[:, :, k, i, j], theirs.mean((2, 3, 4)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_are_those_of_the_paper(encoder, base):
    x, attention = rand(1, 1, 16, 32, 80), encoder.attention
    tiles = [base(x[..., j : j + 32]) for j in (0, 24, 48)]
    h = np.stack([maps[3].mean((2, 3, 4)).numpy()[0] for maps in tiles])
    gated = np.tanh(h @ attention.value.weight.numpy().T + attention.value.bias.numpy())
    gated = gated / (1 + np.exp(-(h @ attention.gate.weight.numpy().T + attention.gate.bias.numpy())))
    raised = np.exp(gated @ attention.score.weight.numpy()[0])
    expected = (raised / raised.sum()) @ h
    features = Classifier(encoder, 2, pooled_stages=(-1,)).features(x)
    np.testing.assert_allclose(features.numpy()[0], expected, rtol=1e-4, atol=1e-5)
    assert abs(raised / raised.sum() - 1 / 3).max() > 0.001


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "max", "mean_max", "log_mean_exp", "top_k"])
def test_other_poolings_are_what_they_are_called(base, pooling):
    x = rand(2, 1, 16, 56, 80)
    encoder = load_backbone("tiles-med-transfer-small", instances=InstanceChoice(pooling)).encoder.eval()
    rows = [base(x[..., i : i + 32, j : j + 32])[3].mean((2, 3, 4)).numpy() for i in (0, 24) for j in (0, 24, 48)]
    h = np.stack(rows, 1)  # scan, tile, channel
    expected = {
        "mean": h.mean(1),
        "max": h.max(1),
        "mean_max": np.concatenate([h.mean(1), h.max(1)], 1),
        "log_mean_exp": np.log(np.exp(h.astype(np.float64)).mean(1)),
        "top_k": np.sort(h, 1)[:, -3:].mean(1),
    }[pooling]
    classifier = Classifier(encoder, 2, pooled_stages=(-1,))
    assert classifier.n_features == expected.shape[1]
    np.testing.assert_allclose(classifier.features(x).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
@torch.no_grad()
def around_a_body(encoder):
    """Maps of a body in air, and of the same with more air around it, which has no noise or a little."""
    x = torch.full((1, 1, 40, 80, 104), -1.0)
    x[..., 12:28, 24:56, 48:80] = rand(16, 32, 32)
    wider = torch.nn.functional.pad(x, (48, 24, 24, 72, 12, 0), value=-1.0)  # whole steps from tile to tile
    noisy = wider + 0.01 * torch.randn(wider.shape, generator=torch.Generator().manual_seed(1))
    return encoder(x), encoder(wider), encoder(noisy)


def test_a_tile_of_air_is_skipped_also_where_it_has_noise(around_a_body):
    _, wider, noisy = (maps[-1] for maps in around_a_body)
    assert 0 < (wider != 0).any(1).sum() < wider[0, 0].numel()
    assert torch.equal((noisy != 0).any(1), (wider != 0).any(1))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["attention", "mean", "max", "mean_max", "log_mean_exp", "top_k"])
def test_what_lies_outside_the_body_changes_nothing(around_a_body, pooling):
    """Of every pooling, which all have the same maps."""
    encoder = load_backbone("tiles-med-transfer-small", instances=InstanceChoice(pooling)).encoder.eval()
    classifier = Classifier(encoder, 2).eval()
    alone, wider, _ = (classifier.head(classifier.pool(maps)) for maps in around_a_body)
    torch.testing.assert_close(wider, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_scan_beside_another_and_one_that_is_dark_throughout(encoder):
    x = torch.cat([body(1, 1, 16, 56, 104), torch.full((1, 1, 16, 56, 104), -1.0)])
    both = encoder.pool(encoder(x), (2, 3))
    alone = torch.cat([encoder.pool(encoder(scan[None]), (2, 3)) for scan in x])
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)
    assert both.isfinite().all()


@torch.no_grad()
def test_a_tile_that_moves_changes_no_feature_and_the_weights_move_with_it(encoder):
    parts = [rand(1, 1, 16, 32, 32, seed=seed) for seed in range(3)]
    tiles = TileEncoder(encoder.tiled, TILE, overlap=0.0).eval()
    tiles.attention.load_state_dict(encoder.attention.state_dict())
    first, second = (torch.cat([parts[n] for n in order], dim=-1) for order in ((0, 1, 2), (2, 0, 1)))
    torch.testing.assert_close(tiles.pool(tiles(first), (3,)), tiles.pool(tiles(second), (3,)), rtol=1e-4, atol=1e-5)
    weights = tiles.instance_weights(tiles(first))[:, [2, 0, 1]]
    torch.testing.assert_close(tiles.instance_weights(tiles(second)), weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 32, 32), (8, 32, 20), (17, 33, 95), (40, 96, 31), (100, 300, 200)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_reach_every_voxel_overlap_enough_and_lie_alike_from_both_ends(shape, overlap):
    boxes = TileEncoder(slim_resnet(), TILE, overlap).cuts(shape)
    assert len(set(map(str, boxes))) == len(boxes)
    for n, size, sides in zip(shape, TILE, zip(*boxes, strict=True), strict=True):
        sides = sorted({(side.start, side.stop) for side in sides})
        assert sides[0][0] == 0
        assert sides[-1][1] == n
        assert {stop - start for start, stop in sides} == {min(n, size)}
        steps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(sides)]
        assert all(step <= max(1, int(size * (1 - overlap))) for step in steps)
        assert max(steps, default=0) - min(steps, default=0) <= 1
        assert len(sides) == 1 + math.ceil((n - min(n, size)) / int(size * (1 - overlap)))


def both_ways(encoder, x, monkeypatch):
    """Gradients and state after a step with everything kept in memory, and with it computed again."""
    results = []
    for keep in (True, False):
        encoder.load_state_dict(encoder.start)
        encoder.zero_grad()
        with monkeypatch.context() as patch:
            if keep:
                patch.setattr("med_transfer.backbones.networks.tiles.checkpoint", lambda run, x, **_: run(x))
            encoder.pool(encoder(x), (2, 3)).square().sum().backward()
        state = {name: values.clone() for name, values in encoder.state_dict().items() if "num_batches" not in name}
        results.append(({name: p.grad.clone() for name, p in encoder.named_parameters()}, state))
    return results


@pytest.mark.parametrize("training", [False, True])
def test_computing_again_changes_no_gradient_and_no_statistics(training, monkeypatch):
    encoder = load_backbone("tiles-med-transfer-small").encoder.train(training)
    encoder.start = {name: values.clone() for name, values in encoder.state_dict().items()}
    torch.nn.init.normal_(encoder.start["attention.score.weight"])
    (kept, state), (again, state_again) = both_ways(encoder, body(2, 1, 28, 56, 104), monkeypatch)
    assert all(gradient.abs().sum() > 0 for gradient in kept.values())
    torch.testing.assert_close(again, kept)
    torch.testing.assert_close(state_again, state)
    assert training == any(not torch.equal(state[name], encoder.start[name]) for name in state)


def test_a_scan_of_a_hundred_tiles_keeps_little_more_than_one_of_thirty():
    encoder = TileEncoder(slim_resnet(8), TILE).train()

    def kept_bytes(x):
        kept = {}

        def note(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = encoder.pool(encoder(x), (3,))
        n_tiles = len(encoder.cuts(x.shape[2:]))
        features.sum().backward()
        return n_tiles, sum(kept.values())

    few, small = kept_bytes(rand(1, 1, 28, 104, 104))
    many, large = kept_bytes(rand(1, 1, 64, 128, 104))
    assert (few, many) == (32, 100)
    assert large < 100 * 4 * (16 * 32 * 32 + 8 * 120) + small  # the tiles' voxels and features, no map of any layer
    assert large < 10e6  # with the maps 205e6


def test_every_parameter_learns_and_frozen_ones_do_not():
    classifier = Classifier(load_backbone("tiles-med-transfer-small").encoder, 2)
    classifier.encoder.tiled.layer1.requires_grad_(False)
    torch.nn.init.normal_(classifier.encoder.attention.score.weight)
    torch.nn.functional.cross_entropy(classifier(body(2, 1, 16, 56, 104)), torch.tensor([0, 1])).backward()
    learned = {name for name, p in classifier.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    frozen = {name for name, _ in classifier.named_parameters() if "layer1" in name}
    assert learned == {name for name, _ in classifier.named_parameters()} - frozen
    assert all(p.grad is None for p in classifier.encoder.tiled.layer1.parameters())


def test_batch_statistics_of_a_batch_with_one_tile_left_over():
    encoder = TileEncoder(slim_resnet(), (16, 16, 16)).train()  # of which the deepest map is a single voxel
    x = rand(1, 1, 16, 16, 16 + 12 * 64)  # 65 tiles, in chunks of at most 64
    assert encoder.pool(encoder(x), (3,)).isfinite().all()
    adapt_statistics(encoder, [x, x])
    assert encoder.tiled.bn1.running_var.isfinite().all()


@torch.no_grad()
def test_two_equal_channels_give_what_one_gave(base):
    one = load_backbone("tiles-med-transfer-small", instances=InstanceChoice("max")).encoder.eval()
    two = load_backbone("tiles-med-transfer-small", channels=2, instances=InstanceChoice("max")).encoder.eval()
    x = body(1, 1, 16, 56, 104)
    torch.testing.assert_close(two.pool(two(x.repeat(1, 2, 1, 1, 1)), (3,)), one.pool(one(x), (3,)))
    part = x.clone()
    part[:] = -1.0
    half = torch.cat([part, x], 1)  # a tile that is empty in one channel only is not skipped
    assert torch.equal((two(half)[-1] != 0).any(1), (one(x)[-1] != 0).any(1))


def test_weights_come_unchanged_and_the_attention_is_new():
    loaded = load_backbone("tiles-med-transfer-small")
    base = load_backbone("med-transfer-small")
    assert loaded.sha256 == base.sha256
    assert {name.split(".")[0] for name in loaded.report.fresh} == {"attention"}
    assert loaded.report.matched_share == 1
    for name, values in base.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[f"tiled.{name}"], values)
    assert [len(list(s.parameters())) for s in loaded.encoder.stages()[:-1]] == [
        len(list(s.parameters())) for s in base.encoder.stages()[:-1]
    ]


@pytest.mark.parametrize("name", ["tiles-med-transfer-small", "tiles-resnet18-w32", "tiles-astra"])
def test_entry_states_its_network(name):
    spec = backbones()[name]
    with torch.device("meta"):
        encoder = spec.build()
    assert spec.parameters == sum(p.numel() for p in encoder.parameters())
    assert spec.stage_channels == encoder.stage_channels
    assert spec.instances == "tiles"


def test_pooling_of_a_network_that_has_nothing_to_pool_is_refused():
    with pytest.raises(BackboneError, match=r"instance_pooling: max with med-transfer-small, .*slices or tiles"):
        load_backbone("med-transfer-small", instances=InstanceChoice("max"))
