import functools

import pytest
import torch

from med_transfer.backbones import Encoder, find_backbone
from med_transfer.errors import MissingExtra


@functools.cache
def _shapes_only(name: str) -> Encoder:
    with torch.device("meta"):
        try:
            return find_backbone(name).build()
        except MissingExtra as error:
            pytest.skip(str(error))


@pytest.fixture
def shapes_only():
    """Builds a backbone without values: the largest is there in no time, and still knows every name and shape."""
    return _shapes_only
