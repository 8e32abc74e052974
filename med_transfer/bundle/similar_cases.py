"""Development scans that a bundle shows beside a new one like them: a picture, the label, and the networks' features.

Only where the run's config asks for it (``similar_cases``): the pictures are of patients, and go where the bundle goes.
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
_SHOWN = 3  # a look at three is soon taken


@dataclass(frozen=True, eq=False)
class SimilarCases:
    """The scans that a bundle may show.

    Attributes:
        features: of each fold model, [case, feature].
        truth: [case, class].
        patients: [case], numbered from 0; equal where the patient is.
        pictures: JPEG of each case.
        same_label: of the training scans that would be shown beside validation scans, the share with the same label,
            and what it would be by chance.
    """

    features: Sequence[NDArray[np.floating]]
    truth: NDArray[np.bool_]
    patients: NDArray[np.int64]
    pictures: Sequence[bytes]
    same_label: tuple[float, float]

    def nearest(self, features: Sequence[NDArray[np.floating]], classes: Sequence[str]) -> tuple[SimilarCase, ...]:
        """The most similar case of each of three patients, the most similar first.

        Args:
            features: of one scan, by each fold model, [1, feature].
            classes: names of the columns of ``truth``.
        """
        alike = similarity(features, self.features)[0]
        names = np.array(classes)
        return tuple(
            SimilarCase(case, ";".join(names[self.truth[case]].tolist()), round(float(alike[case]), 3))
            for case in most_similar(alike, self.patients)
        )

    def as_bytes(self) -> bytes:
        """The file's content."""
        arrays = {f"features{number}": of_one.astype(np.float32) for number, of_one in enumerate(self.features)}
        arrays |= {f"picture{number}": np.frombuffer(jpeg, np.uint8) for number, jpeg in enumerate(self.pictures)}
        return save(arrays | {"truth": self.truth, "patients": self.patients, "same_label": np.array(self.same_label)})


def similarity(features: Sequence[NDArray[np.floating]], cases: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """How alike scans and cases are [scan, case]: the cosine between their features, in [-1, 1], mean of fold models.

    Features are taken in standard deviations from the cases' mean; one that is the same in all cases tells nothing.
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
    """Each row of length 1; one of zeros stays as it is."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def most_similar(alike: NDArray[np.float64], patients: NDArray[np.int64]) -> list[int]:
    """The cases to show, the most similar first: of each of three patients one.

    Args:
        alike: of one scan and each case, [case].
        patients: of the cases, [case].
    """
    order = np.argsort(-alike, kind="stable")
    _, first = np.unique(patients[order], return_index=True)
    return order[np.sort(first)[:_SHOWN]].tolist()


def load_similar_cases(folder: Path) -> SimilarCases:
    """Of a bundle whose record says that there are some. Raises BundleError."""
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
