"""A receiver and its queue, without the rest of a node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
