"""MR, PET and enhanced objects through the node: from the modality to a report and the objects beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import pytest
from enhanced_objects import enhanced
from mr_like import as_mr_dicom
from peers import series, storescu, until
from pydicom import dcmread
from pydicom.uid import PositronEmissionTomographyImageStorage
from tiny_bundle import tiny_bundle

pytest.importorskip("highdicom", reason="needs the extra [hospital]")

from highdicom.seg import segread
from highdicom.sr import srread

from med_transfer.hospital.node import Node

pytestmark = pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk")

AFFINE = np.array([[1.5, 0, 0, -18], [0, 1.5, 0, -18], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])


def mr(folder: Path) -> None:
    series(folder)
    as_mr_dicom(folder)


def pet(folder: Path) -> None:
    """With another slope in every slice, as scanners write it."""
    for number, path in enumerate(series(folder)):
        image = dcmread(path)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        image.Modality, image.Units, image.RescaleIntercept = "PT", "BQML", "0"
        image.RescaleSlope = f"{1 + number / 80:g}"
        del image.RescaleType
        image.save_as(path)


def enhanced_ct(folder: Path) -> None:
    enhanced(folder / "one.dcm", noise(), AFFINE, order=[3, 1, 0, 2, 7, 6, 5, 4])


def enhanced_mr(folder: Path) -> None:
    enhanced(folder / "one.dcm", noise(), AFFINE, ct=False)


def noise() -> np.ndarray:
    return np.random.default_rng(1).integers(-900, 300, (8, 24, 24)).astype(float)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return tiny_bundle(folder, seed=1, spacing_mm=(1, 2, 2), normalisation="zscore")


@pytest.mark.parametrize(
    ("write", "count", "procedure"),
    [
        (mr, 8, "Magnetic resonance imaging"),
        (pet, 8, "Positron emission tomography"),
        (enhanced_ct, 1, "Computed tomography"),
        (enhanced_mr, 1, "Magnetic resonance imaging"),
    ],
)
def test_from_the_modality_to_a_report(
    write: Callable[[Path], None], count: int, procedure: str, bundle, node_config, tmp_path
):
    write(tmp_path / "scan")
    images = sorted((tmp_path / "scan").iterdir())
    config = node_config(results={"secondary_capture": False, "heat_map": "plain", "segmentation": True})
    node = Node(config, bundle, "cpu")
    node.start()
    try:
        assert storescu(config.port, *images).returncode == 0
        until(lambda: node.queue.counts() == {"predicted": 1})
    finally:
        node.stop()
    by_kind = {dcmread(path).Modality: path for path in (config.folder / "results").iterdir()}
    report = srread(by_kind["SR"])
    (group,) = report.content.get_image_measurement_groups()
    said = {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()}
    assert said["Analysis"] == "Analysed"
    assert len(group.source_images) == count == len(images)
    procedures = [item.value.meaning for item in report.ContentSequence if item.name.value == "121058"]
    assert procedures == [procedure]
    assert report.StudyInstanceUID == dcmread(images[0]).StudyInstanceUID
    segmentation = segread(by_kind["SEG"])
    assert segmentation.FrameOfReferenceUID == dcmread(images[0]).FrameOfReferenceUID
    assert {str(uid[2]) for uid in segmentation.get_source_image_uids()} <= {dcmread(p).SOPInstanceUID for p in images}
