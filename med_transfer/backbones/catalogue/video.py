"""A video network from torchvision, as a source from another kind of data."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

SPECS = (
    BackboneSpec(
        name="r3d18-kinetics",
        build=lambda: networks.r3d18(),
        # Depth takes the place of time; an axial slice is oriented as on a screen
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (0.0, 1.0), minimum_shape=(8, 16, 16), shape=(16, 112, 112)),
        stage_channels=(64, 128, 256, 512),
        parameters=33_166_272,
        weights=WeightsSource("r3d_18-b3b3357e.pth", "https://download.pytorch.org/models/r3d_18-b3b3357e.pth"),
        renaming=Renaming(
            replace=(
                (r"^stem\.0\.", "conv1."),
                (r"^stem\.1\.", "bn1."),
                (r"\.conv(\d)\.0\.", r".conv\1."),
                (r"\.conv(\d)\.1\.", r".bn\1."),
            )
        ),
        licence="BSD-3-Clause (torchvision)",
        commercial_use=True,
        source="https://docs.pytorch.org/vision/stable/models/video_resnet.html",
        paper="Tran et al. 2018, arXiv:1711.11248",
        training_data="about 240,000 videos of people acting (Kinetics-400): no medical image",
        notes=(
            "Orientation and window are this program's choice. The encoder repeats the scan in the three colours and "
            "standardises each as in training. torchvision warns that terms of the training data may apply to weights."
        ),
    ),
)
