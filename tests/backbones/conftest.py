import functools

import pytest
import torch

from med_transfer.backbones import Encoder, find_backbone


@functools.cache
def _shapes_only(name: str) -> Encoder:
    with torch.device("meta"):
        return find_backbone(name).build()


@pytest.fixture
def shapes_only():
    """Builds a backbone without values: the largest is there in no time, and still knows every name and shape."""
    return _shapes_only
