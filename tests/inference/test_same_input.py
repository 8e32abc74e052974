"""Training and inference see the same input, bit for bit."""

import pytest
import torch
from tiny_bundle import tiny_bundle

from med_transfer.cohorts import Cohort, Split, prepare_cohort
from med_transfer.finetuning import AugmentationConfig, FinetuneConfig, TrainingConfig
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.batches import fold_data, training_batches, validation_batches
from med_transfer.inference import Predictor
from med_transfer.preprocessing import Preprocessing


def inputs_of(network: torch.nn.Module, job) -> list[torch.Tensor]:
    """What a network was fed while a job ran."""
    fed: list[torch.Tensor] = []
    with network.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].clone())):
        job()
    return fed


@pytest.mark.parametrize(
    "look",
    [
        pytest.param({}, id="coarser"),
        pytest.param({"spacing_mm": (0.7, 0.55, 0.6)}, id="finer"),
        pytest.param({"spacing_mm": None, "normalisation": "zscore", "output_range": (-4, 4)}, id="fitted, z-scores"),
        pytest.param({"region": "foreground", "orientation": "RAS"}, id="turned to the body"),
    ],
)
def test_inference_feeds_the_network_what_training_fed_it_to_the_bit(look, unseen_csv, tmp_path):
    """Without augmentation; with it the scans that validate, and those that are frozen features, are the same."""
    cohort, predictor = Cohort.read(unseen_csv), Predictor(tiny_bundle(tmp_path / "bundle", **look), "cpu")
    look = predictor.record.preprocessing
    margin = margin_voxels(look.shape)
    prepared = prepare_cohort(cohort, Preprocessing(look), tmp_path / "prepared", margin)
    config = FinetuneConfig(augmentation=AugmentationConfig(strength=0), training=TrainingConfig(epoch_scans=64))
    some, others = tuple(range(3)), tuple(range(3, len(cohort.cases)))
    first, second = (fold_data(prepared, Split((), (some, others)), number) for number in range(2))
    validated = [
        images
        for data in (first, second)
        for images, _ in validation_batches(data.validation.tensors, data.validation.truth, config, look)
    ]
    trained = [images for data in (first, second) for images, _ in training_batches(data, config, look, seed=0)]
    encoder = predictor.network.fold_models[0].encoder
    for case, validation in zip(cohort.cases, torch.cat(validated), strict=True):
        (fed,) = inputs_of(encoder, lambda case=case: predictor.predict(case.path, series_uid=case.series_uid))
        assert fed.dtype == validation.dtype == torch.float32
        assert torch.equal(fed[0], validation)
        assert any(torch.equal(fed[0], image) for image in torch.cat(trained))
