"""The page of backbones matches the catalogue exactly."""

from pathlib import Path

from med_transfer.backbones import backbones
from med_transfer.backbones.cost import multiply_adds
from med_transfer.backbones.page import backbone_page


def test_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs/backbones.md"
    assert page.read_text() == backbone_page(backbones().values()), "run: make docs"


def test_multiply_adds_of_a_network_small_enough_to_count_by_hand():
    slim = backbones()["resnet18-w32"]
    stem = 32 * 27 * 16**3  # one convolution of 27 taps from 1 to 32 channels
    stages = [(32, 32, 8), (32, 64, 4), (64, 128, 2), (128, 256, 1)]
    blocks = sum(27 * side**3 * (a * b + 3 * b * b) + (side**3 * a * b if a != b else 0) for a, b, side in stages)
    assert multiply_adds(slim, (16, 16, 16)) == stem + blocks
