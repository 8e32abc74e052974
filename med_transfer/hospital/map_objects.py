"""The heat map as DICOM objects: a segmentation, a parametric map, and a selection of the images at its peak.

Source: DICOM PS3.3 A.51 (Segmentation), A.75 (Parametric Map), A.35.4 (Key Object Selection); PS3.16 TID 2010.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence, VOILUTTransformation, Volume
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from med_transfer.hospital import codes as own
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.result_header import RESEARCH_ONLY, ResultHeader
from med_transfer.hospital.structured_report import observer
from med_transfer.inference.explain import ScanMap

_SHARE = 0.5  # threshold of the segmentation, as a fraction of the map's maximum


def segmentations(analyses: Sequence[Analysis], header: ResultHeader) -> list[Dataset]:
    """One segmentation per series with a map: the voxels with at least half of its maximum."""
    return [_segmentation(analysis, header, number) for number, analysis in _with_map(analyses)]


def parametric_maps(analyses: Sequence[Analysis], header: ResultHeader) -> list[Dataset]:
    """One parametric map per series with a map, with values in [0, 1]; 0 outside of the network's input."""
    return [_parametric_map(analysis, header, number) for number, analysis in _with_map(analyses)]


def key_objects(analyses: Sequence[Analysis], header: ResultHeader) -> list[Dataset]:
    """One key object selection for the study: for each series with a map, the image nearest to its peak."""
    images = [image for analysis in analyses for image in analysis.images]
    chosen = [_strongest_image(analysis) for _, analysis in _with_map(analyses)]
    if not chosen:
        return []
    content = KeyObjectSelection(
        document_title=codes.DCM.ForResearch,
        referenced_objects=chosen,
        observer_device_context=observer(header),
        description=f"{RESEARCH_ONLY}. Where the network's heat map is strongest; it need not be the finding.",
    )
    return [KeyObjectSelectionDocument(evidence=images, content=content, **header.instance("KO"))]


def _with_map(analyses: Sequence[Analysis]) -> Iterator[tuple[int, Analysis]]:
    """Analyses with a map that is positive anywhere, with their index, as for the pages."""
    for number, analysis in enumerate(analyses):
        if analysis.heat is not None and (np.nan_to_num(analysis.heat.values) > 0).any():
            yield number, analysis


def _segmentation(analysis: Analysis, header: ResultHeader, number: int) -> Segmentation:
    heat = _heat(analysis)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=own.long_string(f"Grad-CAM {heat.record.class_name}"),
        segmented_property_category=own.SPATIAL,
        segmented_property_type=own.EVIDENCE_FOR_CLASS,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="med_transfer", version=header.version, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_id="Grad-CAM",
        tracking_uid=header.sop_uid("tracking", number),
    )
    return Segmentation(
        pixel_array=_volume(analysis, heat.share >= _SHARE),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        **_common(analysis, header, "SEG", number),
    )


def _parametric_map(analysis: Analysis, header: ResultHeader, number: int) -> ParametricMap:
    mapping = RealWorldValueMapping(
        lut_label="GRADCAM",
        lut_explanation="Share of the strongest value",
        unit=own.NO_UNIT,
        value_range=(0.0, 1.0),
        slope=1,
        intercept=0,
        quantity_definition=own.MAP_VALUE,
    )
    result = ParametricMap(
        pixel_array=_volume(analysis, _heat(analysis).share),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[VOILUTTransformation(window_center=0.5, window_width=1.0)],
        **_common(analysis, header, "PM", number),
    )
    result.Laterality = ""  # unknown; required (type 2C) for paired body parts
    return result


def _common(analysis: Analysis, header: ResultHeader, kind: str, number: int) -> dict[str, Any]:
    return {
        "source_images": analysis.images,
        "device_serial_number": header.bundle[:16],
        "content_label": "GRADCAM",
        "content_description": RESEARCH_ONLY,
        "content_creator_name": "",  # no person, but required as type 2 (PS3.3 table 10-12)
        **header.instance(kind, number),
    }


def _heat(analysis: Analysis) -> ScanMap:
    assert analysis.heat is not None
    return analysis.heat


def _volume(analysis: Analysis, values: NDArray) -> Volume:
    """The values as a highdicom Volume. Raises ValueError for a sheared scan."""
    assert analysis.volume is not None
    affine = analysis.volume.affine[:, [2, 1, 0, 3]]  # highdicom's index order is slice, row, column
    return Volume(
        np.ascontiguousarray(values), affine, "PATIENT", str(analysis.images[0].get("FrameOfReferenceUID", "")) or None
    )


def _strongest_image(analysis: Analysis) -> Dataset:
    """The image whose plane is nearest to the map's peak; a multi-frame object has only one."""
    peak = np.array(_heat(analysis).record.peak_lps_mm)
    if len(analysis.images) == 1:
        return analysis.images[0]

    def distance_mm(image: Dataset) -> float:
        cosines = np.array(image.ImageOrientationPatient, float)
        return abs(float(np.cross(cosines[:3], cosines[3:]) @ (peak - np.array(image.ImagePositionPatient, float))))

    return min(analysis.images, key=distance_mm)
