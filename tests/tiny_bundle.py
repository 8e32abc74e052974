"""A bundle with random weights, and scans of noise for it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch

from med_transfer.backbones import load_backbone
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance, save_bundle
from med_transfer.bundle.similar_cases import SimilarCases
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans.inspection.picture import jpeg


def tiny_bundle(
    folder: Path,
    seed: int = 0,
    *,
    broken: bool = False,
    n: int = 1,
    shared: bool = False,
    similar: SimilarCases | None = None,
    learned_from: tuple[str, ...] = (),
    **preprocessing: object,
) -> Path:
    """Of ``n`` networks with random weights; ``broken``: one of them is no number; ``similar``: scans it may show;
    ``shared``: all networks have the same encoder, as frozen ones have, which lies in the bundle once.

    ``learned_from``: hashes of samples of scans.
    """
    settings = {"shape": (16, 16, 16), "spacing_mm": (2, 1, 1), "region": "whole"} | preprocessing
    record = BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=PreprocessingConfig.model_validate(settings),
        backbone=BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_members=n,
        n_similar_cases=len(similar.patients) if similar else 0,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(
            cohort_hash="c", patient_hashes=("a",), content_hashes=("b",), sample_hashes=learned_from
        ),
    )
    torch.manual_seed(seed)
    seeds = [seed] * n if shared else range(seed, seed + n)
    encoders = [load_backbone("resnet18-w8", scratch=True, seed=number).encoder for number in seeds]
    network = Ensemble([Classifier(encoder, 2) for encoder in encoders]).eval()
    if broken:
        next(network.parameters()).data[0] = torch.nan
    return save_bundle(folder, record, network, "# card\n", similar)


def made_up_cases(labels: str = "bmbm", patients: tuple[int, ...] = (0, 1, 1, 2), seed: int = 0) -> SimilarCases:
    """Development scans of a tiny bundle: random features, benign or malignant, and pictures that differ."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(len(labels), 64)).astype(np.float32)
    truth = np.array([[label == "b", label == "m"] for label in labels])
    pictures = [jpeg(random.integers(0, 255, (8, 24), np.uint8)) for _ in labels]
    return SimilarCases([features], truth, np.array(patients), pictures, (0.75, 0.5))


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(0, 300, (40, 40, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path
