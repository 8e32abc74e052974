"""Orthanc with DICOM TLS, both sides with a certificate signed by the hospital's authority, which openssl made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
import pytest
from peers import Orthanc, free_port, orthanc, series, storescu, until
from pydicom import dcmread
from serving import working, written
from tiny_bundle import tiny_bundle

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk"),
    pytest.mark.skipif(not peers.ORTHANC, reason="needs orthanc"),
    pytest.mark.skipif(not OPENSSL, reason="needs openssl"),
]


def openssl(folder: Path, *words: str) -> None:
    """One command in the folder of the certificates."""
    subprocess.run([str(OPENSSL), *words], cwd=folder, check=True, capture_output=True, timeout=240)


def authority(folder: Path, name: str) -> None:
    """NAME.key and NAME.pem of a certificate authority."""
    folder.mkdir(exist_ok=True)
    openssl(folder, *f"req -x509 -newkey rsa:2048 -noenc -days 2 -subj /CN={name} {_files(name, 'pem')}".split())


def signed(folder: Path, name: str, by: str) -> dict[str, str]:
    """NAME.key and NAME.pem, signed by an authority, as the section ``tls`` of node.yaml, which trusts the hospital."""
    openssl(folder, *f"req -newkey rsa:2048 -noenc -subj /CN={name} {_files(name, 'csr')}".split())
    request = f"x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 2 -out {name}.pem"
    openssl(folder, *request.split())
    files = {"certificate": f"{name}.pem", "key": f"{name}.key", "trusted": "hospital.pem"}
    return {key: str(folder / file) for key, file in files.items()}


def certificates(folder: Path, of_pacs: str) -> tuple[dict[str, str], dict[str, str]]:
    """Those of the node, signed by the hospital's authority, and those of the PACS, signed by the one named."""
    for name in {"hospital", of_pacs}:
        authority(folder, name)
    return signed(folder, "node", "hospital"), signed(folder, "pacs", of_pacs)


def _files(name: str, kind: str) -> str:
    return f"-keyout {name}.key -out {name}.{kind}"


@contextmanager
def orthanc_with_tls(folder: Path, tls: dict[str, str], node_port: int, dicom: int) -> Iterator[Orthanc]:
    """Orthanc with these files, which demands a certificate, and shows its own when it calls the node."""
    node = {"AET": "MEDTRANSFER", "Host": "127.0.0.1", "Port": node_port, "UseDicomTls": True}
    with orthanc(
        folder,
        node_port,
        dicom,
        DicomTlsEnabled=True,
        DicomTlsCertificate=tls["certificate"],
        DicomTlsPrivateKey=tls["key"],
        DicomTlsTrustedCertificates=tls["trusted"],
        DicomTlsRemoteCertificateRequired=True,
        DicomModalities={"node": node},
    ) as pacs:
        yield pacs


@pytest.mark.timeout(900)
def test_images_results_and_commitment_go_over_tls(tmp_path):
    port, pacs_port = free_port(), free_port()
    node_tls, pacs_tls = certificates(tmp_path / "certificates", "hospital")
    bundle, scan = tiny_bundle(tmp_path / "bundle"), series(tmp_path / "scan")
    peer = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs_port, "tls": True}
    config = written(
        tmp_path,
        port,
        pacs_port,
        tls=node_tls,
        pacs=peer,
        destinations=[peer | {"storage_commitment": True}],
        study={"quiet_seconds": 0.5},
    )
    shown = ["+tls", pacs_tls["key"], pacs_tls["certificate"], "+cf", pacs_tls["trusted"]]
    with orthanc_with_tls(tmp_path / "pacs", pacs_tls, port, pacs_port) as pacs:
        assert storescu(pacs_port, *scan, called="ORTHANC", more=shown).returncode == 0
        assert storescu(pacs_port, *scan, called="ORTHANC").returncode != 0  # without TLS nobody gets in
        with working(config, bundle) as node:
            (study,) = pacs.get("/studies")
            body = {"Resources": [study], "Synchronous": True}
            pacs.send("POST", "/modalities/node/store", body)
            until(lambda: node.queue.counts() == {"committed": 1})
            assert sorted(one["event"] for one in node.queue.entries()).count("committed") == 2
        tags = [pacs.get(f"/instances/{name}/simplified-tags") for name in pacs.get("/instances")]
    made = [one for one in tags if one["Modality"] in ("SR", "OT")]
    assert sorted(one["Modality"] for one in made) == ["OT", "SR"]
    first = dcmread(scan[0])
    for one in made:
        assert (one["StudyInstanceUID"], one["PatientID"]) == (str(first.StudyInstanceUID), str(first.PatientID))


@pytest.mark.timeout(900)
def test_a_pacs_with_a_certificate_of_a_stranger_gets_no_result(tmp_path):
    port, pacs_port = free_port(), free_port()
    node_tls, pacs_tls = certificates(tmp_path / "certificates", "stranger")
    bundle, scan = tiny_bundle(tmp_path / "bundle"), series(tmp_path / "scan")
    peer = {"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs_port, "tls": True}
    config = written(
        tmp_path,
        port,
        pacs_port,
        tls=node_tls,
        destinations=[peer],
        study={"quiet_seconds": 0.5},
        retries={"attempts": 2, "first_seconds": 0.1},
    )
    shown = ["+tls", node_tls["key"], node_tls["certificate"], "+cf", node_tls["trusted"]]
    with (
        orthanc_with_tls(tmp_path / "pacs", pacs_tls, port, pacs_port) as pacs,
        working(config, bundle) as node,
    ):
        assert storescu(port, *scan, more=shown).returncode == 0
        until(lambda: node.queue.counts() == {"dead": 1})
        assert node.queue.studies()[0].reason == "unreachable"
        assert pacs.get("/instances") == []
