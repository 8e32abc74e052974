"""Development scans that a bundle shows beside a similar new scan: picture, label, and the networks' features.

They are stored only if the run's config asks for it (``similar_cases``): pictures of patients travel with the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from med_transfer.errors import BundleError
from med_transfer.predictions.record import SimilarCase

SIMILAR_CASES_FILE = "models/similar_cases.safetensors"
_SHOWN = 3  # few enough to be looked at quickly


@dataclass(frozen=True, eq=False)
class SimilarCases:
    """The scans that a bundle may show.

    Attributes:
        features: [case, feature] of each fold model.
        truth: boolean [case, class].
        patients: [case], patient number from 0.
        pictures: JPEG of each case.
        same_label: share of training scans shown beside validation scans that have the same label, and the share
            expected by chance.
    """

    features: Sequence[NDArray[np.floating]]
    truth: NDArray[np.bool_]
    patients: NDArray[np.int64]
    pictures: Sequence[bytes]
    same_label: tuple[float, float]

    def nearest(self, features: Sequence[NDArray[np.floating]], classes: Sequence[str]) -> tuple[SimilarCase, ...]:
        """Return the most similar case of each of the three most similar patients, in descending order.

        Args:
            features: [1, feature] of one scan, by each fold model.
            classes: names of the columns of ``truth``.
        """
        alike = similarity(features, self.features)[0]
        names = np.array(classes)
        return tuple(
            SimilarCase(case, ";".join(names[self.truth[case]].tolist()), round(float(alike[case]), 3))
            for case in most_similar(alike, self.patients)
        )

    def as_bytes(self) -> bytes:
        """Return the content of the safetensors file."""
        arrays = {f"features{number}": of_one.astype(np.float32) for number, of_one in enumerate(self.features)}
        arrays |= {f"picture{number}": np.frombuffer(jpeg, np.uint8) for number, jpeg in enumerate(self.pictures)}
        return save(arrays | {"truth": self.truth, "patients": self.patients, "same_label": np.array(self.same_label)})


def similarity(features: Sequence[NDArray[np.floating]], cases: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return the cosine similarity of features [scan, case], in [-1, 1], averaged over fold models.

    Features are standardised by the cases' mean and standard deviation; a feature that is constant over the cases is
    ignored.

    Args:
        features: [scan, feature] by each fold model.
        cases: [case, feature] by each fold model.
    """
    alike = []
    for scan, case in zip(features, cases, strict=True):
        known = case.astype(np.float64)
        mean, spread = known.mean(axis=0), known.std(axis=0)
        spread[spread <= 1e-6 * spread.max()] = np.inf
        of_scan, of_case = (_unit((one - mean) / spread) for one in (scan, known))
        alike.append(of_scan @ of_case.T)
    return np.mean(alike, axis=0)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise each row to length 1; a row of zeros stays zero."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def most_similar(alike: NDArray[np.float64], patients: NDArray[np.int64]) -> list[int]:
    """Return the positions of the cases to show: one for each of the three most similar patients, in descending order.

    Args:
        alike: [case], similarity of a scan to each case.
        patients: [case], patient of each case.
    """
    order = np.argsort(-alike, kind="stable")
    _, first = np.unique(patients[order], return_index=True)
    return order[np.sort(first)[:_SHOWN]].tolist()


def load_similar_cases(folder: Path) -> SimilarCases:
    """Read the similar cases of a bundle whose record says that it has some. Raises BundleError."""
    path = folder / SIMILAR_CASES_FILE
    try:
        arrays = load(path.read_bytes())
        return SimilarCases(
            [arrays[f"features{number}"] for number in range(sum(name.startswith("features") for name in arrays))],
            arrays["truth"],
            arrays["patients"],
            [arrays[f"picture{number}"].tobytes() for number in range(len(arrays["truth"]))],
            (float(arrays["same_label"][0]), float(arrays["same_label"][1])),
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise BundleError(f"similar cases cannot be read ({type(error).__name__})", where=path) from None
