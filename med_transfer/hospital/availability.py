"""Instance Availability Notification: a caller lists the images that a study consists of. Source: DICOM PS3.4 R."""

from __future__ import annotations

import time

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import NOT_AUTHORISED, SUCCESS, sends_images
from med_transfer.hospital.storage_classes import STORAGE_CLASSES

AVAILABILITY = UID("1.2.840.10008.5.1.4.33")
INVALID = 0x0106  # attribute value, DICOM PS3.7 C.5.11
_AVAILABLE = ("ONLINE", "NEARLINE")


def handle_availability(event: evt.Event, node: NodeConfig, queue: Queue) -> tuple[int, None]:
    """Handle N-CREATE: expect every image that the notification names, of the SOP classes that the node accepts."""
    if not sends_images(event.assoc):
        return NOT_AUTHORISED, None
    try:
        notice = event.attribute_list
        study_uid = str(notice.StudyInstanceUID)
        named = [image for series in notice.ReferencedSeriesSequence for image in series.ReferencedSOPSequence]
        coming = {str(image.ReferencedSOPInstanceUID) for image in named if _is_available(image)}
    except Exception:  # a data set from outside may hold anything
        return INVALID, None
    if not UID(study_uid).is_valid or len(named) > node.limits.study_instances:
        return INVALID, None
    queue.announce(study_id(study_uid), coming, time.time())
    return SUCCESS, None


def _is_available(image: Dataset) -> bool:
    return image.ReferencedSOPClassUID in STORAGE_CLASSES and image.get("InstanceAvailability", "ONLINE") in _AVAILABLE
