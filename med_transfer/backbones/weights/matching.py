"""Copy tensors into an encoder and report what fits, since loading without an exception does not prove a match."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from med_transfer.backbones.channels import fit_channels, input_convolutions
from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.weights.renaming import NO_RENAMING, Renaming
from med_transfer.errors import BackboneError, WeightsMismatch
from med_transfer.errors.sentence import few

log = logging.getLogger(__name__)

MINIMUM_SHARE = 0.95
_PREFIXES = {
    *("module", "_orig_mod", "backbone", "model", "network", "encoder"),  # training scripts
    *("member0", "learned"),  # bundles
    *("visual_encoder", "encode_image", "i3_resnet"),  # Merlin and Astra
}
_NOT_ENCODER = re.compile(
    r"(attention|answers|published|fc|head|classifier|contrastive_head|conv_seg|decoder|encode_text|logit_scale|member[1-9]\d*|novelty\d+|mapping|temperature)(\.|$)"
)


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors in an encoder and a file, by outcome.

    Attributes:
        matched: copied into the encoder.
        missing: in the encoder but not in the file.
        unexpected: in the file but not in the encoder.
        mismatched: in both, with different shape or number type.
        ignored: in the file, deliberately left out: heads, and other fold models of an ensemble.
        fresh: in the encoder but in no published file (its ``new_parts``); they have random values.
        channels: how the first convolution was converted to the encoder's channels, in words; empty if unchanged.
    """

    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    channels: str = ""

    @property
    def matched_share(self) -> float:
        """Share of the encoder's tensors, except fresh ones, that were copied, in [0, 1]."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing) + len(self.mismatched))

    @property
    def used_share(self) -> float:
        """Share of the file's tensors, except ignored ones, that were copied, in [0, 1]."""
        return len(self.matched) / max(1, len(self.matched) + len(self.unexpected))

    def __str__(self) -> str:
        if not self.matched:
            return "No weights were loaded; the encoder starts from random values."
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.matched)} of {total} encoder tensors loaded ({self.matched_share:.0%})."]
        for words, names in (
            ("Left at random values, as the file lacks them", self.missing),
            ("In the file but not in the encoder", self.unexpected),
            ("Left out on purpose", self.ignored),
            ("New beside the loaded weights", self.fresh),
        ):
            if names:
                parts.append(f"{words}: {few([*names], 3)}.")
        return " ".join([*parts, self.channels]).strip()


def load_tensors(
    encoder: Encoder, tensors: Mapping[str, Tensor], where: str, renaming: Renaming = NO_RENAMING
) -> LoadReport:
    """Copy the tensors of a file into an encoder.

    Prefixes that training scripts add (``module.``, ``backbone.``, ...) are dropped as whole leading components.
    ``num_batches_tracked`` is not counted, as no network here reads it. Left-over tensors of the file are counted,
    because the file of a deeper network contains every tensor of a shallower one.

    Args:
        encoder: changed in place; unchanged if an error is raised.
        tensors: tensors by name, from :func:`read_tensors`.
        where: name of the file, for messages.
        renaming: renaming rules of the family of files.

    Raises:
        WeightsMismatch: under 95 % of the encoder's or of the file's tensors fit, a shape differs, or the first
            convolution is missing, without which later layers do not see the features they were trained on.
        BackboneError: a tensor holds NaN or infinity, or the file's network has adapters.
    """
    wanted = {name: tensor for name, tensor in encoder.state_dict().items() if not _is_counter(name)}
    renamed, ignored = _own_names(tensors, wanted, where, renaming)
    adapted, channels = fit_channels(encoder, encoder.adapt(renamed))
    fitting = {name: adapted[name] for name in wanted if name in adapted and _fits(adapted[name], wanted[name])}
    absent = [name for name in wanted if name not in adapted]
    fresh = tuple(name for name in absent if name.partition(".")[0] in encoder.new_parts)
    report = LoadReport(
        matched=tuple(fitting),
        missing=tuple(name for name in absent if name not in fresh),
        unexpected=tuple(name for name in adapted if name not in wanted),
        mismatched=tuple(name for name in wanted if name in adapted and name not in fitting),
        ignored=ignored,
        fresh=fresh,
        channels=channels,
    )
    if any(name.startswith("adapters.") for name in report.unexpected):
        raise BackboneError(
            "the source has adapters, which cannot be transferred",
            where=where,
            expected="a network of another strategy, for example lora",
            action="Give the weights that its adapters were added to, or train it again",
        )
    unread = [name for name in input_convolutions(encoder) if f"{name}.weight" in report.missing]
    if report.mismatched or unread or min(report.matched_share, report.used_share) < MINIMUM_SHARE:
        raise _mismatch(report, adapted, wanted, where)
    broken = tuple(name for name, tensor in fitting.items() if not all_finite(tensor))
    if broken:
        raise BackboneError(f"NaN or infinite values in {few(broken, 3)}", where=where, expected="finite weights")
    if report.missing:
        log.warning("%s: %s", where, report)
    encoder.load_state_dict(fitting, strict=False)
    return report


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass, which takes a tenth of the time of ``isfinite().all()``."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())  # NaN is both extremes


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _fits(tensor: Tensor, target: Tensor) -> bool:
    return tensor.shape == target.shape and tensor.is_floating_point() == target.is_floating_point()


def _own_names(
    tensors: Mapping[str, Tensor], wanted: Collection[str], where: str, renaming: Renaming
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The file's tensors under the encoder's names, and the names that were deliberately left out."""
    renamed: dict[str, Tensor] = {}
    ignored = []
    for key, tensor in tensors.items():
        name = _without_prefixes(key, wanted, renaming)
        if name not in wanted and (_NOT_ENCODER.match(name) or renaming.ignores(name)):
            ignored.append(key)
            continue
        name = name if name in wanted else renaming(name)
        if name not in wanted and _NOT_ENCODER.match(name):
            ignored.append(key)
        elif name in renamed:
            raise WeightsMismatch(f"{name} occurs twice, under different prefixes", where=where, expected="one encoder")
        elif not _is_counter(name):
            renamed[name] = tensor
    return renamed, tuple(ignored)


def _without_prefixes(key: str, wanted: Collection[str], renaming: Renaming) -> str:
    while key not in wanted:
        component, _, rest = key.partition(".")
        if component not in (*_PREFIXES, *renaming.prefixes) or not rest:
            break
        key = rest
    return key


def _mismatch(
    report: LoadReport, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str
) -> WeightsMismatch:
    parts = [f"{len(report.matched)} of {len(wanted)} encoder tensors fit ({report.matched_share:.0%})"]
    shapes = [f"{n} ({_shape(given[n])} in the file, {_shape(wanted[n])} here)" for n in report.mismatched]
    for words, names in (("missing", report.missing), ("unexpected", report.unexpected), ("other shape", shapes)):
        if names:
            parts.append(f"{words}: {few([*names], 3)}")
    return WeightsMismatch(
        "; ".join(parts),
        where=where,
        expected=f"at least {MINIMUM_SHARE:.0%} of the encoder's and of the file's, its first convolution among "
        "them, and none of another shape",
        action=_other_dimensions(report, given, wanted)
        or _other_channels(report, given, wanted)
        or "Choose the backbone that this file was made for",
    )


def _other_dimensions(report: LoadReport, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A hint if a 2D network's kernels are given to a 3D one, or vice versa."""
    ranks = {(given[name].ndim, wanted[name].ndim) for name in report.mismatched}
    if (4, 5) in ranks:
        return "The file is of a 2D network: give it to one made of 2D networks (inflated-..., acs-..., slices-...)"
    if (5, 4) in ranks:
        return "The file is of a 3D network, this backbone is made of a 2D one: choose the backbone it was made for"
    return ""


def _other_channels(report: LoadReport, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A hint if only the first convolution differs, and only in its input channels."""
    if len(report.mismatched) != 1 or report.missing:
        return ""
    file, here = given[report.mismatched[0]].shape, wanted[report.mismatched[0]].shape
    if len(file) != 5 or file[0] != here[0] or file[2:] != here[2:]:
        return ""
    return f"The file was made for {file[1]} input channel(s), this backbone's first convolution takes {here[1]}"


def _shape(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'} {str(tensor.dtype).removeprefix('torch.')}"
