"""The errors that a report shows: which ones, with where the network looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import PreparedCohort
from med_transfer.cohorts.preparation import PreparedScan
from med_transfer.explanation import (
    Attention,
    Explanation,
    GradCAM,
    MapCheckSettings,
    Method,
    explain,
    looks_by_attention,
)
from med_transfer.explanation.picture import PictureStyle, few_slices, heat_picture
from med_transfer.explanation.sanity import MOST_CORRELATED
from med_transfer.model.ensemble import Ensemble
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, silent
from med_transfer.report.run_summary import MapChecks, Miss
from med_transfer.scans import geometry

_DRAWS, _RANDOM_REGIONS = 1, 10  # for each error; over the errors of a gallery they add up
_PICTURE = PictureStyle("jpeg", height_inches=1.2)  # two stand side by side on the page


@dataclass(frozen=True)
class Error:
    """One wrong call.

    Attributes:
        scan: index.
        kind: ``miss``: a class that is there and was not called; ``confident``: a wrong call that was sure of itself.
        class_index: what is explained: the class called wrongly; where none was called, the one missed.
    """

    scan: int
    kind: Literal["miss", "confident"]
    class_index: int


def chosen_errors(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], probabilities: NDArray[np.float64], n: int
) -> list[Error]:
    """At most ``n`` errors, each scan once: half of them misses, class by class, the rest the surest wrong calls.

    A class's misses come in order of the probability that it got, least first.

    Args:
        truth, predicted: boolean [scan, class]; probabilities in [0, 1] of the same shape.
        n: how many.
    """
    missed, wrongly = truth & ~predicted, predicted & ~truth
    by_class = [
        sorted(np.flatnonzero(missed[:, c]).tolist(), key=lambda scan, c=c: float(probabilities[scan, c]))
        for c in range(truth.shape[1])
    ]
    misses = [scan for scan in chain.from_iterable(zip_longest(*by_class)) if scan is not None]
    score = np.where(wrongly, probabilities, -1.0).max(axis=1, initial=-1.0)
    confident = sorted(np.flatnonzero(wrongly.any(axis=1)).tolist(), key=lambda scan: -float(score[scan]))
    kinds: dict[int, Literal["miss", "confident"]] = {}
    for scan in misses:
        if len(kinds) < (n + 1) // 2:
            kinds.setdefault(scan, "miss")
    for scan, kind in [*((scan, "confident") for scan in confident), *((scan, "miss") for scan in misses)]:
        if len(kinds) < n:
            kinds.setdefault(scan, kind)
    return [Error(scan, kind, _explained(scan, missed, wrongly, probabilities)) for scan, kind in kinds.items()]


def _explained(scan: int, missed: NDArray, wrongly: NDArray, probabilities: NDArray) -> int:
    among = wrongly[scan] if wrongly[scan].any() else missed[scan]
    return int(np.where(among, probabilities[scan], -1.0).argmax())


def gallery(
    record: BundleRecord,
    ensemble: Ensemble,
    prepared: PreparedCohort,
    predictions: Sequence[Prediction],
    n: int,
    fold_of: Sequence[int] = (),
    progress: Progress = silent,
) -> tuple[list[Miss], MapChecks | None]:
    """Pictures of at most ``n`` errors with a map over them, and how far these maps can be trusted.

    The row of each is its scan's position in ``prepared``: whoever writes the table knows where in it that is.
    The map is the attention where slices or tiles are pooled by one that was trained, and Grad-CAM elsewhere.

    Args:
        record: of the bundle that is evaluated.
        ensemble: its network; on a GPU while it is explained, when there is one, and then on the CPU.
        prepared: the scans, as the network sees them.
        predictions: of the same scans, in their order.
        n: how many; with 0, or without an error, there is nothing and None.
        fold_of: where the scans trained fold models, the one of each that did not train on it, which alone is
            explained then; else empty.
        progress: told of each map.
    """
    if not n or not predictions:
        return [], None
    probabilities = np.array([[scan.probabilities[name] for name in record.classes] for scan in predictions])
    predicted, truth = _called(record, predictions), prepared.cohort.truth
    errors = chosen_errors(truth, predicted, probabilities, n)
    if not errors:
        return [], None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensemble = ensemble.to(device).eval()
    method = Attention() if looks_by_attention(ensemble) else GradCAM()
    networks = [ensemble.alone(fold_of[error.scan]) if fold_of else ensemble for error in errors]
    explanations = list(_explained_errors(errors, networks, prepared, method, progress))
    ensemble.cpu()
    misses = []
    for error, explanation in zip(errors, explanations, strict=True):
        picture, through, slices = _picture(record, prepared.scans[error.scan], explanation)
        misses.append(
            Miss(
                row=error.scan,
                kind=error.kind,
                truth=";".join(
                    name for name, present in zip(record.classes, truth[error.scan], strict=True) if present
                ),
                predicted=predictions[error.scan].predicted,
                explained=record.classes[error.class_index],
                probability=float(probabilities[error.scan, error.class_index]),
                picture=picture,
                through=through,
                empty=explanation.heat.empty,
                doubtful=bool(explanation.doubts) and not explanation.heat.empty,
                slices=slices,
            )
        )
    return misses, _checks(record, explanations, method)


def _called(record: BundleRecord, predictions: Sequence[Prediction]) -> NDArray[np.bool_]:
    """[scan, class], as each prediction says: its thresholds may be its own."""
    named = [one.predicted.split(";") if record.labels.multilabel else [one.predicted] for one in predictions]
    return np.array([[name in names for name in record.classes] for names in named])


def _explained_errors(
    errors: Sequence[Error], networks: Sequence[Ensemble], prepared: PreparedCohort, method: Method, progress: Progress
) -> Iterator[Explanation]:
    for seed, (error, ensemble) in enumerate(zip(errors, networks, strict=True)):
        device = next(ensemble.parameters()).device
        image = torch.from_numpy(prepared.tensors[error.scan].astype(np.float32)).to(device)
        # each with random weights and regions of its own
        checks = MapCheckSettings(draws=_DRAWS, n_random=_RANDOM_REGIONS, seed=seed)
        yield explain(ensemble, image, error.class_index, method, checks)
        progress("pictures of errors", seed + 1, len(errors))


def _picture(
    record: BundleRecord, scan: PreparedScan, explanation: Explanation
) -> tuple[bytes, Literal["region", "peak", "middle"], bool]:
    """JPEG in the patient's proportions, through which point its planes go, and whether they are slices of a few."""
    preprocessing, voxels = record.preprocessing, scan.tensor[0].astype(np.float32)
    depth, height, width = voxels.shape
    spacing = preprocessing.spacing_mm or scan.voxel_mm
    affine = geometry.grid_affine(preprocessing.orientation, spacing, (0, 0, 0), (depth, height, width))
    window = (float(voxels.min()), float(voxels.max()))
    through = "region" if preprocessing.region == "roi" else "middle" if explanation.heat.empty else "peak"
    point = geometry.to_world_mm(affine, explanation.heat.peak[::-1]) if through == "peak" else (0.0, 0.0, 0.0)
    picture = heat_picture(voxels, explanation.heat.values, affine, window, point, style=_PICTURE)
    return picture, through, few_slices(voxels, affine) is not None


def _checks(record: BundleRecord, explanations: Sequence[Explanation], method: Method) -> MapChecks:
    deletions = [explanation.deletion for explanation in explanations if explanation.deletion is not None]
    correlations = [explanation.sanity.correlation for explanation in explanations if explanation.sanity is not None]
    spacing = record.preprocessing.spacing_mm
    element = explanations[0].heat.element_voxels
    return MapChecks(
        n=len(explanations),
        n_empty=sum(explanation.heat.empty for explanation in explanations),
        element_mm=spacing and (element[0] * spacing[0], element[1] * spacing[1], element[2] * spacing[2]),
        hidden_share=MapCheckSettings.share,
        drop=float(np.mean([deletion.drop for deletion in deletions])) if deletions else None,
        random_drop=float(np.mean([deletion.random_drop for deletion in deletions])) if deletions else None,
        n_no_better=sum(not deletion.beats_chance for deletion in deletions),
        correlation=float(np.mean(correlations)) if correlations else None,
        correlation_limit=MOST_CORRELATED,
        method=method.name,
    )
