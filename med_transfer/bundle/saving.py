"""Write a bundle's folder atomically."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from med_transfer.atomic import atomic_path, sha256_of
from med_transfer.atomic.partial_files import partial_path
from med_transfer.bundle.applied_model_card import applied_model_card
from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.bundle.files import WEIGHTS_FILE, versions
from med_transfer.bundle.provenance import provenance_metadata
from med_transfer.bundle.record import RECORD_FILE, BundleRecord
from med_transfer.bundle.similar_cases import SIMILAR_CASES_FILE, SimilarCases
from med_transfer.errors import OutputError
from med_transfer.model.ensemble import Ensemble


def save_bundle(
    folder: Path, record: BundleRecord, ensemble: Ensemble, model_card: str, similar: SimilarCases | None = None
) -> Path:
    """Write a bundle atomically, replacing an existing one, and return its folder.

    Args:
        folder: the bundle's folder.
        record: its record; hashes, versions and the lock are filled in here.
        ensemble: the network.
        model_card: Markdown for docs/README.md.
        similar: development scans that the bundle may show; None stores no picture.

    Raises:
        OutputError: no space or no permission.
    """
    folder = Path(folder)
    try:
        temporary = partial_path(folder)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=folder) from None
    try:
        _write_parts(temporary, record, ensemble, model_card, similar)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError, OutputError) as error:
        found = error.found if isinstance(error, OutputError) else f"cannot write ({error})"
        raise OutputError(found, where=folder, action="Free some space and run again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_parts(
    folder: Path, record: BundleRecord, ensemble: Ensemble, model_card: str, similar: SimilarCases | None
) -> None:
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir()
    weights, encoders = folder / WEIGHTS_FILE, ensemble.equal_encoders()
    tensors = ensemble.share_encoders(encoders).distinct_tensors()
    with atomic_path(weights) as temporary:
        written = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        save_file(written, temporary, metadata=provenance_metadata(record.trained_on, record.backbone.licence))
    facts = {"encoders": encoders, "weights_sha256": sha256_of(weights), "versions": versions()}
    record = record.model_copy(update=facts)
    others = {
        "configs/metadata.json": json.dumps(_monai_metadata(record), indent=2) + "\n",
        "configs/inference.json": json.dumps(_MONAI_INFERENCE, indent=2) + "\n",
        "docs/README.md": model_card,
        "docs/applied_model_card.xml": applied_model_card(record),
    }
    contents = {name: text.encode() for name, text in others.items()}
    if similar is not None:
        contents[SIMILAR_CASES_FILE] = similar.as_bytes()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    record = record.model_copy(update={"files": {name: sha256_of(folder / name) for name in contents}})
    record = record.model_copy(update={"lock_hash": lock_hash(json.loads(record.model_dump_json()))})
    (folder / RECORD_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


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
