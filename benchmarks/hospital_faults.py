"""What the hospital node preserves through kills, and how fast it receives compared with dcmtk's storescp.

python benchmarks/hospital_faults.py --kills 20 --slices 40 --associations 4
python benchmarks/hospital_faults.py --malformed 1000
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hospital"))

import numpy as np
from peers import echoscu, free_port, orthanc, until
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from test_receiver import association_request, malformed

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Instance, Queue, ResultFile
from med_transfer.hospital.receiver import Receiver
from med_transfer.hospital.sender import Sender
from med_transfer.hospital.settings.peers import Destination
from med_transfer.phantoms.ct_header import SeriesDetails
from med_transfer.phantoms.dicom_series import write_dicom_series


def node_config(folder: Path, port: int, pacs: int) -> NodeConfig:
    destination = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs, "storage_commitment": True}
    return NodeConfig.model_validate(
        {
            "folder": folder,
            "port": port,
            "callers": [{"ae_title": "CT1", "address": "127.0.0.1"}],
            "destinations": [destination],
            "limits": {"disk_free_gib": 0, "network_seconds": 10},
            "retries": {"first_seconds": 0.2, "longest_seconds": 1, "commitment_seconds": 3},
        }
    )


def work(folder: Path, port: int, pacs: int) -> None:
    """The node's work without its network: it receives, sends and requests commitment until it is killed."""
    config = node_config(folder, port, pacs)
    queue = Queue(config.queue_file, config.retries)
    Receiver(config, queue)
    (pacs_of_node,) = config.destinations
    assert isinstance(pacs_of_node, Destination)
    sender = Sender(config, queue, pacs_of_node, None)
    while True:
        sender.send_due()
        time.sleep(0.05)


def scan(folder: Path, study: int, slices: int, size: int) -> list[Path]:
    voxels = np.random.default_rng(study).integers(-1000, 1000, (slices, size, size)).astype(np.int16)
    affine = np.diag([0.8, 0.8, 1.0, 1.0])
    return write_dicom_series(folder, voxels, affine, details=SeriesDetails(patient=f"{study:04d}", study=study))


def storescu(port: int, called: str, files: list[Path]) -> subprocess.Popen:
    command = ["storescu", "-v", "-aet", "CT1", "-aec", called, "127.0.0.1", str(port), *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def seconds_of(port: int, called: str, scans: list[list[Path]]) -> float:
    started = time.monotonic()
    senders = [storescu(port, called, files) for files in scans]
    assert not [sender for sender in senders if sender.communicate() and sender.returncode]
    return time.monotonic() - started


@contextlib.contextmanager
def worker(folder: Path, port: int, pacs: int):
    command = [sys.executable, __file__, "--work", str(folder), str(port), str(pacs)]
    process = subprocess.Popen(command)
    try:
        until(lambda: echoscu(port), 120)
        yield process
    finally:
        process.kill()
        process.wait()


def rates(folder: Path, scans: list[list[Path]]) -> None:
    """Seconds for the same images, taking turns."""
    (folder / "scp").mkdir()
    scp_port, port = free_port(), free_port()
    command = ["storescp", "--fork", "-od", str(folder / "scp"), "-aet", "SCP", str(scp_port)]
    scp = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: echoscu(scp_port, called="SCP"))
        theirs, ours = [], []
        for turn in range(3):
            theirs.append(seconds_of(scp_port, "SCP", scans))
            with worker(folder / f"rate{turn}", port, 1):
                ours.append(seconds_of(port, "MEDTRANSFER", scans))
            queue = Queue(folder / f"rate{turn}" / "queue.sqlite")
            assert len(queue.files()) == sum(map(len, scans))
    finally:
        scp.terminate()
        scp.wait()
    count = sum(map(len, scans))
    print(f"receive: node {count / np.median(ours):.0f} images/s, storescp {count / np.median(theirs):.0f} images/s")


def kills_while_receiving(folder: Path, files: list[Path], kills: int, rng: random.Random) -> None:
    """Images acknowledged as stored must exist; after all are sent again, each must exist once."""
    port, told = free_port(), set()
    for _ in range(kills):
        with worker(folder, port, 1) as node:
            sender = storescu(port, "MEDTRANSFER", files)
            time.sleep(rng.uniform(0.1, 2.0))
            node.send_signal(signal.SIGKILL)
            said = sender.communicate()[0]
        told |= set(range(said.count("Received Store Response (Success)")))
        known = {
            dcmread(folder / file, stop_before_pixels=True).SOPInstanceUID
            for file in Queue(folder / "queue.sqlite").files()
        }
        lost = [f for f in files[: len(told)] if dcmread(f, stop_before_pixels=True).SOPInstanceUID not in known]
        assert not lost, f"{len(lost)} images lost"
    with worker(folder, port, 1):
        assert storescu(port, "MEDTRANSFER", files).wait() == 0
    queue = Queue(folder / "queue.sqlite")
    print(f"{kills} kills while receiving: {len(queue.files())} of {len(files)} images, each once; {queue.counts()}")


def kills_while_sending(folder: Path, results: list[Path], kills: int, rng: random.Random) -> None:
    """Results are sent through kills and a PACS that goes down: each once, and committed."""
    port, pacs_port = free_port(), free_port()
    config = node_config(folder, port, pacs_port)
    queue = Queue(config.queue_file, config.retries)
    for number, path in enumerate(results):
        header = dcmread(path)
        (folder / path.name).write_bytes(path.read_bytes())
        own = Instance(
            f"1.2.{number}", f"s{number}", f"1.3.{number}", "1.4", "m", "ct", "syntax", "hash", f"{number}.dcm"
        )
        queue.add(own, 0)
        queue.complete(100, 1)
        study = queue.to_predict(100)
        assert study
        result = ResultFile(str(header.SOPInstanceUID), str(header.SOPClassUID), path.name)
        assert queue.predicted(study, [result], [(config.destinations[0].name, True)], 100, [{}])
    for turn in range(kills):
        up = contextlib.nullcontext() if turn % 3 == 2 else orthanc(folder / "pacs", port, pacs_port)
        with up, worker(folder, port, pacs_port) as node:
            time.sleep(rng.uniform(0.0, 1.0))
            node.send_signal(signal.SIGKILL)
            node.wait()
    with orthanc(folder / "pacs", port, pacs_port) as pacs, worker(folder, port, pacs_port):
        until(lambda: queue.counts() == {"committed": len(results)}, 300)
        stored = len(pacs.get("/instances"))
    sent = [entry["sop_uid"] for entry in queue.entries() if entry["event"] == "sent"]
    print(f"{kills} kills while sending: {stored} of {len(results)} results in the PACS, all committed; ", end="")
    print(f"{len(sent)} marked as sent, {len(set(sent))} different; record unbroken: {not queue.audit().broken}")


def malformed_pdus(folder: Path, count: int, rng: random.Random) -> None:
    """Malformed PDUs, each on its own connection; between them the node is asked for an echo."""
    port, request, n_answered = free_port(), association_request(), 0
    with worker(folder, port, 1) as node:
        for number in range(count):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as peer, contextlib.suppress(OSError):
                peer.sendall(malformed(rng, request))
            if number % 50 == 49:
                n_answered += echoscu(port)
        assert node.poll() is None
    print(f"{count} malformed PDUs: the node goes on, {n_answered} of {count // 50} echoes answered")


def malformed_data_sets(folder: Path, count: int, rng: random.Random) -> None:
    """Random bytes instead of an image, in one association, followed by a valid image."""
    port, entity = free_port(), AE("CT1")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with worker(folder, port, 1):
        association = entity.associate("127.0.0.1", port, ae_title="MEDTRANSFER")
        statuses = {association.send_c_store(_rubbish(number, rng)).Status for number in range(count)}
        image = scan(folder / "image", 1, 1, 64)
        taken = association.send_c_store(dcmread(image[0])).Status
        association.release()
    n_aside = sum(number for _, number in Queue(folder / "queue.sqlite").reasons())
    print(f"{count} malformed data sets: statuses {statuses}, {n_aside} set aside; the image after them: {taken:#06x}")


def _rubbish(number: int, rng: random.Random) -> Dataset:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.file_meta = CTImageStorage, f"1.2.3.{number}", FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.add_new(0x00091010, "UN", rng.randbytes(2 * rng.randrange(1, 200)))
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--malformed", type=int, default=0, help="malformed PDUs and data sets to send instead")
    parser.add_argument("--results", type=Path, default=None, help="folder of SR and page files to send")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", nargs=3)
    chosen = parser.parse_args()
    if chosen.work:
        work(Path(chosen.work[0]), int(chosen.work[1]), int(chosen.work[2]))
        return
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if chosen.malformed:
            malformed_pdus(folder / "pdus", chosen.malformed, rng)
            malformed_data_sets(folder / "data", chosen.malformed, rng)
            return
        scans = [scan(folder / f"scan{n}", n, chosen.slices, 512) for n in range(chosen.associations)]
        rates(folder, scans)
        kills_while_receiving(folder / "kills", [file for files in scans for file in files], chosen.kills, rng)
        if chosen.results:
            (folder / "sending").mkdir()
            kills_while_sending(folder / "sending", sorted(chosen.results.glob("*.dcm")), chosen.kills, rng)


if __name__ == "__main__":
    main()
