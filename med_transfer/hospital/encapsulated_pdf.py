"""Result pages as Encapsulated PDF. Source: DICOM PS3.3 A.45.1 (Encapsulated PDF), C.24.2 (Encapsulated Document)."""

from __future__ import annotations

import io
from collections.abc import Sequence

from highdicom.base import SOPClass
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.result_header import DESCRIPTION, RESEARCH_ONLY, ResultHeader
from med_transfer.hospital.uids import sop_reference


def encapsulated_pdf(analyses: Sequence[Analysis], pages: Sequence[Figure], header: ResultHeader) -> list[Dataset]:
    """Return one document for the study: a page for each analysed series, and one for all refused ones."""
    first, content = analyses[0].images[0], _pdf(pages)
    document = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **header.instance("DOC"),
    )
    document.copy_patient_and_study_information(first)
    for keyword, value in {
        "ConversionType": "WSD",
        "BurnedInAnnotation": "NO",  # concerns patient identity
        "AcquisitionDateTime": None,
        "DocumentTitle": DESCRIPTION,
        "ConceptNameCodeSequence": [],
        "MIMETypeOfEncapsulatedDocument": "application/pdf",
        "EncapsulatedDocument": content + b"\0" * (len(content) % 2),
        "EncapsulatedDocumentLength": len(content),
        "SourceInstanceSequence": [
            sop_reference(image.SOPClassUID, image.SOPInstanceUID) for analysis in analyses for image in analysis.images
        ],
    }.items():
        setattr(document, keyword, value)
    return [document]


def _pdf(pages: Sequence[Figure]) -> bytes:
    """The pages as a PDF; reproducible, since it contains no creation date."""
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"CreationDate": None, "Title": RESEARCH_ONLY}) as pdf:
        for figure in pages:
            pdf.savefig(figure, facecolor="black")
    return buffer.getvalue()
