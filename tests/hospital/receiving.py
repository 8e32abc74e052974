"""A receiver and its queue without the rest of a node, and what it answers to a PACS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from med_transfer.hospital.availability import AVAILABILITY
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.receiver import Receiver


@contextmanager
def receiving(config: NodeConfig) -> Iterator[Queue]:
    """Opened, and closed at the end."""
    queue = Queue(config.queue_file)
    receiver = Receiver(config, queue)
    try:
        yield queue
    finally:
        receiver.close()
        queue.close()


def announce(port: int, files: list[Path]) -> None:
    """All that there is of a study, which is then complete as soon as it is here."""
    images = [dcmread(file, stop_before_pixels=True) for file in files]
    assert notice(port, "CT1", images, str(images[0].StudyInstanceUID)) == 0


def notice(port: int, calling: str, images: list[Dataset], study: str) -> int:
    """An Instance Availability Notification, and what is answered."""
    announced = Dataset()
    announced.StudyInstanceUID, announced.ReferencedSeriesSequence = study, [Dataset()]
    announced.ReferencedPerformedProcedureStepSequence = []
    announced.ReferencedSeriesSequence[0].SeriesInstanceUID = images[0].SeriesInstanceUID
    announced.ReferencedSeriesSequence[0].ReferencedSOPSequence = [Dataset() for _ in images]
    for one, image in zip(announced.ReferencedSeriesSequence[0].ReferencedSOPSequence, images, strict=True):
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        one.InstanceAvailability, one.RetrieveAETitle = "ONLINE", "PACS"
    entity = AE(calling)
    entity.add_requested_context(AVAILABILITY)
    association = entity.associate("127.0.0.1", port, ae_title="MEDTRANSFER")
    assert association.is_established
    status, _ = association.send_n_create(announced, AVAILABILITY, "1.2.3.4.5")
    association.release()
    return status.Status
