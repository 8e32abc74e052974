"""nnU-Net v2: the folder is read, the network it describes is built, its tensors load, and its output is the same."""

import json
from dataclasses import replace

import pytest
import torch
from nnunet_model import CT, FOLDER, PLAIN, RESIDUAL, architecture, older_architecture, plans, write_model
from unet_reference import NNUNet, nnunet_forward, nnunet_names

from med_transfer.backbones import backbones, import_backbone, load_backbone
from med_transfer.errors import BackboneError, WeightsNotFound

DOUBLING = replace(PLAIN, widths=(8, 16, 16))  # widths that the older form can express
CASES = {
    "plain": (PLAIN, architecture),
    "plain, older form": (DOUBLING, older_architecture),
    "residual": (RESIDUAL, architecture),
    "residual, older form": (replace(RESIDUAL, widths=(8, 16, 16)), older_architecture),
    "batch normalisation, no bias": (replace(PLAIN, batch_norm=True, bias=False), architecture),
}


@pytest.mark.parametrize("case", CASES)
def test_model_folder_gives_the_original_forward(tmp_path, case):
    net, form = CASES[case]
    state = write_model(tmp_path / FOLDER, net, plans(form(net)))

    loaded = load_backbone("nnunet-v2", tmp_path / FOLDER)

    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    assert any(".all_modules." in name for name in loaded.report.ignored)  # the same tensors under other names
    assert any(name.startswith("decoder.encoder.") for name in loaded.report.ignored)
    original = forward(net, state)
    with torch.no_grad():
        ours = loaded.encoder.eval()(inputs())
    for mine, theirs in zip(ours, original if net.residual else original[1:], strict=True):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def inputs():
    return torch.randn(1, 1, 8, 16, 24, generator=torch.Generator().manual_seed(0))


def forward(net, state):
    with torch.no_grad():
        return nnunet_forward(net, state, inputs())


def test_entry_becomes_concrete_with_the_file(tmp_path):
    write_model(tmp_path / FOLDER, PLAIN)
    spec = load_backbone("nnunet-v2", tmp_path / FOLDER).spec
    encoder = spec.build()
    assert spec.parameters == sum(p.numel() for p in encoder.parameters())
    assert spec.stage_channels == encoder.stage_channels == (12, 16)
    assert spec.input.spacing_mm == (3.0, 1.5, 1.25)
    assert spec.input.shape == (16, 32, 32)
    assert spec.input.minimum_shape == (4, 8, 8)  # twice the total stride
    assert spec.input.orientation == "SPL"
    assert backbones()["nnunet-v2"].plan != spec.plan


def test_ct_normalisation_is_a_window_and_its_range(tmp_path):
    """Clip to the percentiles, subtract the mean, divide by the standard deviation: nnU-Net's own formula."""
    write_model(tmp_path / FOLDER, PLAIN)
    needs = load_backbone("nnunet-v2", tmp_path / FOLDER).spec.input
    hu = torch.linspace(-1500, 1500, 301)
    theirs = (hu.clamp(CT["percentile_00_5"], CT["percentile_99_5"]) - CT["mean"]) / CT["std"]
    (low, high), (bottom, top) = needs.window_hu, needs.output_range
    torch.testing.assert_close((hu.clamp(low, high) - low) / (high - low) * (top - bottom) + bottom, theirs)


@pytest.mark.parametrize(
    ("name", "changes", "orientation"),
    [
        ("nnunet-v2", {"transpose_forward": [2, 0, 1]}, "LSP"),
        ("nnunet-v2", {"transpose_forward": [1, 0, 2]}, "PSL"),
        ("nnunet-v2", {"image_reader_writer": "NibabelIOWithReorient"}, "SAR"),
        ("totalsegmentator-organs", {}, "SAR"),
        ("totalsegmentator-6mm", {"transpose_forward": [2, 1, 0]}, "RAS"),
    ],
)
def test_axes(tmp_path, name, changes, orientation):
    write_model(tmp_path / FOLDER, PLAIN, plans(architecture(PLAIN), **changes))
    assert load_backbone(name, tmp_path / FOLDER).spec.input.orientation == orientation


def test_z_score_is_approximated(tmp_path):
    write_model(tmp_path / FOLDER, PLAIN, plans(architecture(PLAIN), normalization_schemes=["ZScoreNormalization"]))
    needs = load_backbone("nnunet-v2", tmp_path / FOLDER).spec.input
    assert (needs.window_hu, needs.output_range) == ((-1000.0, 1000.0), (-1.0, 3.0))
    assert "z-score of a scan is approximated: -1000 to 1000 HU become -1 to 3" in backbones()["nnunet-v2"].notes


def test_residual_network_takes_a_shape_that_its_strides_do_not_divide(tmp_path):
    """nnU-Net's own fails there: its shortcut rounds down where its convolution rounds up."""
    write_model(tmp_path / FOLDER, RESIDUAL)
    maps = load_backbone("nnunet-v2", tmp_path / FOLDER).encoder(torch.zeros(1, 1, 9, 17, 19))
    assert [tuple(m.shape[2:]) for m in maps] == [(9, 17, 19), (9, 9, 10), (5, 5, 5)]


# Finding the parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "",
        f"Dataset900/{FOLDER}",
        f"Dataset900/{FOLDER}/fold_0",
        f"Dataset900/{FOLDER}/fold_0/checkpoint_final.pth",
        "Dataset900",
    ],
)
def test_any_part_of_the_model_is_enough(tmp_path, given):
    write_model(tmp_path / "Dataset900" / FOLDER, PLAIN)
    assert load_backbone("nnunet-v2", tmp_path / given).report.matched_share == 1


def test_plans_beside_the_checkpoint(tmp_path):
    write_model(tmp_path / "model", PLAIN)
    (tmp_path / "model/fold_0/checkpoint_final.pth").rename(tmp_path / "model/renamed.pth")
    assert load_backbone("nnunet-v2", tmp_path / "model/renamed.pth").report.matched_share == 1


def test_fold_all_before_the_others_and_a_chosen_fold_before_all(tmp_path):
    model = tmp_path / FOLDER
    write_model(model, PLAIN, seed=1)
    write_model(tmp_path / "other", PLAIN, seed=2)
    (tmp_path / "other/fold_0").rename(model / "fold_all")
    hashes = {
        given: load_backbone("nnunet-v2", given).sha256 for given in (model, model / "fold_0", model / "fold_all")
    }
    assert hashes[model] == hashes[model / "fold_all"] != hashes[model / "fold_0"]


def test_configuration_inherits(tmp_path):
    content = plans(architecture(PLAIN))
    content["configurations"]["3d_small"] = {"inherits_from": "3d_fullres", "patch_size": [8, 16, 16]}
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_small"
    write_model(model, PLAIN, content)
    spec = load_backbone("nnunet-v2", model).spec
    assert (spec.input.shape, spec.input.spacing_mm) == ((8, 16, 16), (3.0, 1.5, 1.25))


def test_imported_model_needs_its_folder_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    write_model(tmp_path / FOLDER, RESIDUAL)
    before = load_backbone("totalsegmentator-3mm", tmp_path / FOLDER)
    path, report = import_backbone("totalsegmentator-3mm", tmp_path / FOLDER)
    (tmp_path / FOLDER).rename(tmp_path / "gone")
    assert report.matched_share == 1
    for again in (load_backbone("totalsegmentator-3mm"), load_backbone("nnunet-v2", path)):
        assert again.spec.plan == before.spec.plan
        with torch.no_grad():
            torch.testing.assert_close(again.encoder.eval()(inputs()), before.encoder.eval()(inputs()))


def test_folder_put_into_the_store_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path))
    write_model(tmp_path / "Dataset298_TotalSegmentator_total_6mm_1559subj" / FOLDER, PLAIN)
    assert load_backbone("totalsegmentator-6mm").report.matched_share == 1
    with pytest.raises(WeightsNotFound, match="expected Dataset297_TotalSegmentator_total_3mm_1559subj in"):
        load_backbone("totalsegmentator-3mm")


def test_usual_plan_has_the_names_of_the_usual_network(shapes_only):
    """What the entry shows before a file is read: six stages for a patch of 128 voxels a side."""
    usual = NNUNet((32, 64, 128, 256, 320, 320), ((3, 3, 3),) * 6, ((1, 1, 1), *((2, 2, 2),) * 5), (2,) * 6)
    theirs = {
        name.removeprefix("encoder.stages."): shape
        for name, shape in nnunet_names(usual)
        if name.startswith("encoder.") and "all_modules" not in name
    }
    ours = {n.removeprefix("context."): tuple(t.shape) for n, t in shapes_only("nnunet-v2").state_dict().items()}
    assert ours == theirs


# What is refused -----------------------------------------------------------------------------------------------


def changed(**changes):
    return plans(architecture(PLAIN), **changes)


def with_argument(**arguments):
    content = plans(architecture(PLAIN))
    content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    return content


def of_class(name):
    content = plans(architecture(PLAIN))
    content["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = f"some.package.{name}"
    return content


UNUSABLE = {
    r"cannot be understood \(network class PrimusM\); expected a 3D PlainConvUNet or Residual": of_class("PrimusM"),
    r"cannot be understood \(2 input channels: CTNormalization, ZScoreNormalization\).*one CT channel": changed(
        normalization_schemes=["CTNormalization", "ZScoreNormalization"]
    ),
    r"intensities normalised by RescaleTo01Normalization": changed(normalization_schemes=["RescaleTo01Normalization"]),
    r"3d_fullres is the second network of a cascade": changed(previous_stage="3d_lowres"),
    r"squeeze_excitation: Extra inputs are not permitted \(found True\)": with_argument(squeeze_excitation=True),
    r"conv_op: Input should be 'torch.nn.modules.conv.Conv3d'": with_argument(conv_op="torch.nn.modules.conv.Conv2d"),
    r"norm_op: .*found torch.nn.GroupNorm": with_argument(norm_op="torch.nn.GroupNorm"),
    r"dropout_op: Input should be None": with_argument(dropout_op="torch.nn.Dropout3d"),
    r"2 kernels for 3 stages": with_argument(kernel_sizes=[[3, 3, 3]] * 2),
    r"even kernel": with_argument(kernel_sizes=[[2, 3, 3]] * 3),
    r"n_conv_per_stage is missing": with_argument(n_conv_per_stage=None),
    r"strides\.0\.0: Input should be greater than or equal to 1 \(found 0\)": with_argument(strides=[[0, 1, 1]] * 3),
    r"window_hu from 292 to 292 does not rise": changed(
        foreground_intensity_properties_per_channel={"0": CT | {"percentile_00_5": 292.0}}
    ),
    r"window_hu\.1: Input should be a finite number": changed(
        foreground_intensity_properties_per_channel={"0": CT | {"percentile_99_5": float("inf")}}
    ),
    r"percentile_00_5 is missing": changed(foreground_intensity_properties_per_channel={"0": {"mean": 1.0}}),
    r"spacing_mm\.1: Input should be greater than 0": changed(spacing=[1.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("message", UNUSABLE)
def test_plan_of_another_kind_of_network_is_refused(tmp_path, message):
    write_model(tmp_path / FOLDER, PLAIN, UNUSABLE[message])
    with pytest.raises(BackboneError, match=rf"plans\.json: .*{message}"):
        load_backbone("nnunet-v2", tmp_path / FOLDER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"plans\.json: damaged \(Expecting .*Copy the model again"),
        ("[]", r"plans\.json: damaged \(not a table of settings\)"),
        ("{}", r"plans\.json: configurations is missing"),
        ('{"configurations": []}', r"plans\.json: .*no configuration '3d_fullres'"),
    ],
)
def test_damaged_plans(tmp_path, text, message):
    write_model(tmp_path / FOLDER, PLAIN)
    (tmp_path / FOLDER / "plans.json").write_text(text)
    with pytest.raises(BackboneError, match=message):
        load_backbone("nnunet-v2", tmp_path / FOLDER)


def test_wrong_configuration_lists_the_known(tmp_path):
    write_model(tmp_path / "T__P__3d_highres", PLAIN)
    with pytest.raises(BackboneError, match=r"no configuration '3d_highres'; expected one of 2d, 3d_fullres"):
        load_backbone("nnunet-v2", tmp_path / "T__P__3d_highres")


def test_several_configurations_and_a_renamed_folder(tmp_path):
    content = plans(architecture(PLAIN))
    content["configurations"]["3d_lowres"] = content["configurations"]["3d_fullres"]
    write_model(tmp_path / "renamed", PLAIN, content)
    with pytest.raises(BackboneError, match=r"2 configurations in 3D \(3d_fullres, 3d_lowres\).*Name the folder as"):
        load_backbone("nnunet-v2", tmp_path / "renamed")


def test_configuration_that_inherits_from_itself(tmp_path):
    content = plans(architecture(PLAIN))
    content["configurations"]["3d_fullres"] = {"inherits_from": "3d_fullres"}
    write_model(tmp_path / FOLDER, PLAIN, content)
    with pytest.raises(BackboneError, match=r"3d_fullres inherits from itself"):
        load_backbone("nnunet-v2", tmp_path / FOLDER)


def test_missing_parts(tmp_path):
    model = tmp_path / FOLDER
    write_model(model, PLAIN)
    with pytest.raises(
        WeightsNotFound, match=r"gone: no such file or folder; expected the folder of an nnU-Net v2 model"
    ):
        load_backbone("nnunet-v2", tmp_path / "gone")
    alone = tmp_path / "somewhere/else/checkpoint_final.pth"
    alone.parent.mkdir(parents=True)
    (model / "fold_0/checkpoint_final.pth").rename(alone)
    with pytest.raises(WeightsNotFound, match=r"no checkpoint; expected fold_0/checkpoint_final\.pth"):
        load_backbone("nnunet-v2", model)
    with pytest.raises(
        BackboneError, match=r"checkpoint_final\.pth: no plans\.json, which says how.*whole model folder"
    ):
        load_backbone("nnunet-v2", alone)


def test_two_models_in_the_folder(tmp_path):
    for configuration in ("3d_fullres", "3d_lowres"):
        write_model(tmp_path / f"T__P__{configuration}", PLAIN)
    with pytest.raises(BackboneError, match=r"2 models: T__P__3d_fullres, T__P__3d_lowres; expected one"):
        load_backbone("nnunet-v2", tmp_path)


def test_safetensors_without_a_plan_are_refused(tmp_path):
    """Their names and shapes would fit networks of other strides."""
    from safetensors.torch import save_file

    save_file({"stages.0.0.convs.0.conv.weight": torch.zeros(8, 1, 3, 3, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"holds tensors but not how their network is built"):
        load_backbone("nnunet-v2", tmp_path / "a.safetensors")


def test_safetensors_with_a_damaged_plan(tmp_path):
    from safetensors.torch import save_file

    plan = json.loads(backbones()["nnunet-v2"].plan.model_dump_json()) | {"surprise": 1}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"plan": json.dumps(plan)})
    with pytest.raises(BackboneError, match=r"plan\.surprise: Extra inputs are not permitted; expected a plan of this"):
        load_backbone("nnunet-v2", tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"short")
    with pytest.raises(BackboneError, match=r"truncated or damaged"):
        load_backbone("nnunet-v2", tmp_path / "a.safetensors")
