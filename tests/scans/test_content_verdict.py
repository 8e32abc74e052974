"""Values that are not measurements are rejected, kinds of values are never mixed, other findings are remarks."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_series import hounsfield, plane_affine, write_series
from pydicom.uid import JPEGBaseline8Bit

from med_transfer.errors import GeometryRejected
from med_transfer.scans import find_series, read_scan


def verdict_of(folder) -> str:
    (series,) = find_series(folder)
    return str(series.verdict)


def alternating(**tags):
    """A change that gives the first value of each pair to odd slices, the second to even ones."""
    return _by(lambda k: k % 2, tags)


def halves(**tags):
    """A change that gives the first value of each pair to the first three slices, the second to the others."""
    return _by(lambda k: k >= 3, tags)


def _by(which, tags):
    def change(k, dataset):
        for keyword, pair in tags.items():
            setattr(dataset, keyword, pair[which(k)])

    return change


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR images, not measured values"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2, neither 0 nor 1"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0 in 6 of 6 images, which makes all values one"),
        ({"RescaleSlope": 2e12}, "RescaleSlope or RescaleIntercept beyond 1e+12"),
        ({"RescaleIntercept": -2e12}, "RescaleSlope or RescaleIntercept beyond 1e+12"),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "modality": "MR"},
            "Siemens mosaic: each image holds a whole volume as tiles; export single images",
        ),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "modality": "MR"},
            "United Imaging mosaic: each image holds a whole volume as tiles; export single images",
        ),
    ],
)
def test_values_that_are_no_measurements(tmp_path, tags, reason):
    write_series(tmp_path, hounsfield((6, 7, 9)), **tags)
    assert verdict_of(tmp_path) == f"reject: {reason}"
    with pytest.raises(GeometryRejected):
        read_scan(tmp_path)


def test_one_slice_whose_slope_is_zero(tmp_path):
    write_series(tmp_path, change=lambda k, d: setattr(d, "RescaleSlope", int(k != 2)))
    assert verdict_of(tmp_path) == "reject: RescaleSlope is 0 in 1 of 5 images, which makes all values one"


@pytest.mark.parametrize("change", [alternating, halves])
@pytest.mark.parametrize(
    ("modality", "tags", "reason"),
    [
        ("MR", {"EchoTime": (80, 10)}, "mixed EchoTime: slices {first} 80.0, the others 10.0"),
        ("MR", {"DiffusionBValue": (800.0, 0.0)}, "mixed DiffusionBValue: slices {first} 800.0, the others 0.0"),
        ("PT", {"Units": ("BQML", "CNTS")}, "mixed Units: slices {second} CNTS, the others BQML"),
        (
            "MR",
            {"ImageType": (["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"])},
            "mixed image types: slices {second} P, the others M",
        ),
        (
            "MR",
            {"ComplexImageComponent": ("MAGNITUDE", "PHASE")},
            "mixed image types: slices {second} PHASE, the others MAGNITUDE",
        ),
        ("CT", {"RescaleIntercept": (0, -1024)}, "mixed rescale: slices {second} stated, the others none"),
    ],
)
def test_kinds_of_values_are_never_mixed(tmp_path, modality, tags, reason, change):
    """Their places form one volume, so that nothing but the attribute tells."""
    write_series(tmp_path, hounsfield((6, 7, 9)), modality=modality, change=change(**tags))
    first, second = ("1, 3, 5", "2, 4, 6") if change is alternating else ("1, 2, 3", "4, 5, 6")
    assert verdict_of(tmp_path) == f"reject: {reason.format(first=first, second=second)}"


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"ConvolutionKernel": ("B30f", "B70f")}, "kernels: slices {} B70f, the others B30f"),
        ({"KVP": (120, 80)}, "KVP: slices {} 80.0, the others 120.0"),
        ({"ContrastBolusAgent": ("OMNIPAQUE", "")}, "contrast: slices {} no agent, the others agent"),
        (
            {"PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2")},
            "PhotometricInterpretation: slices {} MONOCHROME2, the others MONOCHROME1",
        ),
    ],
)
def test_what_changes_once_is_a_remark_and_back_and_forth_a_rejection(tmp_path, tags, what):
    write_series(tmp_path / "a", hounsfield((6, 7, 9)), change=halves(**tags))
    write_series(tmp_path / "b", hounsfield((6, 7, 9)), change=alternating(**tags))
    assert verdict_of(tmp_path / "a").removeprefix("accept: ") in (
        f"mixed {what.format('4, 5, 6')}",
        f"mixed {_turned(what).format('1, 2, 3')}",
    )
    assert verdict_of(tmp_path / "b").startswith("reject: mixed ")
    if "ContrastBolusAgent" in tags:
        assert "OMNIPAQUE" not in verdict_of(tmp_path / "a")


def _turned(what: str) -> str:
    """The same with the other value as the usual one: of equally frequent values the smallest is."""
    name, rest = what.split(": slices {} ")
    other, usual = rest.split(", the others ")
    return f"{name}: slices {{}} {usual}, the others {other}"


def test_a_second_acquisition_between_the_slices_of_the_first_is_no_finer_volume(tmp_path):
    hu = hounsfield((10, 7, 9))

    def two(k, dataset):
        dataset.AcquisitionNumber = 1 + k % 2
        dataset.ContrastBolusAgent = "AGENT" if k % 2 else ""

    write_series(tmp_path, hu, change=two)
    assert verdict_of(tmp_path).startswith("reject: mixed contrast")


def test_echo_times_that_are_rounded_and_concatenations_are_one_volume(tmp_path):
    def change(k, dataset):
        dataset.EchoTime, dataset.AcquisitionNumber = 102.2 + 0.1 * (k % 2), 1 + k % 2

    write_series(tmp_path, hounsfield((6, 7, 9)), modality="MR", change=change)
    assert verdict_of(tmp_path) == "accept: slices of 2 acquisitions alternate"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_slopes_that_change_from_slice_to_slice_are_said_and_usual_in_pet(tmp_path, modality):
    hu = hounsfield((5, 7, 9)) // 2 * 2
    slopes = [1.0, 1.0, 2.0, 1.0, 1.0]
    write_series(tmp_path / "one", hu, slopes=slopes, modality=modality)
    write_series(tmp_path / "pt", hu, slopes=slopes, modality="PT")
    assert verdict_of(tmp_path / "one") == (
        "accept: mixed rescale: slice 3 slope 2 intercept -1024, the others slope 1 intercept -1024"
    )
    assert verdict_of(tmp_path / "pt") == "accept"
    write_series(tmp_path / "pt", hu, modality="PT", change=lambda k, d: setattr(d, "RescaleIntercept", -int(k == 4)))
    assert verdict_of(tmp_path / "pt") == "accept: mixed rescale: slice 5 intercept -1, the others intercept 0"
    np.testing.assert_array_equal(read_scan(tmp_path / "one").voxels, hu)


def test_slices_that_all_differ_are_counted_and_not_called_the_others(tmp_path):
    write_series(tmp_path, hounsfield((9, 7, 9)), slopes=[1.0 + k / 8 for k in range(9)])
    named = ", ".join(f"slice {k + 1} slope {1 + k / 8:g} intercept -1024" for k in range(1, 7))
    assert verdict_of(tmp_path) == (f"accept: mixed rescale: {named} and 2 more, the others slope 1 intercept -1024")


def test_pet_values_that_depend_on_the_dose_are_no_uptake_values(tmp_path):
    for units, expected in (
        ("BQML", "accept: PET values in BQML, not standardised uptake values (GML): they depend on dose and time"),
        ("GML", "accept"),
    ):
        write_series(tmp_path / units, modality="PT", Units=units)
        assert verdict_of(tmp_path / units) == expected


def test_one_image_that_is_unsigned_among_signed_ones_is_a_remark(tmp_path):
    write_series(tmp_path, change=lambda k, image: setattr(image, "PixelRepresentation", int(k != 2)))
    assert verdict_of(tmp_path) == "accept: mixed PixelRepresentation: slice 3 0, the others 1"


@pytest.mark.parametrize(
    ("tags", "remark"),
    [
        (
            {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]},
            r"derived images (DERIVED\SECONDARY\REFORMATTED): computed from others, not as they were measured",
        ),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "MIP"]},
            "projections through several slices (MIP), not the values of one place",
        ),
        ({"BurnedInAnnotation": "YES"}, "burned-in annotation: text lies in the pixels, and may name the patient"),
        (
            {"LossyImageCompression": "01"},
            "lossy compression in 5 of 5 images (Explicit VR Little Endian): values are changed",
        ),
    ],
)
def test_what_a_person_should_know(tmp_path, tags, remark):
    write_series(tmp_path, **tags)
    assert verdict_of(tmp_path) == f"accept: {remark}"
    assert remark in read_scan(tmp_path).verdict.remarks


def test_lossy_compression_shows_in_the_transfer_syntax(tmp_path):
    shades = np.linspace(0, 255, 5 * 64 * 64).reshape(5, 64, 64).astype(np.int16)

    def lossy(k, dataset):
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        pixels = shades[k].astype(np.uint8)
        jpeg = pydicom.encaps.encapsulate([imagecodecs.jpeg8_encode(pixels, level=90)])
        dataset.PixelData, dataset["PixelData"].VR = jpeg, "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    write_series(tmp_path, shades, plane_affine(), modality="MR", change=lossy, intercept=0)
    assert verdict_of(tmp_path) == (
        "accept: lossy compression in 5 of 5 images (JPEG Baseline (Process 1)): values are changed"
    )
