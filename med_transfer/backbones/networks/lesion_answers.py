"""What a network of slices answers that has learned painted lesions: how much in a slice is denser, how much lighter.

The heads that it learned with ask each slice whether there is such a place, how much of the slice it takes, and of each
voxel of each feature map whether it is one. Each of the answers sees something of a real lesion; their mean, each on
its own scale, says so more steadily than any one of them, and has no weight that labels would have to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

KINDS = ("denser", "lighter")  # than the tissue around it
PLACED_STAGES = 3  # the deepest ones, whose voxels are asked; shallower maps see too little around a voxel
PARTS = PLACED_STAGES + 2  # the most likely place in each of them, presence, amount


class LesionAnswers(nn.Module):
    """Of each slice two numbers, for something denser and for something lighter than the tissue around it.

    Each is the mean of :meth:`parts`, of which ``centre`` and ``scale`` make the scans' means 0, and as wide as each
    other, and the slices' answers of standard deviation 1, over training scans.

    Args:
        stage_channels: of the network's feature maps, shallow to deep.
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
        """Logits and amounts [slice, part, kind] of the maps of slices, each [slice, channel, height, width]."""
        placed = zip(self.place, maps[-PLACED_STAGES:], strict=True)
        places = [head(feature_map).amax(dim=(2, 3)) for head, feature_map in placed]
        presence, amount = self.what(maps[-1].mean(dim=(2, 3))).chunk(2, dim=1)
        return torch.stack([*places, presence, amount], dim=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[slice, kind] of the maps of slices, each [slice, channel, height, width]."""
        return ((self.parts(maps) - self.centre) / self.scale).mean(dim=1)

    @torch.no_grad()
    def standardise(self, parts: Tensor, shares: Tensor) -> None:
        """Take both from training scans.

        Args:
            parts: [scan, slice, part, kind].
            shares: of each slice in its scan, [scan, slice], each row summing to 1.
        """
        scans = torch.einsum("nspk,ns->npk", parts, shares)
        self.centre.copy_(scans.mean(0))
        self.scale.copy_(scans.std(0, correction=0).clamp_min(1e-6))
        answers = ((parts - self.centre) / self.scale).mean(dim=2)
        variance = torch.einsum("nsk,ns->k", answers.square(), shares) / len(shares)  # their mean is 0
        self.scale.mul_(variance.sqrt().clamp_min(1e-6))

    @torch.no_grad()
    def take_heads(self, heads: Mapping[str, Tensor]) -> None:
        """The heads that the network learned with, as ``PaintedLesions.kept_heads`` names them."""
        n_stages = 1 + max(int(name.split(".")[1]) for name in heads if name.startswith("place."))
        for number, head in enumerate(self.place, start=n_stages - PLACED_STAGES):
            head.weight.copy_(heads[f"place.{number}.weight"].squeeze(-1))  # type: ignore[union-attr, operator]
            head.bias.copy_(heads[f"place.{number}.bias"])  # type: ignore[union-attr, operator]
        self.what.load_state_dict({"weight": heads["what.weight"], "bias": heads["what.bias"]})
