"""The bundle's folder: written whole or not at all, and read back only when nothing in it was changed."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from med_transfer.atomic import atomic_path, sha256_of
from med_transfer.backbones import backbones
from med_transfer.backbones.adapters import add_adapters
from med_transfer.backbones.channels import coloured, widened
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.backbones.instance_pooling import built_with
from med_transfer.backbones.networks.nnunet import NNUNetEncoder
from med_transfer.bundle.applied_model_card import applied_model_card
from med_transfer.bundle.decisions_lock import DECISIONS_FILE, lock_hash, require_lock
from med_transfer.bundle.record import RECORD_FILE, BundleRecord
from med_transfer.bundle.signature import verify_bundle
from med_transfer.errors import BundleError, OutputError
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.novelty import Novelty

log = logging.getLogger(__name__)

BUNDLE_FOLDER, WEIGHTS_FILE = "bundle", "models/model.safetensors"
_DRAWING = {torch.Tensor.normal_, torch.Tensor.uniform_}
_PACKAGES = ("med-transfer", "monai", "torch", "numpy", "pydicom", "nibabel", "safetensors")


def save_bundle(folder: Path, record: BundleRecord, ensemble: Ensemble, model_card: str) -> Path:
    """Write the bundle whole or not at all.

    Raises:
        OutputError: no space or no permission.
    """
    folder = Path(folder)
    try:
        temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=folder) from None
    try:
        _write_parts(temporary, record, ensemble, model_card)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError, OutputError) as error:
        found = error.found if isinstance(error, OutputError) else f"cannot write ({error})"
        raise OutputError(found, where=folder, action="Free some space and run again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_parts(folder: Path, record: BundleRecord, ensemble: Ensemble, model_card: str) -> None:
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir()
    weights = folder / WEIGHTS_FILE
    with atomic_path(weights) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in ensemble.state_dict().items()}, temporary)
    record = record.model_copy(update={"weights_sha256": sha256_of(weights), "versions": versions()})
    others = {
        "configs/metadata.json": json.dumps(_monai_metadata(record), indent=2) + "\n",
        "configs/inference.json": json.dumps(_MONAI_INFERENCE, indent=2) + "\n",
        "docs/README.md": model_card,
        "docs/applied_model_card.xml": applied_model_card(record),
    }
    for name, text in others.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    record = record.model_copy(update={"files": {name: sha256_of(folder / name) for name in others}})
    record = record.model_copy(update={"lock_hash": lock_hash(json.loads(record.model_dump_json()))})
    (folder / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> BundleRecord:
    """The bundle's record.

    Raises:
        BundleError: no bundle there, one that this version cannot read, or one whose decisions were changed.
    """
    path = Path(folder) / RECORD_FILE
    try:
        text = path.read_text(encoding="utf-8")
        record = BundleRecord.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            "not a bundle",
            where=folder,
            expected=f"a folder with {RECORD_FILE}",
            action="Give RUN/bundle of a finished run",
        ) from None
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, expected="the bundle's record") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "not text"}
        key = ".".join(map(str, first["loc"]))
        if key == "schema":
            raise BundleError(
                f"schema {first['input']!r}, of a newer version",
                where=path,
                expected="schema '1'",
                action="Update med-transfer",
            ) from None
        raise BundleError(
            f"{key or 'record'}: {first['msg']}", where=path, expected="a bundle of this version"
        ) from None
    require_lock(json.loads(text), path, run_folder(folder))
    for name, sha256 in record.files.items():
        _require_file(Path(folder) / name, sha256)
    return record


def bundle_folder(folder: Path | str) -> Path:
    """The bundle in a run folder; any other folder as it is."""
    inside = Path(folder) / BUNDLE_FOLDER
    return inside if inside.is_dir() else Path(folder)


def _require_file(path: Path, sha256: str, what: str = "contents") -> None:
    """What is no regular file (a device never ends) counts as missing. Raises BundleError."""
    again = "Copy the whole bundle folder again"
    try:
        found = sha256_of(path) if path.is_file() else None
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, action=again) from None
    if found is None:
        raise BundleError(f"{what} are missing", where=path, action=again)
    if found != sha256:
        raise BundleError(
            f"{what} are not the ones this bundle was made with",
            where=path,
            expected=f"SHA-256 {sha256[:12]}...",
            action=again,
        )


def run_folder(folder: Path) -> Path | None:
    """The run that a bundle lies in; None for a bundle that was copied, or is from before there were locks."""
    folder = Path(folder).resolve()
    return folder.parent if folder.name == BUNDLE_FOLDER and (folder.parent / DECISIONS_FILE).is_file() else None


def read_whole(folder: Path) -> BundleRecord:
    """The record of a bundle whose weights are there, too, and as they were written. Raises BundleError."""
    record = read_record(folder)
    _require_file(folder / WEIGHTS_FILE, record.weights_sha256, "weights")
    return record


def load_network(bundle_root: Path | str, public_key: Path | None = None) -> Ensemble:
    """The bundle's network in evaluation mode, on the CPU.

    A bundle outside of the run that made it, which may have come from anywhere, is said to be unsigned where it is.

    Args:
        bundle_root: the bundle.
        public_key: of whoever must have signed it; None takes it unsigned, too.

    Raises:
        BundleError: weights missing, changed since they were written, of another network, or no numbers; a signature
            that does not hold, or none of the key that was asked for.
    """
    folder = Path(bundle_root)
    record, weights = read_whole(folder), folder / WEIGHTS_FILE
    signer = verify_bundle(folder, public_key)
    if signer is not None:
        log.info("%s is signed with key %s", folder, signer.fingerprint)
    elif run_folder(folder) is None:
        log.warning("%s is unsigned: nothing proves who made it or last changed it", folder)
    try:
        tensors = load_file(weights)
        tensors.pop("temperature", None)  # kept among the weights, too, before there were other calibrations
        held = len({name.partition(".")[0] for name in tensors if name.startswith("member")})
        if held != record.n_fold_models:  # before any is built
            raise RuntimeError(f"{held} networks, not {record.n_fold_models}")
        statistics = tensors.get("novelty0.input_mean", ())
        with _Unfilled():
            ensemble = _empty_network(record, len(statistics))
        ensemble.load_state_dict(tensors)
    except (RuntimeError, SafetensorError) as error:
        raise BundleError(f"weights do not fit {record.backbone.name}: {str(error)[:200]}", where=weights) from None
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise BundleError(
            f"{broken[0]} has values that are NaN or infinite",
            where=weights,
            expected="finite weights",
            action="Train it again, with a lower learning rate",
        )
    return ensemble.eval().share_equal_encoders()


class _Unfilled(TorchFunctionMode):
    """Networks whose every value is read from a file draw no random ones first, which takes longer than the reading."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING or getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _empty_network(record: BundleRecord, n_statistics: int) -> Ensemble:
    spec = backbones().get(record.backbone.name)
    if spec is None:
        raise BundleError(
            f"backbone {record.backbone.name!r} is unknown to this version",
            where=RECORD_FILE,
            action="Update med-transfer",
        )
    pooled, plan = record.backbone.pooled_stages, record.backbone.plan
    plain = partial(NNUNetEncoder, plan.architecture) if plan else spec.build
    build = coloured(plain) if record.backbone.as_colours else widened(plain, record.preprocessing.n_channels)
    build = built_with(build, InstanceChoice(record.backbone.instance_pooling, record.backbone.tile_overlap))
    bottleneck = record.transfer.bottleneck if record.transfer else None
    classifiers = [
        Classifier(build(), len(record.classes), pooled, bottleneck=bottleneck) for _ in range(record.n_fold_models)
    ]
    if record.transfer and record.transfer.adapter_reduction:
        for classifier in classifiers:
            add_adapters(classifier.encoder, record.transfer.adapter_reduction)
    novelties = [Novelty(classifier.n_features, n_statistics) for classifier in classifiers]
    return Ensemble(classifiers, novelties, multilabel=record.multilabel, calibrator=record.calibration)


def versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


_MONAI_INFERENCE = {
    "imports": ["$import med_transfer.bundle"],
    "bundle_root": ".",
    "network_def": {"_target_": "med_transfer.bundle.load_network", "bundle_root": "@bundle_root"},
    "predictor": {"_target_": "med_transfer.inference.Predictor", "bundle": "@bundle_root"},
    "scans": [],
    "run": ["$[@predictor.predict(scan) for scan in @scans]"],
}


def _monai_metadata(record: BundleRecord) -> dict:
    preprocessing = record.preprocessing
    (depth, height, width), (low, high) = preprocessing.shape, preprocessing.output_range
    tensor = {"dtype": "float32", "is_patch_data": False}
    image = tensor | {
        "type": "image",
        "format": "hounsfield" if preprocessing.modality == "CT" else "magnitude",
        "modality": preprocessing.modality or "n/a",
        "num_channels": preprocessing.n_channels,
        "spatial_shape": [depth, height, width],
        "value_range": [low, high],
        "channel_def": {str(number): channel.column for number, channel in enumerate(preprocessing.channels)}
        or {"0": "image"},
    }
    scores = tensor | {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(record.classes),
        "spatial_shape": [1],
        "value_range": [0, 1],
        "channel_def": {str(number): name for number, name in enumerate(record.classes)},
    }
    versions_ = record.versions
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "1.0.0",
        "monai_version": versions_["monai"],
        "pytorch_version": versions_["torch"],
        "numpy_version": versions_["numpy"],
        "required_packages_version": {
            name: versions_[name] for name in ("med-transfer", "safetensors", "pydicom", "nibabel")
        },
        "task": "classification of scans: " + ", ".join(record.classes),
        "description": f"Ensemble of {record.n_fold_models} networks on {record.backbone.name}, made by med_transfer",
        "authors": "the owner of the cohort",
        "copyright": "the owner of the cohort",
        "intended_use": record.intended_use,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": scores}},
    }
