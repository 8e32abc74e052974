"""Real peers on loopback: dcmtk's tools, Orthanc, and pynetdicom where a peer must misbehave."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from med_transfer.phantoms.ct_header import SeriesDetails
from med_transfer.phantoms.dicom_series import write_dicom_series

# pynetdicom installs tools of the same names into the environment's folder
_ELSEWHERE = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != str(Path(sys.executable).parent))
ORTHANC = shutil.which("Orthanc") or shutil.which("orthanc")
DCMTK = shutil.which("storescu", path=_ELSEWHERE)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def _ports() -> Iterator[int]:
    """Below those that the system gives away, else a connection has one before its server; each process begins
    elsewhere."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first, end = 12_000, int(given.read_text().split()[0]) if given.exists() else 32_768
    return (first + (997 * os.getpid() + number) % (end - first) for number in itertools.count())


_PORTS = _ports()


def free_port() -> int:
    """That nobody has, and nobody is given: for a server that will start later, or for none."""
    for port in _PORTS:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def until(condition: Callable[[], object], seconds: float = 240.0) -> object:
    """What the condition gives as soon as it is true; the time is for a machine that is busy with other things."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def series(folder: Path, patient: str = "P-0001", study: int = 1, series: int = 1, slices: int = 8) -> list[Path]:
    """A small CT series that a bundle of tests/tiny_bundle.py can read."""
    voxels = np.random.default_rng(series).integers(-900, 300, (slices, 24, 24)).astype(np.int16)
    affine = np.array([[1.5, 0, 0, -18], [0, 1.5, 0, -18], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    details = SeriesDetails(patient=patient, seed=7, study=study, series=series)
    return write_dicom_series(folder, voxels, affine, details=details)


def storescu(port: int, *files: Path, calling: str = "CT1", called: str = "MEDTRANSFER", more: Iterable[str] = ()):
    """dcmtk's sender; what it said and its exit code."""
    command = [str(DCMTK), "-aet", calling, "-aec", called, *more, "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def echoscu(port: int, calling: str = "CT1", called: str = "MEDTRANSFER", more: Iterable[str] = ()) -> bool:
    command = [
        str(shutil.which("echoscu", path=_ELSEWHERE)),
        "-aet",
        calling,
        "-aec",
        called,
        *more,
        "127.0.0.1",
        str(port),
    ]
    return subprocess.run(command, capture_output=True, timeout=240, check=False).returncode == 0


def answers(port: int) -> bool:
    """Whether a node answers; asked by a process, which takes time from a node that starts, only where one listens."""
    with socket.socket() as one:
        listens = one.connect_ex(("127.0.0.1", port)) == 0
    return listens and echoscu(port)


def certificate(folder: Path, name: str, days: int = 2) -> tuple[Path, Path]:
    """A key and its own certificate; of the past where ``days`` is negative."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin, end = sorted((now - timedelta(days=9 if days < 0 else 0, minutes=5), now + timedelta(days=days)))
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), begin, end)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pem = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    paths = folder / f"{name}.key", folder / f"{name}.pem"
    encoding = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[0].write_bytes(key.private_bytes(encoding, *plain))
    paths[1].write_bytes(pem.public_bytes(encoding))
    return paths


@dataclass
class Orthanc:
    """A running PACS."""

    dicom: int
    http: int

    def get(self, path: str, *, text: bool = False):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=120) as answer:
            return answer.read().decode() if text else json.loads(answer.read())

    def know_node(self, port: int) -> None:
        """Where the node listens now."""
        self.send("PUT", "/modalities/node", {"AET": "MEDTRANSFER", "Host": "127.0.0.1", "Port": port})

    def send(self, method: str, path: str, body: object) -> None:
        """One request, which must succeed."""
        where, content = f"http://127.0.0.1:{self.http}{path}", json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(where, content, method=method), timeout=120):
            pass

    def file(self, instance: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/instances/{instance}/file", timeout=120) as answer:
            return answer.read()


@contextmanager
def orthanc(
    folder: Path, node_port: int, dicom: int | None = None, http: int | None = None, **more: object
) -> Iterator[Orthanc]:
    """Orthanc with DICOMweb, which knows the node as MEDTRANSFER; the same folder and port again is the same PACS."""
    folder.mkdir(exist_ok=True)
    pacs = Orthanc(dicom or free_port(), http or free_port())
    config = {
        "Name": "tests",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": pacs.http,
        "DicomPort": pacs.dicom,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"node": ["MEDTRANSFER", "127.0.0.1", node_port]},
        "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config | more))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log)  # pyright: ignore
    try:
        until(lambda: _answers(pacs))
        yield pacs
    finally:
        process.kill()  # it takes seconds to end by itself, and its data are on disk
        process.wait()


def _answers(pacs: Orthanc) -> bool:
    try:
        return bool(pacs.get("/system"))
    except OSError:
        return False
