"""What the model card says about the network's input."""

import pytest

from med_transfer.bundle.model_card import intensities
from med_transfer.preprocessing import PreprocessingConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"modality": "MR", "normalisation": "zscore", "clip_sd": 4},
            "z-scores of each scan's own foreground, up to 4 standard deviations",
        ),
        ({"modality": "CT", "window_hu": (-1000, 400)}, "window from -1000 to 400 HU"),
        ({"modality": None, "window_hu": (-160, 240)}, "window from -160 to 240 HU"),
        ({"modality": "PT", "window_hu": (0, 12.5)}, "window from 0 to 12.5, in the unit of the file"),
    ],
)
def test_intensities_have_their_limits_and_unit(settings, words):
    assert intensities(PreprocessingConfig(**settings)) == words
