"""The element parser gives pydicom's values, on pydicom's own files and on randomly corrupted ones."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from dicom_series import SECRETS, hounsfield, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import leaked
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from med_transfer.scans.dicom import elements as dicom_elements
from med_transfer.scans.dicom.elements import read_header
from med_transfer.scans.dicom.header import _KEYWORDS

KEYWORDS = (*_KEYWORDS, "SeriesDescription", "InstanceNumber")
_DATA = Path(pydicom.data.__file__).parent
FILES = sorted(p for part in ("test_files", "charset_files") for p in (_DATA / part).rglob("*") if p.is_file())


def by_both(path: Path):
    """What the walk gives and what pydicom gives: a header each, or the error each raised."""
    found = []
    tags = dicom_elements._tags(KEYWORDS)
    for reader in (lambda: read_header(path, KEYWORDS), lambda: dicom_elements._with_pydicom(path, tags)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(reader())
        except Exception as error:
            found.append(type(error))
    return found


def test_equal_on_every_file_that_pydicom_tests_itself_with():
    walked = 0
    for path in FILES:
        ours, theirs = by_both(path)
        if isinstance(ours, type) or isinstance(theirs, type):
            assert ours == theirs, path.name
            continue
        assert ours.values == theirs.values, path.name
        assert (ours.syntax, ours.has_pixels) == (theirs.syntax, theirs.has_pixels), path.name
        walked += ours.pixels_at is not None
    assert walked > 60  # so that the fallback is not compared with itself


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_pixels_are_found_behind_nested_sequences(tmp_path, syntax):
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.Rows = "121401", 9999  # must not be taken for the image's own
    outer.ConceptNameCodeSequence = Sequence([inner])
    outer.is_undefined_length_sequence_item = True

    def nest(k, dataset):
        dataset.RequestAttributesSequence = Sequence([outer, outer])
        dataset["RequestAttributesSequence"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax

    path = write_series(tmp_path, hounsfield((1, 7, 9)), change=nest, save=_as(syntax))[0]
    header = read_header(path, ("Rows", "SeriesInstanceUID"))
    assert header.values["Rows"] == ("7",)
    if syntax != ExplicitVRBigEndian:  # left to pydicom
        stored = path.read_bytes()[header.pixels_at :]
        assert stored == pydicom.dcmread(path).PixelData
        assert len(stored) == header.pixels_length


def _as(syntax):
    def save(dataset, path):
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)

    return save


@pytest.mark.parametrize(
    ("charset", "text"),
    [("ISO_IR 100", "Sch\xe4del"), ("ISO_IR 192", "頭部"), ("GB18030", "头部"), ("ISO_IR 144", "череп")],
)
def test_text_in_other_alphabets(tmp_path, charset, text):
    path = write_series(tmp_path, hounsfield((1, 7, 9)), SpecificCharacterSet=charset, SeriesDescription=text)[0]
    assert read_header(path, ("SeriesDescription",)).values["SeriesDescription"] == (text,)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_equal_on_bent_files(tmp_path, data):
    """Whatever bytes change, the walk gives pydicom's answer or leaves the file to it."""
    whole = FILES_BENT.setdefault("bytes", write_series(tmp_path, hounsfield((1, 7, 9)))[0].read_bytes())
    at = data.draw(st.integers(132, len(whole) - 1))
    bent = whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :]
    path = tmp_path / "bent.dcm"
    path.write_bytes(bent[: data.draw(st.integers(200, len(bent)))])
    ours, theirs = by_both(path)
    if not isinstance(ours, type) and not isinstance(theirs, type) and ours.pixels_at is not None:
        assert ours.values == theirs.values


FILES_BENT: dict[str, bytes] = {}


def test_an_error_says_nothing_of_the_patient(tmp_path):
    path = write_series(tmp_path, hounsfield((1, 7, 9)))[0]
    header = read_header(path, ("Rows",))
    assert leaked(SECRETS, repr(header)) == []


class Counted(io.BytesIO):
    """Knows how often it was read."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        return super().read(size)


def test_a_long_header_is_not_copied_again_for_every_block_that_is_read(tmp_path):
    """Of 30 MB in items of undefined length: it took ten seconds, and one of 80 MB five minutes."""
    content = write_series(tmp_path)[0].read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x29\x00\x01\x10OB\0\0\xa0\x0f\0\0" + bytes(4000)
    items = (item + b"\xfe\xff\x0d\xe0\0\0\0\0") * 7500
    sequence = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    file = Counted(content[:at] + sequence + content[at:])
    header = dicom_elements._Walk(file, dicom_elements._tags(KEYWORDS)).header(dicom_elements.NO_STAMP)
    assert header.pixels_at == at + len(sequence) + 12
    assert file.reads < 20
