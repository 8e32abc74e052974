"""What the network will see: the backbone's own input with the config's overrides."""

import pytest

from med_transfer.backbones import find_backbone
from med_transfer.errors import ConfigError
from med_transfer.finetuning.config import FinetuneConfig, InputConfig
from med_transfer.finetuning.plan import resolve_preprocessing


def test_the_backbones_own_input_is_the_default():
    spec = find_backbone("astra")
    found = resolve_preprocessing(spec, FinetuneConfig(input=InputConfig(shape=(32, 64, 64), spacing_mm=(1, 0.5, 0.5))))
    assert found.orientation == "SRA"
    assert found.window_hu == spec.input.window_hu
    assert found.output_range == spec.input.output_range
    assert (found.shape, found.spacing_mm) == ((32, 64, 64), (1, 0.5, 0.5))


def test_the_config_overrides():
    found = resolve_preprocessing(
        find_backbone("resnet18-w32"), FinetuneConfig(input=InputConfig(window_hu=(-100, 300), region="foreground"))
    )
    assert (found.window_hu, found.region) == ((-100, 300), "foreground")


def test_too_small_an_input_is_refused():
    config = FinetuneConfig(input=InputConfig(shape=(8, 32, 32)))
    with pytest.raises(ConfigError, match=r"input.shape: shape \[8, 32, 32\]; expected at least .* for resnet18-w32"):
        resolve_preprocessing(find_backbone("resnet18-w32"), config)
