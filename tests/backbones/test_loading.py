"""Which tensors fit, what is reported about them, and a user's own network as a source."""

import hashlib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_reference import medicalnet_plan, random_state
from torch import nn

from med_transfer.backbones import Encoder, find_backbone, load_backbone
from med_transfer.backbones.networks.resnet import slim_resnet
from med_transfer.backbones.weights.matching import LoadReport, all_finite, load_tensors
from med_transfer.errors import BackboneError, UnknownBackbone, WeightsMismatch

PREFIXES = ["module", "_orig_mod", "backbone", "model", "network", "encoder", "member0", "visual_encoder"]


class Tiny(Encoder):
    """Forty convolutions, so that two of them are the 5 % that a file may lack; one is called ``model``."""

    stage_channels = (1,)

    def __init__(self):
        super().__init__()
        self.layer1 = nn.ModuleDict({"model": nn.Conv3d(1, 1, 1, bias=False)})
        self.layer2 = nn.Sequential(*(nn.Conv3d(1, 1, 1, bias=False) for _ in range(39)))
        self.bn1 = nn.BatchNorm3d(1, affine=False, track_running_stats=False)

    def stages(self):
        return [self.layer1["model"], self.layer2]


def tiny_state(value=1.0):
    return {name: torch.full_like(tensor, value) for name, tensor in Tiny().state_dict().items()}


@settings(max_examples=30)
@given(st.lists(st.sampled_from(PREFIXES), max_size=4))
def test_any_chain_of_prefixes_is_dropped(prefixes):
    encoder = Tiny()
    report = load_tensors(encoder, {".".join([*prefixes, n]): t for n, t in tiny_state().items()}, "file")
    assert report == LoadReport(matched=tuple(tiny_state()))
    assert all((tensor == 1).all() for tensor in encoder.state_dict().values())


def test_prefix_words_inside_a_name_stay():
    report = load_tensors(Tiny(), tiny_state() | {"layer2.module.weight": torch.zeros(1)}, "file")
    assert "layer1.model.weight" in report.matched
    assert report.unexpected == ("layer2.module.weight",)


def test_share_counts_and_the_report_says_so():
    state = tiny_state()
    for lost in ("layer2.0.weight", "layer2.1.weight"):
        state.pop(lost)
    state |= {"classifier.weight": torch.zeros(3), "fc.bias": torch.zeros(1), "extra": torch.zeros(1)}
    report = load_tensors(Tiny(), state, "file")
    assert report.matched_share == 38 / 40
    assert report.missing == ("layer2.0.weight", "layer2.1.weight")
    assert report.ignored == ("classifier.weight", "fc.bias")
    assert str(report) == (
        "38 of 40 encoder tensors loaded (95%). "
        "Left at random values, as the file lacks them: layer2.0.weight, layer2.1.weight. "
        "In the file but not in the encoder: extra. "
        "Left out on purpose: classifier.weight, fc.bias."
    )


def test_under_95_percent_is_refused_and_nothing_is_changed():
    encoder, state = Tiny(), tiny_state(value=7.0)
    for lost in range(3):
        state.pop(f"layer2.{lost}.weight")
    with pytest.raises(
        WeightsMismatch, match=r"file: 37 of 40 encoder tensors fit \(92%\); missing: layer2\.0\.weight, .*at least 95%"
    ):
        load_tensors(encoder, state, "file")
    assert not any((tensor == 7).any() for tensor in encoder.state_dict().values())


def test_what_is_missing_is_told_and_a_first_convolution_is_never_left_to_chance(caplog):
    spec = find_backbone("resnet18-w8")
    state = spec.build().state_dict()
    later = {name: tensor for name, tensor in state.items() if name != "layer3.0.conv1.weight"}
    load_tensors(spec.build(), later, "file")
    assert "file: 99 of 100 encoder tensors loaded (99%). Left at random values" in caplog.text
    caplog.clear()
    load_tensors(spec.build(), state, "file")
    assert not caplog.text
    with pytest.raises(
        WeightsMismatch, match=r"99 of 100 .*missing: conv1\.weight; .*its first convolution among them"
    ):
        load_tensors(spec.build(), {name: t for name, t in state.items() if name != "conv1.weight"}, "file")


@pytest.mark.parametrize("name", ["resnet18-w32", "tiles-resnet18-w32"])
def test_what_a_file_leaves_out_has_the_random_values_of_the_seed_and_no_other(name, tmp_path):
    """Initialisation is skipped where the file has every tensor."""
    random = load_backbone("resnet18-w32", seed=4).encoder.state_dict()
    given_ = {n: torch.rand_like(t) if t.is_floating_point() else t for n, t in random.items()}
    for lost in ((), ("layer3.0.conv1.weight",)):
        file = tmp_path / f"{len(lost)}.safetensors"
        safetensors.torch.save_file({n: t for n, t in given_.items() if n not in lost}, file)
        loaded = load_backbone(name, file, seed=4)
        left_out = {*loaded.report.missing, *loaded.report.fresh}
        expected = load_backbone(name, seed=4).encoder.state_dict()
        assert len(left_out) == len(lost) + sum(n.startswith("attention.") for n in expected)
        for n, tensor in loaded.encoder.state_dict().items():
            assert tensor.equal(expected[n] if n in left_out else given_[n.removeprefix("tiled.")]), n


@pytest.mark.parametrize("other", [torch.zeros(1, 1, 3, 3, 3), torch.zeros(1, 1, 1, 1, 1, dtype=torch.int8)])
def test_one_tensor_of_another_shape_or_kind_is_refused(other):
    found = f"{'x'.join(map(str, other.shape))} {str(other.dtype)[6:]}"
    with pytest.raises(WeightsMismatch, match=rf"39 of 40.*other shape: layer2\.5\.weight \({found} in the file"):
        load_tensors(Tiny(), tiny_state() | {"layer2.5.weight": other}, "file")


def test_two_tensors_for_one_place_are_refused():
    state = tiny_state() | {"module.layer2.0.weight": torch.zeros(1, 1, 1, 1, 1)}
    with pytest.raises(WeightsMismatch, match=r"layer2\.0\.weight occurs twice"):
        load_tensors(Tiny(), state, "file")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(st.lists(st.sampled_from([0.0, -1.5, 6e4, float("nan"), float("inf"), -float("inf")]), max_size=6))
def test_finite_is_what_torch_calls_finite(dtype, values):
    tensor = torch.tensor(values, dtype=dtype)
    assert all_finite(tensor) == bool(tensor.isfinite().all())


@pytest.mark.parametrize("tensor", [torch.tensor(3), torch.tensor([True]), torch.tensor([1 + 2j])])
def test_numbers_that_are_no_weights_are_finite(tensor):
    assert all_finite(tensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    state = tiny_state() | {"layer2.3.weight": torch.full((1, 1, 1, 1, 1), value)}
    with pytest.raises(BackboneError, match=r"NaN or infinite values in layer2\.3\.weight; expected finite"):
        load_tensors(Tiny(), state, "file")


def test_half_precision_file_becomes_float32():
    encoder = Tiny()
    load_tensors(encoder, {name: tensor.bfloat16() for name, tensor in tiny_state().items()}, "file")
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}


def test_weights_of_another_architecture(tmp_path):
    file = tmp_path / "resnet_10.pth"
    torch.save({"state_dict": random_state(medicalnet_plan(10))}, file)
    with pytest.raises(
        WeightsMismatch, match=r"resnet_10\.pth: .*missing: .* more; unexpected: .*Choose the backbone that this file"
    ):
        load_backbone("medicalnet-resnet18", file)


@pytest.fixture(scope="module")
def own():
    torch.manual_seed(11)
    return slim_resnet()


def own_files(own):
    """A network of the user's own, as an encoder alone, as a classifier, and as an ensemble in a bundle."""
    state = own.state_dict()
    under = lambda prefix: {prefix + name: tensor for name, tensor in state.items()}  # noqa: E731
    others = {f"member1.encoder.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    return {
        "encoder.safetensors": state,
        "classifier.safetensors": under("encoder.") | {"head.weight": torch.zeros(2), "head.bias": torch.zeros(2)},
        "bundle/models/model.safetensors": under("member0.encoder.") | others | {"member0.head.bias": torch.zeros(2)},
    }


@pytest.mark.parametrize("kind", own_files(slim_resnet()))
def test_own_network_is_a_source(tmp_path, own, kind):
    file = tmp_path / kind
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(own_files(own)[kind], file)
    loaded = load_backbone("resnet18-w32", tmp_path / "bundle" if kind.startswith("bundle") else str(file))
    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    x = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.encoder.eval()(x)[-1], own.eval()(x)[-1])


def test_file_and_scratch_together():
    with pytest.raises(BackboneError, match="both a weights file and scratch; expected one of them"):
        load_backbone("resnet18-w32", "some.pth", scratch=True)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("restnet18-w32", "resnet18-w32"),
        ("MedicalNet-ResNet50", "medicalnet-resnet50"),
        ("zzz", "the name of an entry"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_and_not_all(name, nearest):
    with pytest.raises(
        UnknownBackbone, match=rf"unknown backbone '{name}'; expected {nearest}.*backbones list"
    ) as error:
        load_backbone(name)
    assert len(str(error.value)) < 250
