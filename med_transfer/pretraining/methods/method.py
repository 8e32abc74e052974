"""The base class of pretraining methods: encoder, crops of the source, views of them, and a quality figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from med_transfer.backbones import Encoder, InputSpec
from med_transfer.pretraining.config import PretrainingConfig
from med_transfer.pretraining.methods.decoder import LightDecoder
from med_transfer.pretraining.painting.lung_scenes import LungScenes
from med_transfer.pretraining.source.crops import Crops, CropSampler
from med_transfer.pretraining.source.scans import SourceScans
from med_transfer.pretraining.source.views import CROP_ORIENTATION, Degradation, encoder_input, reduce, reorient, window

RANK_STRIDE = 1_000_003  # between the seeds of two processes
HEAD = "head."  # prefix of the names of kept heads in the encoder's file
Figures = dict[str, float]


@dataclass(frozen=True)
class PretrainingContext:
    """The config, data and device of a method.

    Attributes:
        config: of the pretraining.
        input: the encoder's input specification.
        training, validation: source scans, disjoint by patient.
        device: to train on.
        pooled_stages: the feature maps whose means are the encoder's features.
        rank: number of this process; each process draws its own crops.
    """

    config: PretrainingConfig
    input: InputSpec
    training: SourceScans
    validation: SourceScans | None
    device: torch.device
    pooled_stages: tuple[int, ...] = (-1,)
    rank: int = 0

    @property
    def seed(self) -> int:
        """Seed of this process's crops; in the main process that of the config."""
        return self.config.seed + RANK_STRIDE * self.rank

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of the encoder's input."""
        return torch.channels_last_3d if self.config.channels_last else torch.contiguous_format


class Method(nn.Module):
    """A pretraining task. Its parameters are the encoder's and those of heads, most of which are discarded.

    Attributes:
        figure: key of :meth:`quality` that measures the encoder; higher is better.
        paints: whether lung scenes are painted into its crops if the config asks for them.
        not_saved: prefixes of names in ``state_dict`` that checkpoints leave out, because the values never change.
    """

    figure: str
    paints: bool = False
    not_saved: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__()
        self.encoder, self.context, self.config = encoder, context, context.config
        self.crops = self.sampler(context.training, context.seed)
        self.degrade = Degradation(self.config.views, context.device, context.seed + 2)
        self.scenes = self._scenes(context.seed + 1)

    def sampler(self, source: SourceScans, seed: int) -> CropSampler:
        """The sampler of the crops that the method learns from; overridden by methods that need others."""
        return CropSampler(source, self.config.crops, self.context.device, seed)

    def begin(self) -> None:
        """Prepare for the first step; not called when a run is resumed."""

    def draw(self) -> Any:
        """Draw the batch of the next step."""
        raise NotImplementedError

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """``loss``, and other values for the curve, of a batch from :meth:`draw`."""
        raise NotImplementedError

    def quality(self, encoder: Encoder) -> Figures:
        """Figures of an encoder (the running mean of the trained one) on validation scans; empty without any.

        Called in evaluation mode, without gradients.
        """
        raise NotImplementedError

    def finished(self, encoder: Encoder) -> Encoder:
        """The encoder in the form in which it is measured and saved."""
        return encoder

    def kept_heads(self) -> dict[str, Tensor]:
        """Tensors of heads that are saved with the encoder, by name."""
        return {}

    def generators(self) -> dict[str, torch.Generator]:
        """All random generators by name; a resumed run continues with the same crops from their states."""
        generators = {"crops": self.crops.random, "scans": self.crops.choice, "views": self.degrade.random}
        return generators | ({"scenes": self.scenes.random} if self.scenes else {})

    def plain_inputs(self, count: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of plain windowed crops of training scans, with the position of each one's scan.

        They are neither rotated nor degraded; ``count`` crops in all.
        """
        sampler, scenes = self.crops.plain(seed), self._scenes(seed) if self.paints else None
        for start in range(0, count, self.config.batch):
            crops = sampler.batch(min(self.config.batch, count - start))
            yield self.windowed(self.painted(crops, scenes), degraded=False), crops.scan

    @cached_property
    def held_out(self) -> Crops | None:
        """Crops of the validation scans, the same at every measurement."""
        if self.context.validation is None:
            return None
        return self.sampler(self.context.validation, seed=0).batch(self.config.batch)

    def painted(self, crops: Crops, scenes: Callable[[Crops], Tensor] | None) -> Tensor:
        """HU of the crops, with lung scenes if ``scenes`` is given."""
        return scenes(crops) if scenes else crops.hu

    @cached_property
    def held_out_hu(self) -> Tensor | None:
        """HU of :attr:`held_out` with lung scenes, the same every time."""
        return None if self.held_out is None else self.painted(self.held_out, self._scenes(seed=0))

    def windowed(self, hu: Tensor, degraded: bool = True) -> Tensor:
        """Crops on the encoder's grid and in its value range, in the orientation of the crops."""
        spec = self.context.input
        x = window(reduce(hu, self.config.input_shape), spec.window_hu, spec.output_range)
        return self.degrade(x, spec.output_range) if degraded else x

    def maps(self, x: Tensor, encoder: Encoder | None = None) -> list[Tensor]:
        """Feature maps of windowed crops, in the encoder's orientation."""
        return (encoder or self.encoder)(encoder_input(x, self.context.input, self.context.layout))

    def pooled(self, maps: list[Tensor]) -> Tensor:
        """Spatial means of the pooled stages, [batch, feature]."""
        return torch.cat([maps[stage].mean((2, 3, 4)) for stage in self.context.pooled_stages], dim=1).float()

    def decoded(self, decoder: LightDecoder, x: Tensor, encoder: Encoder) -> Tensor:
        """Windowed crops after encoder and decoder, [batch, 1, depth, height, width] in the crops' orientation."""
        orientation = self.context.input.orientation
        shape = reorient(x, CROP_ORIENTATION, orientation).shape[2:]
        decoded = decoder(self.maps(x, encoder), tuple(shape))
        return reorient(decoded, orientation, CROP_ORIENTATION).float()

    def half_precision(self) -> torch.autocast:
        """bf16 on a GPU; not on a CPU, where its gradients are wrong (docs/decisions/0006-no-bf16-on-a-cpu.md)."""
        device = self.context.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def _scenes(self, seed: int) -> LungScenes | None:
        lung = self.config.lung_scenes
        return LungScenes(lung, self.context.device, seed) if lung else None
