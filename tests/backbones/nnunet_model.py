"""Writes an nnU-Net v2 model as nnU-Net itself does: plans.json, dataset.json, fold_0/checkpoint_final.pth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from unet_reference import NNUNet, State, nnunet_names, random_state, share_aliases

CONFIGURATION = "3d_fullres"
FOLDER = f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
PLAIN = NNUNet(
    widths=(8, 12, 16),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    repeats=(2, 1, 2),
)
RESIDUAL = NNUNet(PLAIN.widths, PLAIN.kernels, PLAIN.strides, (1, 2, 2), residual=True)
CT = {"percentile_00_5": -958.0, "percentile_99_5": 292.0, "mean": -58.0, "std": 250.0, "median": -20.0}


def architecture(net: NNUNet) -> dict[str, Any]:
    """The newer form of a plan's network."""
    layer = "batchnorm.BatchNorm3d" if net.batch_norm else "instancenorm.InstanceNorm3d"
    repeats = "n_blocks_per_stage" if net.residual else "n_conv_per_stage"
    name = "ResidualEncoderUNet" if net.residual else "PlainConvUNet"
    arguments = {
        "n_stages": net.stages,
        "features_per_stage": list(net.widths),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [list(kernel) for kernel in net.kernels],
        "strides": [list(stride) for stride in net.strides],
        repeats: list(net.repeats),
        "n_conv_per_stage_decoder": [2] * (net.stages - 1),
        "conv_bias": net.bias,
        "norm_op": f"torch.nn.modules.{layer}",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    }


def older_architecture(net: NNUNet) -> dict[str, Any]:
    """The older form; widths double up to a limit."""
    return {
        "UNet_class_name": "ResidualEncoderUNet" if net.residual else "PlainConvUNet",
        "UNet_base_num_features": net.widths[0],
        "unet_max_num_features": net.widths[-1],
        "n_conv_per_stage_encoder": list(net.repeats),
        "n_conv_per_stage_decoder": [2] * (net.stages - 1),
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": [list(stride) for stride in net.strides],
        "conv_kernel_sizes": [list(kernel) for kernel in net.kernels],
    }


def plans(network: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A plans.json; changes that name a setting of the configuration go there."""
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 32, 32],
        "spacing": [3.0, 1.5, 1.25],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        **network,
    }
    whole = {
        "dataset_name": "Dataset900_Example",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d": configuration | {"patch_size": [32, 32]}, CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": CT},
    }
    for name, value in changes.items():
        (whole if name in whole else configuration)[name] = value
    return whole


def write_model(folder: Path, net: NNUNet, content: dict[str, Any] | None = None, seed: int = 0) -> State:
    """Write the model folder; returns the network's tensors under their original names."""
    content = content or plans(architecture(net))
    state = share_aliases(random_state(nnunet_names(net), seed))
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "file_ending": ".nii.gz",
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content, indent=4))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.save(checkpoint(state, content, dataset), folder / "fold_0/checkpoint_final.pth")
    return state


def checkpoint(state: State, content: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """What nnUNetTrainer.save_checkpoint writes, numpy's numbers in its log included."""
    moments = {0: {"momentum_buffer": torch.zeros(3)}}
    return {
        "network_weights": state,
        "optimizer_state": {"state": moments, "param_groups": [{"lr": 1e-2, "momentum": 0.99, "params": [0]}]},
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.nanmean([0.6, 0.7])],
            "ema_fg_dice": [np.float64(0.5)],
            "dice_per_class_or_region": [[np.float64(0.4), np.float32(0.6)]],
            "train_losses": [np.float32(-0.1)],
            "val_losses": [np.mean([-0.2, -0.3]), np.array([1.0, 2.0])],
            "lrs": [0.01, np.float64(0.009)],
            "epoch_start_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.55),
        "current_epoch": 1000,
        "init_args": {
            "plans": content,
            "configuration": CONFIGURATION,
            "fold": 0,
            "dataset_json": dataset,
            "unpack_dataset": True,
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
