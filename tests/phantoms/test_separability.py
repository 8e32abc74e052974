"""The classes are neither given away by simple figures nor hidden: there is room for a network, and for transfer."""

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from med_transfer.phantoms.lesions import CLASSES
from med_transfer.phantoms.patient import draw_patient, take_scan
from med_transfer.scans import geometry


def lesion_box(scan, step_mm: float = 1.5) -> np.ndarray:
    """The cube round the lesion, as wide as the lesion."""
    axis = np.arange(-scan.lesion_size_mm / 2, scan.lesion_size_mm / 2 + 1e-6, step_mm)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    index = geometry.to_index(scan.affine, np.stack([x, y, z], axis=-1) + scan.lesion_mm)
    return ndimage.map_coordinates(scan.voxels.astype(np.float32), np.moveaxis(index[..., ::-1], -1, 0), order=1)


def first_order(values: np.ndarray, size_mm: float) -> list[float]:
    percentiles = np.percentile(values, (5, 25, 50, 75, 95))
    return [values.mean(), values.std(), stats.skew(values), stats.kurtosis(values), *percentiles, size_mm]


def handcrafted_auc(task: str, difficulty: float, patients: int) -> float:
    scans = [take_scan(draw_patient(11, task, n, difficulty=difficulty), 0, (16, 72, 72)) for n in range(patients)]
    features = [first_order(lesion_box(scan).ravel(), scan.lesion_size_mm) for scan in scans]
    truth = np.arange(patients) % len(CLASSES[task])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    probabilities = cross_val_predict(model, np.array(features), truth, cv=5, method="predict_proba")
    return float(roc_auc_score(truth, probabilities, multi_class="ovr"))


@pytest.mark.parametrize(
    ("task", "difficulty", "low", "high"),
    [("texture", 0.5, 0.72, 0.95), ("shape", 0.5, 0.50, 0.80)],
)
def test_first_order_features_help_but_do_not_suffice(task, difficulty, low, high):
    assert low < handcrafted_auc(task, difficulty, patients=60) <= high
