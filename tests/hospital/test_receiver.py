"""The receiver against dcmtk's modalities, and against peers that misbehave."""

from __future__ import annotations

import copy
import random
import socket
import struct
import subprocess
import threading
import time
from io import BytesIO
from typing import Any

import peers
import pytest
from peers import certificate, echoscu, series, storescu
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, Verification
from receiving import notice, receiving

from med_transfer.errors import ConfigError
from med_transfer.hospital.association import associate, rejection_code
from med_transfer.hospital.availability import AVAILABILITY
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import keep, keep_aside, received_file, study_id, sweep
from med_transfer.hospital.queue import Added, Queue
from med_transfer.hospital.receiver import VERIFICATION, Receiver
from med_transfer.hospital.settings.peers import Peer
from med_transfer.hospital.storage_classes import VENDOR_CLASSES
from med_transfer.hospital.tls import client_context

pytestmark = pytest.mark.skipif(not peers.DCMTK, reason="needs dcmtk")


def send(config: NodeConfig, *datasets: Dataset, syntax: str | None = None) -> list[int]:
    """Each with its status, in one association."""
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage, syntax)
    association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
    assert association.is_established
    answers = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    return answers


def test_images_are_kept_as_they_came(node_config, tmp_path):
    config, files = node_config(), series(tmp_path / "scan")
    with receiving(config) as queue:
        assert echoscu(config.port)
        assert storescu(config.port, *files).returncode == 0
        assert storescu(config.port, *files).returncode == 0  # again: the same
        assert queue.counts() == {"received": 1}
        kept = sorted((config.folder / "incoming").glob("*/*"))
        assert len(kept) == len(files)
        sent, received = dcmread(files[0]), {str(one.SOPInstanceUID): one for one in map(dcmread, kept)}
        assert received[str(sent.SOPInstanceUID)] == sent
        assert kept[0].parent.name == study_id(str(sent.StudyInstanceUID))
        left = kept[0].parent / "left.dcm"
        left.write_bytes(b"of a kill")
        assert sweep(config.folder, queue) == 1
        assert sorted((config.folder / "incoming").glob("*/*")) == kept


def test_a_node_that_begins_while_another_process_fetches_takes_nothing_from_it(node_config, tmp_path):
    """Between a file and the queue's word of it."""
    config, (file, *_) = node_config(), series(tmp_path / "scan", slices=1)
    of_node, content = Queue(config.queue_file), file.read_bytes()

    class Fetching(Queue):
        def add(self, *arguments: Any, **options: Any) -> Added:
            assert sweep(config.folder, of_node) == 1
            return super().add(*arguments, **options)

        def set_aside(self, *arguments: Any) -> None:
            assert sweep(config.folder, of_node) == 1
            super().set_aside(*arguments)

    fetching = Fetching(config.queue_file)
    assert keep(config.folder, fetching, received_file(content), 0, 100)
    keep_aside(config.folder, fetching, "damaged", "pacs", content, 0)
    assert sweep(config.folder, of_node) == 0
    assert [(config.folder / name).read_bytes() for name in of_node.files()] == [content, content]
    assert not of_node.deleted(of_node.studies()[0].id)
    fetching.close()
    of_node.close()


def test_nothing_of_a_patient_outlives_a_kill_in_the_middle(node_config, tmp_path):
    """After an image was set aside and before the queue knew; after images were deleted and before their views."""
    config = node_config()
    with receiving(config) as queue:
        storescu(config.port, *series(tmp_path / "scan", slices=1))
        queue.set_aside("damaged", "CT1", "aside/known.dcm", 0)
        (study,) = queue.studies()
        left = [config.folder / name for name in ("aside/left.dcm", "viewer/0123456789abcdef/voxels.nii.gz")]
        kept = [config.folder / name for name in ("aside/known.dcm", f"viewer/{study.id}/voxels.nii.gz")]
        for path in (*left, *kept):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"of a patient")
        assert sweep(config.folder, queue) == 1
        assert [path.exists() for path in (*left, *kept)] == [False, False, True, True]


@pytest.mark.parametrize(("syntax", "option"), [(RLELossless, "-xr"), (JPEGLSLossless, "-xt")])
def test_compressed_images_are_not_encoded_anew(node_config, tmp_path, syntax, option):
    pytest.importorskip("jpeg_ls", reason="encodes")
    config, (plain, *_) = node_config(), series(tmp_path / "scan", slices=1)
    dataset = dcmread(plain)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "compressed.dcm")
    with receiving(config):
        assert storescu(config.port, tmp_path / "compressed.dcm", more=[option]).returncode == 0
        (kept,) = (config.folder / "incoming").glob("*/*")
        assert dcmread(kept).file_meta.TransferSyntaxUID == syntax
        assert dcmread(kept).PixelData == dataset.PixelData


def test_only_callers_get_in(node_config, tmp_path, caplog):
    config, files = node_config(), series(tmp_path / "scan", slices=1)
    with receiving(config) as queue:
        assert not echoscu(config.port, calling="STRANGER")
        assert not echoscu(config.port, called="ANOTHER")
        assert storescu(config.port, *files, calling="STRANGER").returncode != 0
        assert queue.counts() == {}
        assert echoscu(config.port)
    config = node_config(callers=[{"ae_title": "CT1", "address": "10.0.0.0/8"}])
    with receiving(config):
        assert not echoscu(config.port)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("med_transfer")]
    stranger = "an association of STRANGER from 127.0.0.1 was rejected: AE title and address are not in callers"
    assert told == [  # what node.yaml must say, or the modality
        stranger,
        "an association of CT1 from 127.0.0.1 was rejected: it calls ANOTHER, and this is MEDTRANSFER",
        stranger,
        "a connection from 127.0.0.1 was closed: not in callers",
    ]


def test_a_name_service_that_does_not_answer_keeps_no_caller_waiting(node_config, monkeypatch):
    looked_up, answered, found = threading.Event(), threading.Event(), socket.getaddrinfo

    def never(host: str, *more: object, **named: object):
        if host != "pacs.hospital":
            return found(host, *more, **named)
        looked_up.set()
        assert answered.wait(240), "the caller waits for the name service"
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", never)
    config = node_config(destinations=[{"ae_title": "PACS", "address": "pacs.hospital", "port": 104}])
    with receiving(config), socket.create_connection(("127.0.0.1", config.port), 240, ("127.0.0.2", 0)) as stranger:
        assert looked_up.wait(240)
        try:
            assert echoscu(config.port, more=["-ta", "60"])
        finally:
            answered.set()
        assert stranger.recv(1) == b""


def test_the_name_of_the_pacs_is_not_looked_up_for_each_image(node_config, tmp_path, monkeypatch):
    asked, found = [], socket.getaddrinfo

    def counted(*given: object, **named: object):
        asked.append(given)
        return found(*given, **named)

    config = node_config(callers=[], pacs={"ae_title": "CT1", "address": "localhost", "port": 1})
    with receiving(config) as queue:
        monkeypatch.setattr(socket, "getaddrinfo", counted)
        assert set(send(config, *map(dcmread, series(tmp_path / "scan", slices=20)))) == {0x0000}
        (study,) = queue.studies()
        assert len(queue.instances(study.id)) == 20
    assert len([given for given in asked if given[0] == "localhost"]) <= 2


def test_a_destination_may_answer_but_not_store(node_config, tmp_path):
    destination = {"ae_title": "PACS", "address": "127.0.0.1", "port": 1, "storage_commitment": True}
    config, files = node_config(destinations=[destination]), series(tmp_path / "scan", slices=1)
    with receiving(config) as queue:
        assert echoscu(config.port, calling="PACS")
        refused = storescu(config.port, *files, calling="PACS")
        assert "0x0124" in refused.stdout + refused.stderr or refused.returncode != 0
        assert queue.counts() == {}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_is_damaged_is_set_aside_and_the_association_goes_on(node_config, tmp_path):
    config = node_config()
    good, second, twin, other, climbing, nameless, *_ = map(dcmread, series(tmp_path / "scan"))
    twin.SOPInstanceUID = good.SOPInstanceUID
    other.PatientID = "ANOTHER"
    climbing.SeriesInstanceUID = "../../etc"
    del nameless.StudyInstanceUID
    with receiving(config) as queue:
        answers = send(config, good, twin, other, climbing, nameless, second)
        assert answers == [0x0000, 0x0111, 0xC001, 0xC000, 0xC000, 0x0000]
        assert dict(queue.reasons()) == {"conflict": 1, "another_patient": 1, "uid_invalid": 1, "uid_missing": 1}
        assert len(list((config.folder / "aside").glob("*.dcm"))) == 4
        assert len(queue.instances(study_id(str(good.StudyInstanceUID)))) == 2
        assert not [entry for entry in queue.entries() if "ANOTHER" in str(entry) or str(good.PatientID) in str(entry)]


def test_who_issued_the_patient_id_does_not_part_a_study(node_config, tmp_path):
    """Archives add IssuerOfPatientID (0010,0021) or change it; the modality sends most images without."""
    config = node_config()
    plain, issued, elsewhere, *_ = map(dcmread, series(tmp_path / "scan"))
    issued.IssuerOfPatientID, elsewhere.IssuerOfPatientID = "HOSPITAL", "ARCHIVE"
    with receiving(config) as queue:
        assert send(config, plain, issued, elsewhere) == [0x0000] * 3
        assert len(queue.instances(study_id(str(plain.StudyInstanceUID)))) == 3


def test_an_image_that_comes_again_in_another_encoding_is_the_same(node_config, tmp_path):
    config, (file, *_) = node_config(), series(tmp_path / "scan", slices=1)
    image = dcmread(file)
    image.add_new(0x00090010, "LO", "MAKER")
    image.add_new(0x00091001, "SH", "its own")  # whose VR implicit encoding does not state
    for tag in (0x00280106, 0x00280120):  # smallest value and padding: nor whether these have a sign
        image.add_new(tag, "SS" if image.PixelRepresentation else "US", 7)
    item = Dataset()
    item.CodeMeaning = "tissue"
    image.AnatomicRegionSequence = [item]
    with receiving(config) as queue:
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            assert send(config, encoded(image, syntax), syntax=syntax) == [0x0000]
        assert dict(queue.reasons()) == {}
        assert len(list((config.folder / "incoming").glob("*/*"))) == 1
        for change in (one_pixel, another_position, another_item):
            other = copy.deepcopy(image)
            change(other)
            assert send(config, encoded(other, ImplicitVRLittleEndian), syntax=ImplicitVRLittleEndian) == [0x0111]
        assert dict(queue.reasons()) == {"conflict": 3}


def encoded(image: Dataset, syntax: str) -> Dataset:
    """As a file in this encoding says it."""
    copied, file = copy.deepcopy(image), BytesIO()
    copied.file_meta.TransferSyntaxUID = syntax
    copied.save_as(file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True)
    return dcmread(BytesIO(file.getvalue()))


def one_pixel(image: Dataset) -> None:
    image.PixelData = image.PixelData[:-1] + bytes([image.PixelData[-1] ^ 1])


def another_position(image: Dataset) -> None:
    image.ImagePositionPatient = [0, 0, 77]


def another_item(image: Dataset) -> None:
    image.AnatomicRegionSequence[0].CodeMeaning = "bone"


def test_objects_without_an_image_to_predict_are_passed_over(node_config, tmp_path):
    dose, csa, old = "1.2.840.10008.5.1.4.1.1.88.67", VENDOR_CLASSES[0], "1.2.840.10008.5.1.4.1.1.6"
    strange = "1.2.3.4.5"
    config, (file, *_) = node_config(), series(tmp_path / "scan", slices=1)
    entity = AE("CT1")
    for uid in (dose, csa, old, strange):
        entity.add_requested_context(uid)
    with receiving(config) as queue:
        association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
        accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
        assert accepted == {dose, csa, old}
        for uid in (dose, csa, old):
            dataset = dcmread(file)
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
            assert association.send_c_store(dataset).Status == 0x0000
        association.release()
        assert (queue.counts(), dict(queue.reasons())) == ({}, {})
    assert not list(config.folder.glob("*/**/*.dcm"))


def test_a_notice_of_what_there_is_completes_a_study_at_once(node_config, tmp_path):
    destination = {"ae_title": "PACS", "address": "127.0.0.1", "port": 1}
    config, images = node_config(destinations=[destination]), list(map(dcmread, series(tmp_path / "scan", slices=2)))
    page = dcmread(images[0].filename)
    page.SOPClassUID, page.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.9"  # which the node would not take
    uid = str(page.StudyInstanceUID)
    with receiving(config) as queue:
        assert notice(config.port, "PACS", images, uid) == 0x0124
        assert notice(config.port, "CT1", images, "../..") == 0x0106
        assert notice(config.port, "CT1", [*images, page], uid) == 0x0000
        assert send(config, images[0]) == [0x0000]
        assert queue.complete(time.time(), 1000) == 0
        assert send(config, images[1]) == [0x0000]
        assert queue.complete(time.time(), 1000) == 1


def test_priority_is_the_sites_word_for_a_caller_else_the_callers(node_config, tmp_path):
    emergency = {"ae_title": "ER", "address": "127.0.0.1", "priority": "high"}
    config = node_config(callers=[{"ae_title": "CT1", "address": "127.0.0.1"}, emergency])
    scans = [dcmread(series(tmp_path / f"{n}", study=n, slices=1)[0]) for n in (1, 2, 3)]
    with receiving(config) as queue:
        for dataset, calling, priority in zip(scans, ("CT1", "ER", "CT1"), (0, 2, 2), strict=True):
            entity = AE(calling)
            entity.add_requested_context(CTImageStorage)
            association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
            assert association.send_c_store(dataset, priority=priority).Status == 0
            association.release()
        queue.complete(time.time(), 0)
        assert queue.to_predict(time.time()).study_uid == scans[1].StudyInstanceUID


def test_unknown_classes_and_private_syntaxes_are_not_negotiated(node_config, tmp_path):
    config, (image, *_) = node_config(), map(dcmread, series(tmp_path / "scan", slices=1))
    entity = AE("CT1")
    entity.add_requested_context("1.2.826.0.1.3680043.9.9999.1")  # a private class
    entity.add_requested_context(CTImageStorage, ["1.2.826.0.1.3680043.9.9999.2"])  # a private encoding
    for uid in (CTImageStorage, AVAILABILITY):
        entity.add_requested_context(uid, [DeflatedExplicitVRLittleEndian])  # may unpack to a thousand times its size
    entity.add_requested_context(CTImageStorage)
    with receiving(config) as queue:
        association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
        assert [context.result for context in association.rejected_contexts] == [3, 4, 4, 4]  # PS3.8 table 9-18
        assert association.send_c_store(image).Status == 0
        association.abort()
        assert queue.counts() == {"received": 1}


def test_an_association_that_ends_in_the_middle_loses_only_what_it_had_not_sent(node_config, tmp_path):
    config, (image, half) = node_config(), list(map(dcmread, series(tmp_path / "scan", slices=2)))
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage)
    with receiving(config) as queue:
        association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
        assert association.send_c_store(image).Status == 0
        association.dimse_timeout = 1  # no answer comes
        wire, send_all = association.dul.socket.socket, []

        def cut(content: bytes) -> None:
            send_all.append(content)
            if len(send_all) == 2:  # the command has gone, and half of the data set goes
                wire.sendall(content[: len(content) // 2])
                wire.shutdown(socket.SHUT_RDWR)
            elif len(send_all) == 1:
                wire.sendall(content)

        association.dul.socket.send = cut
        assert "Status" not in association.send_c_store(half)
        assert echoscu(config.port)
        assert (queue.counts(), queue.reasons()) == ({"received": 1}, [])
        assert len(list((config.folder / "incoming").glob("*/*"))) == 1


def test_a_full_disk_refuses(node_config, tmp_path):
    config, files = node_config(limits={"disk_free_gib": 1e9}), series(tmp_path / "scan", slices=1)
    with receiving(config) as queue:
        assert storescu(config.port, *files).returncode != 0
        assert queue.counts() == {}


def test_a_queue_that_cannot_be_written_refuses_and_leaves_nothing(node_config, tmp_path):
    config, images = node_config(), [dcmread(file) for file in series(tmp_path / "scan", slices=60)]
    with receiving(config) as queue:
        (pages,) = queue._database.execute("PRAGMA page_count").fetchone()
        queue._database.execute(f"PRAGMA max_page_count = {pages}")  # as where the disk is full
        answers = send(config, *images)
        assert set(answers) == {0x0000, 0xA700}
        assert len(list((config.folder / "incoming").glob("*/*"))) == answers.count(0)
        queue._database.execute("PRAGMA max_page_count = 100000")
        assert set(send(config, *images)) == {0x0000}
        assert len(list((config.folder / "incoming").glob("*/*"))) == len(images)


def test_too_much_is_not_taken(node_config, tmp_path):
    limits = {"disk_free_gib": 0, "instance_mib": 0.001, "study_instances": 1}
    config, files = node_config(limits=limits), series(tmp_path / "scan", slices=2)
    with receiving(config) as queue:
        assert storescu(config.port, *files).returncode != 0  # an instance has 1.3 KiB
        assert queue.counts() == {}
        assert echoscu(config.port)
    config = node_config(limits={**limits, "instance_mib": 1})
    with receiving(config):
        assert send(config, *map(dcmread, files)) == [0x0000, 0xA700]


def test_a_taken_port_is_named(node_config):
    config = node_config()
    with receiving(config), pytest.raises(ConfigError, match=f"port {config.port}"):
        Receiver(config, Queue(config.queue_file))


# TLS ----------------------------------------------------------------------------------------------------------


def test_tls_asks_for_a_certificate(node_config, tmp_path):
    node_key, node_pem = certificate(tmp_path, "node")
    ct_key, ct_pem = certificate(tmp_path, "ct")
    stranger_key, stranger_pem = certificate(tmp_path, "stranger")
    expired_key, expired_pem = certificate(tmp_path, "expired", days=-1)
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(ct_pem.read_text() + expired_pem.read_text())
    config = node_config(tls={"certificate": node_pem, "key": node_key, "trusted": trusted})
    with receiving(config):
        assert not echoscu(config.port, more=["+tls", str(expired_key), str(expired_pem), "+cf", str(node_pem)])
        known = ["+tls", str(ct_key), str(ct_pem), "+cf", str(node_pem)]
        assert echoscu(config.port, more=known)
        assert not echoscu(config.port, more=["+tls", str(stranger_key), str(stranger_pem), "+cf", str(node_pem)])
        assert not echoscu(config.port)
        with socket.create_connection(("127.0.0.1", config.port)):  # a silent peer keeps nobody else waiting
            assert echoscu(config.port, more=known)


def test_the_node_calls_a_peer_by_tls(node_config, tmp_path):
    key, pem = certificate(tmp_path, "node")
    tls = {"certificate": pem, "key": key, "trusted": pem}
    config = node_config(tls=tls, callers=[{"ae_title": "MEDTRANSFER", "address": "127.0.0.1"}])
    for address in ("127.0.0.1", "localhost"):
        peer = Peer(ae_title="MEDTRANSFER", address=address, port=config.port, tls=True)
        with (
            receiving(config),
            associate(config, peer, client_context(config, peer), [VERIFICATION]) as association,
        ):
            assert association.is_established
            assert association.send_c_echo().Status == 0


@pytest.mark.parametrize("address", ["no-such-host.invalid", "pacs..hospital"])
def test_a_peer_with_an_unknown_host_name_is_unreachable(node_config, address):
    config, peer = node_config(), Peer(ae_title="PACS", address=address, port=104)
    with associate(config, peer, None, [VERIFICATION]) as association:
        assert not association.is_established
        assert rejection_code(association) == "unreachable"


def test_a_certificate_that_has_expired_gets_nobody_in(node_config, tmp_path, caplog):
    node_key, node_pem = certificate(tmp_path, "node")
    old_key, old_pem = certificate(tmp_path, "old", days=-1)
    key, pem = certificate(tmp_path, "ct")
    (tmp_path / "both.pem").write_text(pem.read_text() + old_pem.read_text())
    config = node_config(tls={"certificate": node_pem, "key": node_key, "trusted": tmp_path / "both.pem"})
    with receiving(config):
        assert echoscu(config.port, more=["+tls", str(key), str(pem), "+cf", str(node_pem)])
        assert not echoscu(config.port, more=["+tls", str(old_key), str(old_pem), "+cf", str(node_pem)])
        assert not echoscu(config.port)
        peers.until(lambda: len(caplog.messages) > 1)
    said = [line for line in caplog.messages if line.startswith("a connection from 127.0.0.1 failed")]
    assert [line.rpartition(": ")[2] for line in said] == ["certificate has expired", "WRONG_VERSION_NUMBER"]


def test_a_certificate_that_does_not_fit_its_key_is_named(node_config, tmp_path):
    key, _ = certificate(tmp_path, "one")
    _, pem = certificate(tmp_path, "two")
    config = node_config(tls={"certificate": pem, "key": key, "trusted": pem})
    with pytest.raises(ConfigError, match="the key that of the certificate"):
        Receiver(config, Queue(config.queue_file))


# Peers that misbehave -----------------------------------------------------------------------------------------


def malformed(rng: random.Random, request: bytes) -> bytes:
    """A PDU that nobody should send."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 200))
    if kind == 1:  # claims 4 GB
        return struct.pack(">BBL", rng.randrange(1, 8), 0, 0xFFFFFFFF) + rng.randbytes(50)
    if kind == 2:  # cut off
        return request[: rng.randrange(1, len(request))]
    if kind == 3:  # data before there is an association
        return struct.pack(">BBL", 4, 0, 10) + rng.randbytes(10)
    flipped = bytearray(request)
    for _ in range(rng.randrange(1, 12)):
        flipped[rng.randrange(6, len(flipped))] = rng.randrange(256)
    return bytes(flipped)


def association_request() -> bytes:
    """What storescu would begin with."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    command = ["echoscu", "-to", "2", "127.0.0.1", str(listener.getsockname()[1])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    connection, _ = listener.accept()
    content = connection.recv(65536)
    connection.close()
    listener.close()
    process.wait(30)
    return content


def test_an_association_that_is_aborted_within_an_image_leaves_nothing(node_config, tmp_path):
    config, (path,) = node_config(), series(tmp_path / "scan", slices=1)
    entity, image = AE("CT1"), dcmread(path)
    entity.add_requested_context(CTImageStorage, image.file_meta.TransferSyntaxUID)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    request.DataSet = BytesIO(encode(image, False, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    with receiving(config) as queue:
        association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
        *begun, _ = message.encode_msg(association.accepted_contexts[0].context_id, 300)
        for part in begun:
            association.dul.send_pdu(part)
        association.abort()
        assert echoscu(config.port)
        assert queue.counts() == {}
        assert not list(config.folder.glob("*/**/*.dcm"))
        assert send(config, image) == [0x0000]


def test_malformed_pdus_end_only_their_own_connection(node_config):
    # as many at a time as a node accepts, well before the time-out: closed connections block nobody
    config = node_config(limits={"disk_free_gib": 0, "network_seconds": 100, "associations": 10})
    rng, request = random.Random(5), association_request()
    with receiving(config):
        for number in range(150):
            with socket.create_connection(("127.0.0.1", config.port), timeout=120) as peer:
                try:
                    peer.sendall(malformed(rng, request))
                except OSError:
                    continue
            if number == 75:
                peers.until(lambda: echoscu(config.port))
        peers.until(lambda: echoscu(config.port))


def test_malformed_data_sets_are_set_aside(node_config, tmp_path):
    config, rng = node_config(), random.Random(6)
    (path,) = series(tmp_path / "scan", slices=1)
    entity = AE("CT1")
    entity.add_requested_context(CTImageStorage)
    entity.add_requested_context(Verification)
    with receiving(config) as queue:
        association = entity.associate("127.0.0.1", config.port, ae_title="MEDTRANSFER")
        statuses = set()
        for number in range(40):
            dataset = dcmread(path)
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            del dataset.PixelData
            data = Dataset()
            data.SOPClassUID, data.SOPInstanceUID, data.file_meta = CTImageStorage, f"1.2.3.{number}", dataset.file_meta
            data.add_new(0x00091010, "UN", rng.randbytes(rng.randrange(2, 200) * 2))
            statuses.add(association.send_c_store(data).Status)
        assert statuses == {0xC000}
        assert association.send_c_echo().Status == 0
        assert sum(count for _, count in queue.reasons()) == 40
        association.release()
