"""The DICOM series is valid, and two independent readers find the voxels and positions that were written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.image import get_volume_from_series
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from med_transfer.errors import ConfigError, MissingExtra, OutputError
from med_transfer.phantoms import SeriesDetails, phantom_volume, write_dicom_series
from med_transfer.phantoms.imaging import SCANNERS
from med_transfer.scans import geometry

# Type 1 and 2 attributes of the CT Image IOD's mandatory modules (PS3.3 A.3.3), by hand from the standard.
TYPE_1 = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImageType",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "RescaleIntercept",
    "RescaleSlope",
]
TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "SeriesNumber",
    "PositionReferenceIndicator",
    "Manufacturer",
    "InstanceNumber",
    "SliceThickness",
    "KVP",
    "AcquisitionNumber",
]


@pytest.fixture(scope="module")
def phantom():
    return phantom_volume("solid", shape=(12, 40, 48))


def turned(axes: str) -> geometry.Affine:
    return geometry.grid_affine(axes, (2.5, 0.75, 0.8125), (10.5, -20.25, 300.125), (12, 40, 48))


OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0] @ np.diag([0.7, 0.8, 3.0])
OBLIQUE[:3, 0] *= np.sign(np.linalg.det(OBLIQUE[:3, :3]))  # SimpleITK reads right-handed grids
OBLIQUE[:3, 3] = (-100.5, 33.25, 12.0)


def read_with_simpleitk(folder: Path) -> tuple[np.ndarray, geometry.Affine]:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image), affine


@pytest.mark.parametrize("affine", [turned("SPL"), turned("PIL"), OBLIQUE], ids=["axial", "coronal", "oblique"])
def test_simpleitk_reads_the_same_voxels_and_positions(phantom, affine, tmp_path):
    write_dicom_series(tmp_path, phantom.voxels, affine)
    voxels, found = read_with_simpleitk(tmp_path)
    assert np.array_equal(voxels, phantom.voxels)
    np.testing.assert_allclose(found, affine, atol=1e-6)


def test_highdicom_reads_the_same_voxels_and_positions(phantom, tmp_path):
    files = write_dicom_series(tmp_path, phantom.voxels, phantom.affine)
    volume = get_volume_from_series([pydicom.dcmread(path) for path in files])
    corners = np.array([(0, 0, 0), (11, 39, 47), (5, 2, 40)])
    positions = geometry.to_world_mm(phantom.affine, corners[:, ::-1])
    found = np.rint(volume.map_reference_to_indices(positions)).astype(int)
    assert [volume.array[tuple(n)] for n in found] == [phantom.voxels[tuple(n)] for n in corners]
    np.testing.assert_allclose(volume.map_reference_to_indices(positions), found, atol=1e-6)


def test_lesion_lies_at_the_same_millimetres_in_the_file(tmp_path):
    phantom = phantom_volume("solid", patient=3, difficulty=0.0)
    write_dicom_series(tmp_path, phantom.voxels, phantom.affine)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert image.GetPixel(image.TransformPhysicalPointToIndex(phantom.lesion_mm)) > -150


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.name)
def test_required_attributes_are_there_and_valid(phantom, scanner, tmp_path):
    details = SeriesDetails(patient="texture-0007", sex="F", age=61, scanner=scanner, slice_thickness_mm=2.5)
    files = write_dicom_series(tmp_path, phantom.voxels, phantom.affine, details=details)
    datasets = [pydicom.dcmread(path) for path in files]
    for dataset in datasets:
        assert all(dataset[keyword].value not in (None, "") for keyword in TYPE_1)
        assert all(keyword in dataset for keyword in TYPE_2)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.file_meta.ImplementationClassUID.is_valid  # which the next line would add
        pydicom.dataset.validate_file_meta(dataset.file_meta, enforce_standard=True)
    for element in datasets[0]:
        assert element.VR in pydicom.datadict.dictionary_VR(element.tag)
        for value in element.value if element.VM > 1 else [element.value]:
            text = str(value) if element.VR in ("DS", "IS") else value
            pydicom.valuerep.validate_value(element.VR, text, pydicom.config.RAISE)
    first = datasets[0]
    assert first.SOPClassUID == CTImageStorage
    assert (first.PatientName, first.PatientAge, first.Modality) == ("PHANTOM^0007", "061Y", "CT")
    assert (first.Manufacturer, first.ConvolutionKernel) == (scanner.manufacturer, scanner.kernel.name)
    assert (first.RescaleIntercept, first.PixelRepresentation, first.SliceThickness) == (-1024, 0, 2.5)
    assert len({d.SOPInstanceUID for d in datasets}) == len(datasets)
    assert len({d.SeriesInstanceUID for d in datasets}) == 1
    assert sorted(d.InstanceNumber for d in datasets) == list(range(1, 13))


def test_dcmtk_parses_every_file(phantom, tmp_path, dcmdump):
    files = write_dicom_series(tmp_path, phantom.voxels, phantom.affine)
    result = subprocess.run([dcmdump, "-q", *files], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("PixelData") == len(files)


def test_elements_are_in_ascending_order(phantom, tmp_path):
    path = write_dicom_series(tmp_path, phantom.voxels, phantom.affine)[0]
    tags = []
    with path.open("rb") as file:
        reader = pydicom.filereader.data_element_generator  # raw order on disk, before Dataset sorts
        file.seek(132)
        tags = [int(element.tag) for element in reader(file, is_implicit_VR=False, is_little_endian=True)]
    assert tags == sorted(set(tags))


def test_uids_follow_from_seed_patient_and_series(phantom, tmp_path):
    def uids(name: str, **details) -> tuple[str, str, str]:
        files = write_dicom_series(tmp_path / name, phantom.voxels, phantom.affine, details=SeriesDetails(**details))
        dataset = pydicom.dcmread(files[0])
        return dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID

    first = uids("a", patient="p1", seed=1)
    assert uids("b", patient="p1", seed=1) == first
    assert set(uids("c", patient="p1", seed=2)).isdisjoint(first)
    assert set(uids("d", patient="p2", seed=1)).isdisjoint(first)
    other_series = uids("e", patient="p1", seed=1, series=3)
    assert other_series[0] == first[0]
    assert set(other_series[1:]).isdisjoint(first)


def test_file_names_carry_no_order(phantom, tmp_path):
    files = write_dicom_series(tmp_path, phantom.voxels, phantom.affine)
    assert [path.name for path in files] != sorted(path.name for path in files)


def test_the_same_series_has_the_same_bytes(phantom, tmp_path):
    first, again = (write_dicom_series(tmp_path / n, phantom.voxels, phantom.affine) for n in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compression_keeps_every_voxel(phantom, transfer_syntax, tmp_path):
    try:
        files = write_dicom_series(tmp_path, phantom.voxels, phantom.affine, transfer_syntax=transfer_syntax)
    except MissingExtra as error:
        pytest.skip(str(error))
    datasets = [pydicom.dcmread(path) for path in files]
    assert {d.file_meta.TransferSyntaxUID for d in datasets} == {transfer_syntax}
    voxels = np.stack([d.pixel_array.astype(int) + int(d.RescaleIntercept) for d in datasets])
    assert np.array_equal(voxels, phantom.voxels)


def test_an_unknown_transfer_syntax_is_refused_and_nothing_is_written(phantom, tmp_path):
    with pytest.raises(MissingExtra, match=r"^transfer_syntax: no encoder for 1\.2\.840\.10008\.1\.2\.4\.50"):
        write_dicom_series(tmp_path, phantom.voxels, phantom.affine, transfer_syntax="1.2.840.10008.1.2.4.50")
    assert not list(tmp_path.iterdir())


def test_values_below_minus_1024_are_kept(phantom, tmp_path):
    voxels = phantom.voxels.copy()
    voxels[:, :5] = -2000
    write_dicom_series(tmp_path, voxels, phantom.affine)
    assert np.array_equal(read_with_simpleitk(tmp_path)[0], voxels)


def test_odd_images_are_padded_to_even_length(tmp_path):
    voxels = np.arange(-500, -500 + 3 * 5 * 7, dtype=np.int16).reshape(3, 5, 7)
    files = write_dicom_series(tmp_path, voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
    assert all(path.stat().st_size % 2 == 0 for path in files)
    assert np.array_equal(read_with_simpleitk(tmp_path)[0], voxels)


def test_unsuitable_input_is_refused(phantom, tmp_path):
    with pytest.raises(ConfigError, match="voxels of type float32, 3 axes; expected int16 HU"):
        write_dicom_series(tmp_path, phantom.voxels.astype(np.float32), phantom.affine)
    sheared = phantom.affine.copy()
    sheared[0, 1] += 0.3
    with pytest.raises(ConfigError, match="^affine: rows and columns are not at right angles"):
        write_dicom_series(tmp_path, phantom.voxels, sheared)


def test_a_file_in_the_folders_place_is_an_output_error(phantom, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError, match="taken: cannot be written"):
        write_dicom_series(tmp_path / "taken", phantom.voxels, phantom.affine)


@pytest.mark.skipif(not Path("/dev/full").exists() or sys.platform != "linux", reason="needs Linux's RLIMIT_FSIZE")
def test_a_full_disk_leaves_no_half_series(tmp_path):
    """In a process of its own, whose files may not grow beyond 2 kB: like a full disk, writing fails half-way."""
    program = f"""
import resource, signal
from pathlib import Path
from med_transfer.errors import OutputError
from med_transfer.phantoms import phantom_volume, write_dicom_series
phantom = phantom_volume("solid", shape=(8, 32, 32))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    write_dicom_series(Path({str(tmp_path / "series")!r}), phantom.voxels, phantom.affine)
except OutputError as error:
    raise SystemExit(0 if not list(Path({str(tmp_path / "series")!r}).iterdir()) else 3)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
