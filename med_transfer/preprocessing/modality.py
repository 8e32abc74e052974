"""Is this the kind of scan that the input is made of? Told by DICOM Modality; other files do not say."""

from __future__ import annotations

import logging

from med_transfer.errors import InputRejected
from med_transfer.scans import Volume
from med_transfer.scans.hounsfield import hounsfield_doubt

log = logging.getLogger(__name__)


def require_modality(volume: Volume, wanted: str | None) -> None:
    """Refuse a scan of another modality; one that states none is taken, with a warning where its values do not fit.

    Args:
        wanted: CT | MR | PT; None takes every scan.

    Raises:
        InputRejected: DICOM Modality (0008,0060) is another one.
    """
    found, where = volume.provenance.modality, volume.provenance.path
    if not wanted or found == wanted:
        return
    if found:
        raise InputRejected(
            f"modality {found}",
            where=where,
            expected=f"{wanted}, as the preprocessing says",
            action=f"Leave the scan out, or train with input.modality: {found}",
        )
    if wanted == "CT" and (doubt := hounsfield_doubt(volume.voxels)):
        log.warning("%s: states no modality and is taken for CT, but %s", where, doubt)
