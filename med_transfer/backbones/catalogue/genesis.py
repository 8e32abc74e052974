"""Models Genesis and SuPreM's U-Net: one architecture, pretrained on chest CT or trained on abdominal segmentation."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_PARAMETERS = 7_027_776
# The files contain running statistics that the original network never reads; see GenesisEncoder.
_NOT_READ = r".*\.running_(mean|var)$"
_DECODER = r"(up_tr\d+|out_tr)\."

_GENESIS = BackboneSpec(
    name="models-genesis",
    build=lambda: networks.GenesisEncoder(),
    # The authors' cubes are (x, y, z) of LUNA16, whose axes point to Left, Posterior and Superior.
    input=InputSpec(1, "LPS", (-1000.0, 1000.0), (0.0, 1.0), minimum_shape=(16, 16, 16), shape=(64, 64, 32)),
    stage_channels=(128, 256, 512),
    parameters=_PARAMETERS,
    weights=WeightsSource(file="Genesis_Chest_CT.pt", url="https://huggingface.co/MrGiovanni/ModelsGenesis"),
    licence="ASU Models Genesis (academic, non-commercial research)",
    commercial_use=False,
    redistribution=False,
    must_accept=True,
    renaming=Renaming(ignore=(_NOT_READ, _DECODER)),
    source="https://github.com/MrGiovanni/ModelsGenesis",
    paper="Zhou et al. 2019, Models Genesis, arXiv:1908.06912",
    training_data="623 chest CT scans of LUNA16, self-supervised",
    notes=(
        "Every scan is normalised with its own statistics, as the original gives for one scan at a time; the running "
        "statistics in the file are left out on purpose. Pretrained on cubes of the scans' own spacing."
    ),
)

_SUPREM = BackboneSpec(
    name="suprem-unet",
    build=lambda: networks.GenesisEncoder(),
    input=InputSpec(
        channels=1,
        orientation="RAS",
        window_hu=(-175.0, 250.0),
        output_range=(0.0, 1.0),
        minimum_shape=(16, 16, 16),
        spacing_mm=(1.5, 1.5, 1.5),
        shape=(96, 96, 96),
    ),
    stage_channels=(128, 256, 512),
    parameters=_PARAMETERS,
    weights=WeightsSource(file="supervised_suprem_unet_2100.pth", url="https://huggingface.co/MrGiovanni/SuPreM"),
    licence="CC BY-NC-ND 4.0 (Johns Hopkins University)",
    commercial_use=False,
    redistribution=False,
    must_accept=True,
    renaming=Renaming(
        ignore=(_NOT_READ, _DECODER, r"(precls_conv|GAP|controller|text_to_vision)\.", r"organ_embedding(\.|$)")
    ),
    source="https://github.com/MrGiovanni/SuPreM",
    paper="Li et al. 2024, SuPreM, ICLR, arXiv:2501.11253",
    training_data="2,100 abdominal CT scans of AbdomenAtlas 1.1, supervised segmentation",
    notes=(
        "The U-Net in the project's repository is that of Models Genesis, normalisation by the batch's own statistics "
        "included, so every scan is normalised with its own statistics here too. The class that the published file was "
        "trained with (it also returns the deepest map) is not known here: that its normalisation is the same is an "
        "inference from the project's other U-Net and the names in the file. If it read the running statistics "
        "instead, its features were others."
    ),
)

SPECS = (_GENESIS, _SUPREM)
