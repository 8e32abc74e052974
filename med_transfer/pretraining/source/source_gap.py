"""Features of the source by the finished encoder, kept beside its weights to measure the distance of a target."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.weights.source_features import SourceFeatures, source_features_path, write_source_features
from med_transfer.backbones.weights.weight_files import hash_weights
from med_transfer.cohorts.left_behind import left_behind
from med_transfer.model.features import stage_features
from med_transfer.pretraining.methods.method import HEAD, Method

N_INPUTS = 256


def extract_source_features(method: Method, encoder_file: Path) -> Path:
    """Write features of plain inputs from the training scans, by the encoder as saved; returns the file's path.

    Raises:
        UsageError: the saved encoder is damaged.
        OutputError: the file cannot be written.
    """
    encoder, scans, features = _encoder_as_saved(method.encoder, encoder_file), set(), []
    for x, numbers in method.plain_inputs(N_INPUTS):
        features.append(_stages(method, x, encoder))
        scans |= set(numbers.tolist())
    tables = {(stage,): np.concatenate(rows) for stage, rows in enumerate(zip(*features, strict=True))}
    with encoder_file.open("rb") as stream:
        sha256 = hash_weights(stream)
    path = source_features_path(encoder_file)
    write_source_features(path, SourceFeatures(sha256, len(scans), tables, input=describe_input(method)))
    return path


def describe_input(method: Method) -> str:
    """The form in which the encoder saw the source's scans, in words, to help interpret the distance."""
    config, crops = method.config, method.config.crops
    extents = [*crops.size_mm, *(crops.large_size_mm if crops.large else ())]
    crop = f"crops of {min(extents):g} to {max(extents):g} mm"
    whole = "whole scans" if crops.slab is None else f"{crops.slab} slices of whole scans"
    what = whole if method.crops.whole else crop
    painted = ", lung and nodules painted in" if method.paints and config.lung_scenes else ""
    return f"{what} as {' x '.join(map(str, config.input_shape))} voxels{painted}"


def _encoder_as_saved(encoder: Encoder, encoder_file: Path) -> Encoder:
    """The encoder in evaluation mode, in single precision, with the file's values, which are rounded to fp16."""
    written = copy.deepcopy(encoder)
    with left_behind(encoder_file, remove="checkpoint.pt beside it"):
        tensors = load_file(encoder_file)
        written.load_state_dict({name: one for name, one in tensors.items() if not name.startswith(HEAD)})
    return written.eval()


@torch.no_grad()
def _stages(method: Method, x: Tensor, encoder: Encoder) -> list[np.ndarray]:
    """Features [input, feature] of each stage."""
    return stage_features(encoder, method.maps(x, encoder))
