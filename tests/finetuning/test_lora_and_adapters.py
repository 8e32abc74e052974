"""Low-rank changes and adapters: identity at the start, exact when merged, and only their parameters are trained."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from small_network import SmallEncoder, small_classifier, small_images
from test_strategies import config, moved, state, train
from torch import nn

from med_transfer.backbones import Encoder, backbones, find_backbone, load_backbone
from med_transfer.backbones.adapters import Adapter, add_adapters
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.errors import BackboneError, ConfigError, MissingExtra
from med_transfer.finetuning.strategies.adapters import Adapters
from med_transfer.finetuning.strategies.lora import LoRA, LowRankChange, _weights
from med_transfer.model.classifier import Classifier


def trained_lora(rank: int = 2):
    classifier, strategy = small_classifier(), LoRA(rank=rank, alpha=4.0)
    strategy.prepare(classifier)
    before = state(classifier)
    train(classifier, config("lora", settings={"rank": rank, "alpha": 4.0}))
    return classifier, strategy, before


def test_lora_starts_as_the_source():
    classifier = small_classifier().eval()
    expected = classifier(small_images())
    LoRA().prepare(classifier)
    assert classifier(small_images()).equal(expected)


def test_only_the_changes_and_the_head_learn():
    classifier, _, before = trained_lora()
    learned = moved(classifier, before)
    assert learned == {name for name in before if name.endswith((".down", ".up")) or name.startswith("head")}
    for name, parameter in classifier.named_parameters():
        assert (parameter.grad is not None) == (name in learned), name


def test_merged_equals_unmerged_and_the_network_is_plain_again():
    classifier, strategy, _ = trained_lora()
    classifier.eval()
    expected = classifier(small_images())
    strategy.finish(classifier)
    torch.testing.assert_close(classifier(small_images()), expected, rtol=0, atol=1e-6)
    assert set(classifier.state_dict()) == set(small_classifier().state_dict())
    assert not any(isinstance(module, LowRankChange) for module in classifier.modules())


def test_a_change_is_a_convolution_to_few_channels_and_one_of_kernel_one():
    """The way in which LoRA for convolutions is usually written, as an independent reference."""
    torch.manual_seed(0)
    layer, x = nn.Conv3d(3, 5, 3, stride=2, padding=1, dilation=1), torch.randn(2, 3, 9, 9, 9)
    change = LowRankChange(layer.weight, rank=2, alpha=6.0)
    nn.init.normal_(change.up)
    inner = F.conv3d(x, change.down.view(2, 3, 3, 3, 3), stride=2, padding=1)
    beside = layer(x) + 3.0 * F.conv3d(inner, change.up.view(5, 2, 1, 1, 1))
    merged = F.conv3d(x, change(layer.weight), layer.bias, stride=2, padding=1)
    torch.testing.assert_close(merged, beside, rtol=1e-5, atol=1e-5)


def test_a_change_begins_as_nothing_and_its_inner_layer_as_torchs_linear_layers_do():
    torch.manual_seed(3)
    change = LowRankChange(torch.ones(5, 2, 3), rank=4, alpha=6.0)
    torch.manual_seed(3)
    assert change.down.equal(nn.Linear(6, 4, bias=False).weight)
    assert change(torch.ones(5, 2, 3)).equal(torch.ones(5, 2, 3))
    assert LowRankChange(torch.ones(5, 6), rank=9, alpha=6.0).down.shape == (5, 6)  # no rank beyond the weight's own
    elsewhere = LowRankChange(torch.ones(5, 6, device="meta"), rank=2, alpha=6.0)
    assert {p.device.type for p in elsewhere.parameters()} == {"meta"}


@pytest.mark.parametrize("layer", [nn.Conv3d(3, 5, 3, padding=1), nn.Linear(6, 5)], ids=["convolution", "linear"])
def test_same_as_peft(layer):
    peft = pytest.importorskip("peft", reason="pip install peft")
    x = torch.randn(2, 3, 4, 4, 4) if isinstance(layer, nn.Conv3d) else torch.randn(2, 6)
    wrapped = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], init_lora_weights=False),
        nn.Sequential(copy.deepcopy(layer)),
    )
    change = LowRankChange(layer.weight, rank=2, alpha=6.0)
    with torch.no_grad():
        change.down.copy_(wrapped[0].lora_A["default"].weight.flatten(1))
        change.up.copy_(wrapped[0].lora_B["default"].weight.flatten(1))
        expected = wrapped(x)
        layer.weight.copy_(change(layer.weight))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_gets_changes_too():
    encoder = SmallEncoder()
    encoder.add_module("attention", nn.MultiheadAttention(8, 2, batch_first=True))
    assert [name for layer, name in _weights(encoder) if layer is encoder.attention] == ["in_proj_weight"]
    classifier = small_classifier()
    classifier.encoder.add_module("attention", encoder.attention)
    attention, tokens = encoder.attention.eval(), torch.randn(2, 5, 8)
    plain = attention(tokens, tokens, tokens)[0]
    strategy = LoRA(rank=2)
    strategy.prepare(classifier)
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], plain)
    for module in attention.modules():
        if isinstance(module, LowRankChange):
            nn.init.normal_(module.up)
    changed = attention(tokens, tokens, tokens)[0]
    assert not torch.allclose(changed, plain)
    strategy.finish(classifier)
    torch.testing.assert_close(attention(tokens, tokens, tokens)[0], changed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(backbones()))
def test_every_matrix_and_kernel_of_every_backbone_gets_a_change(name):
    with torch.device("meta"):
        try:
            encoder = find_backbone(name).build()
        except MissingExtra as error:
            pytest.skip(str(error))
    changed = {id(getattr(layer, weight)) for layer, weight in _weights(encoder)}
    left = [name for name, weight in encoder.named_parameters() if weight.ndim > 1 and id(weight) not in changed]
    left = [name for name in left if name.split(".")[0] not in encoder.new_parts]  # which learn as a whole
    assert all(name.endswith("relative_position_bias_table") for name in left)  # added to attention, multiplies nothing


def test_acs_convolutions_learn_a_change_that_is_merged_exactly():
    classifier = Classifier(load_backbone("acs-resnet18", scratch=True, seed=0).encoder, 3).eval()
    x = torch.randn(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    strategy, before = LoRA(rank=2), state(classifier)
    with torch.no_grad():
        plain = classifier(x)
        strategy.prepare(classifier)
        assert classifier(x).equal(plain)
        for module in classifier.modules():
            if isinstance(module, LowRankChange):
                nn.init.normal_(module.up, std=0.1)
        changed = classifier(x)
        strategy.finish(classifier)
        torch.testing.assert_close(classifier(x), changed)
    assert not torch.allclose(changed, plain)
    assert sum(name.endswith("weight") for name in moved(classifier, before)) == 20  # every convolution


def test_lora_needs_a_layer():
    class Nothing(Encoder):
        stage_channels = (1,)

    with pytest.raises(ConfigError, match=r"^transfer\.strategy: .*no convolution or linear layer"):
        LoRA().check(Nothing())


def test_adapters_start_as_the_source_and_only_they_and_the_head_learn():
    classifier = small_classifier().eval()
    expected = classifier(small_images())
    Adapters(reduction=2).build(classifier)
    assert classifier(small_images()).equal(expected)
    before = state(classifier)
    train(classifier, config("adapters"), steps=4)  # down learns from the second step on: at first up is zero
    assert moved(classifier, before) == {name for name in before if name.startswith(("encoder.adapters", "head"))}
    assert not torch.allclose(classifier.eval()(small_images()), expected)


def test_an_adapter_is_the_bottleneck_of_its_formula():
    torch.manual_seed(0)
    adapter, x = Adapter(6, reduction=2), torch.randn(2, 6, 3, 4, 5)
    nn.init.normal_(adapter.up.weight)
    inner = F.gelu(F.conv3d(x, adapter.down.weight[:, :, None, None, None], adapter.down.bias))
    expected = x + F.conv3d(inner, adapter.up.weight[:, :, None, None, None], adapter.up.bias)
    torch.testing.assert_close(adapter(x), expected, rtol=1e-5, atol=1e-5)


def test_a_copy_has_adapters_of_its_own():
    encoder = SmallEncoder().eval()
    add_adapters(encoder, 2)
    other = copy.deepcopy(encoder)
    expected = encoder(small_images())[-1]
    for adapter in other.adapters:
        nn.init.ones_(adapter.up.bias)
    assert encoder(small_images())[-1].equal(expected)
    assert not other(small_images())[-1].equal(expected)


def test_adapters_need_stages_that_end_in_a_module():
    class Loose(SmallEncoder):
        def stages(self):
            return [self.conv1, nn.Sequential(), self.layer2]

    with pytest.raises(BackboneError, match="Loose: adapters cannot be placed: not every stage of this backbone ends"):
        Adapters().check(Loose())


@pytest.mark.parametrize("strategy", [LoRA(rank=2), Adapters()], ids=["lora", "adapters"])
def test_an_attention_which_no_source_has_learns_as_the_head_does(strategy):
    """It starts from nothing: to freeze it would leave it a mean."""
    encoder = load_backbone("tiles-resnet18-w32", seed=0, instances=InstanceChoice("attention", None)).encoder
    classifier = Classifier(encoder, 2)
    strategy.build(classifier)
    strategy.prepare(classifier)
    strategy.set_learning(classifier, epoch=0)
    assert not any(isinstance(part, LowRankChange) for part in encoder.attention.modules())
    with torch.no_grad():
        encoder.attention.score.weight.fill_(0.1)
    classifier.train()(torch.randn(2, 1, 16, 32, 64)).square().sum().backward()
    assert all(weight.grad.any() for weight in encoder.attention.parameters())
    learning = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in learning if not name.endswith((".up", ".down"))} <= {"attention", "adapters"}
