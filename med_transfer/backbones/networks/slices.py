"""A 2D network on every slice, and attention that decides how much each slice counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.backbones.encoder import Box
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import PlanarEncoder, PlanarNetwork


class GatedAttention(nn.Module):
    """a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), Ilse et al. 2018, arXiv:1802.04712, equation 9.

    w starts at zero: before any training, and where it is frozen, every slice counts the same.

    Args:
        channels: of a slice's features h_k.
        hidden: rows of V and U.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Weights [batch, slice], each row summing to 1, of features [batch, slice, channel]."""
        scores = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features)))
        return scores.squeeze(-1).softmax(dim=-1)


class SliceEncoder(PlanarEncoder):
    """Maps [batch, channel, depth, height, width] whose slices are the 2D network's maps of the scan's slices.

    The depth is that of the input in every stage. The deepest maps decide how much each slice counts, and the
    features of all chosen stages are weighted so.
    """

    new_parts = ("attention",)

    def __init__(self, planar: PlanarNetwork, photograph: AsPhotograph) -> None:
        super().__init__(planar, photograph)
        self.attention = GatedAttention(self.stage_channels[-1])

    def stages(self) -> list[nn.Module]:
        """As every encoder's; the last one holds the attention too, before what makes its map."""
        *earlier, last = super().stages()
        return [*earlier, nn.ModuleList([self.attention, last])]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each slice's 2D maps, put back on top of each other along depth."""
        slices = self.photograph(x).transpose(1, 2)
        maps = self.net_maps(slices.flatten(0, 1))
        return [m.unflatten(0, slices.shape[:2]).transpose(1, 2) for m in maps]

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Every slice."""
        return [(slice(k, k + 1), slice(0, shape[1]), slice(0, shape[2])) for k in range(shape[0])]

    def slice_weights(self, maps: Sequence[Tensor]) -> Tensor:
        """How much each slice counts, [batch, depth]; each row sums to 1. For a reader: where the network looked."""
        return self.attention(maps[-1].mean(dim=(3, 4)).transpose(1, 2))

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Features [batch, channel]: means over height and width, weighted over depth by :meth:`slice_weights`."""
        weights = self.slice_weights(maps)
        return torch.cat([torch.einsum("bcd,bd->bc", maps[s].mean(dim=(3, 4)), weights) for s in stages], dim=1)
