"""What the server of tests/forked.py imports: what commands import, except for extras that are missing."""

import contextlib
import importlib

from med_transfer.backbones.monai_alone import monai_alone

with monai_alone():
    for module in (
        "torch._dynamo",  # by the first optimiser
        "med_transfer.api",
        "med_transfer.cli.app",
        "med_transfer.inference.predictor",
        "med_transfer.hospital.node",
        "med_transfer.hospital.review.app",
        "openvino",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
