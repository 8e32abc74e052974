"""Every recipe in configs/ that fine-tunes is one that a run accepts."""

from pathlib import Path

import pytest

from med_transfer.backbones import find_backbone
from med_transfer.config import load_config
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.plan import resolve_preprocessing

FOLDER = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if "\nbackbone:\n" in path.read_text())


def test_there_is_one_for_each_way_from_photographs_to_ct():
    assert {f"imagenet_{way}" for way in ("inflated", "acs", "slices")} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_names_a_backbone_and_an_input_it_can_work_on(path):
    config = load_config(FinetuneConfig, path)
    spec = find_backbone(config.backbone.name)
    preprocessing = resolve_preprocessing(spec, config)
    assert preprocessing.window_hu == spec.input.window_hu
    assert preprocessing.spacing_mm is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_how_to_run_it(path):
    assert f"-c configs/{path.name} -o " in path.read_text()
