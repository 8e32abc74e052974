"""Lesion answers of a slice network pretrained on painted lesions: how much of a slice is denser or lighter.

The pretraining heads predict for each slice whether there is a lesion and how much of the slice it covers, and for each
voxel of the feature maps whether it belongs to one. Each prediction responds to real lesions to some extent. The mean
of the standardised predictions is more stable than any single one, and has no weights to be learned from labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

KINDS = ("denser", "lighter")  # than the tissue around it
PLACED_STAGES = 3  # deepest stages with a voxelwise prediction; shallower maps have too small a receptive field
PARTS = PLACED_STAGES + 2  # maximum of each voxelwise prediction, presence, amount


class LesionAnswers(nn.Module):
    """Two scores per slice: for lesions denser and for lesions lighter than the surrounding tissue.

    Each is the mean of :meth:`parts`, standardised by ``centre`` and ``scale`` so that over the training scans the
    scans' means of each part have mean 0 and equal spread, and the slices' scores have standard deviation 1.

    Args:
        stage_channels: channels of the network's feature maps, shallow to deep.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, stage_channels: Sequence[int]) -> None:
        super().__init__()
        self.place = nn.ModuleList(nn.Conv2d(width, len(KINDS), 1) for width in stage_channels[-PLACED_STAGES:])
        self.what = nn.Linear(stage_channels[-1], 2 * len(KINDS))
        self.register_buffer("centre", torch.zeros(PARTS, len(KINDS)))
        self.register_buffer("scale", torch.ones(PARTS, len(KINDS)))

    def parts(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits and amounts [slice, part, kind] from the slices' maps, each [slice, channel, height, width]."""
        placed = zip(self.place, maps[-PLACED_STAGES:], strict=True)
        places = [head(feature_map).amax(dim=(2, 3)) for head, feature_map in placed]
        presence, amount = self.what(maps[-1].mean(dim=(2, 3))).chunk(2, dim=1)
        return torch.stack([*places, presence, amount], dim=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return scores [slice, kind] from the slices' maps, each [slice, channel, height, width]."""
        return ((self.parts(maps) - self.centre) / self.scale).mean(dim=1)

    @torch.no_grad()
    def standardise(self, parts: Tensor, shares: Tensor) -> None:
        """Fit ``centre`` and ``scale`` to training scans.

        Args:
            parts: [scan, slice, part, kind].
            shares: weight of each slice in its scan, [scan, slice], each row summing to 1.
        """
        scans = torch.einsum("nspk,ns->npk", parts, shares)
        self.centre.copy_(scans.mean(0))
        self.scale.copy_(scans.std(0, correction=0).clamp_min(1e-6))
        answers = ((parts - self.centre) / self.scale).mean(dim=2)
        variance = torch.einsum("nsk,ns->k", answers.square(), shares) / len(shares)  # their mean is 0
        self.scale.mul_(variance.sqrt().clamp_min(1e-6))

    @torch.no_grad()
    def take_heads(self, heads: Mapping[str, Tensor]) -> None:
        """Load the pretraining heads, by the names of ``PaintedLesions.kept_heads``."""
        n_stages = 1 + max(int(name.split(".")[1]) for name in heads if name.startswith("place."))
        for number, head in enumerate(self.place, start=n_stages - PLACED_STAGES):
            head.weight.copy_(heads[f"place.{number}.weight"].squeeze(-1))  # type: ignore[union-attr, operator]
            head.bias.copy_(heads[f"place.{number}.bias"])  # type: ignore[union-attr, operator]
        self.what.load_state_dict({"weight": heads["what.weight"], "bias": heads["what.bias"]})
