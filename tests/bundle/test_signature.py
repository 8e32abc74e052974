"""Signatures of bundles: openssl and sha256sum agree, every change is found, and an unsigned bundle is reported."""

import itertools
import logging
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from command_line import run_command
from cryptography.hazmat.primitives import serialization
from edited_bundle import edit_record
from killed import killed_at

from med_transfer.backbones import load_backbone
from med_transfer.bundle import (
    RECORD_FILE,
    BackboneRecord,
    BundleRecord,
    InputEnvelope,
    Provenance,
    load_network,
    save_bundle,
    signature,
)
from med_transfer.bundle.signature import bundle_hash, make_key, sign_bundle, verify_bundle
from med_transfer.errors import BundleError, OutputError, UsageError
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig

PUBLIC_PEM = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
OPENSSL, SHA256SUM = shutil.which("openssl"), shutil.which("sha256sum")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory) -> Path:
    record = BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 1, 1)),
        backbone=BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_fold_models=1,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )
    ensemble = Ensemble([Classifier(load_backbone("resnet18-w8", scratch=True).encoder, 2)])
    return save_bundle(tmp_path_factory.mktemp("bundles") / "bundle", record, ensemble, "# card\n")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    """A private key and its public one."""
    private = tmp_path_factory.mktemp("keys") / "lab.key"
    return private, make_key(private)


@pytest.fixture
def signed(unsigned, keys, tmp_path) -> Path:
    folder = shutil.copytree(unsigned, tmp_path / "signed")
    sign_bundle(folder, keys[0])
    return folder


def test_a_key_is_its_owners_alone_and_never_overwritten(keys):
    private, public = keys
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert public.name == "lab.key.pub"
    assert "PRIVATE" not in public.read_text()
    with pytest.raises(OutputError, match="lab.key: is there already; expected a new name"):
        make_key(private)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_wherever_it_writes_a_key_has_its_public_one_in_the_end(tmp_path):
    for moment in itertools.count(1):
        private, public = tmp_path / f"{moment}.key", tmp_path / f"{moment}.key.pub"
        if not killed_at(moment, lambda private=private: make_key(private)):
            break
        if public.exists():  # the last moment
            with pytest.raises(OutputError, match="is there already"):
                make_key(private)
        else:
            assert make_key(private) == public
        key = serialization.load_pem_private_key(private.read_bytes(), None)
        assert public.read_bytes() == key.public_key().public_bytes(*PUBLIC_PEM)
    assert moment > 3
    private.write_text("no key")
    public.unlink()
    with pytest.raises(OutputError, match="is there already"):
        make_key(private)
    assert not public.exists()
    assert private.read_text() == "no key"


def test_a_public_key_that_appears_while_a_key_is_made_is_not_passed_off_as_its_own(tmp_path, monkeypatch):
    private, public, new_key = tmp_path / "lab.key", tmp_path / "lab.key.pub", signature._new_key

    def while_someone_else_writes(path):
        public.write_text("another's")
        return new_key(path)

    monkeypatch.setattr(signature, "_new_key", while_someone_else_writes)
    with pytest.raises(OutputError, match=r"lab\.key\.pub: is there already; expected a new name"):
        make_key(private)
    assert public.read_text() == "another's"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_signing_leaves_is_not_signed(unsigned, keys, tmp_path):
    folder = shutil.copytree(unsigned, tmp_path / "signed")
    for moment in itertools.count(1):
        if not killed_at(moment, lambda: sign_bundle(folder, keys[0])):
            break
        sign_bundle(folder, keys[0])
        assert {path.name for path in (folder / "signature").iterdir()} == {
            *("SHA256SUMS", "SHA256SUMS.sig", "public_key.pem")
        }
        assert "partial" not in (folder / "signature/SHA256SUMS").read_text()
        verify_bundle(folder, keys[1])
    assert moment > 3


def test_a_signed_bundle_is_verified_and_loads(signed, keys, caplog):
    signer, anyone = verify_bundle(signed, keys[1]), verify_bundle(signed)
    assert signer is not None
    assert anyone is not None
    assert (signer.known, anyone.known, signer.fingerprint) == (True, False, anyone.fingerprint)
    assert len(signer.fingerprint) == 32
    with caplog.at_level(logging.INFO, logger="med_transfer"):  # a node in this process may have set another one
        load_network(signed, keys[1])
    assert f"is signed with key {signer.fingerprint}" in caplog.text
    assert "unsigned" not in caplog.text


def test_an_unsigned_bundle_says_so_outside_of_its_run(unsigned, keys, caplog):
    load_network(unsigned)
    assert "bundle is unsigned: nothing proves who made it or last changed it" in caplog.text
    assert verify_bundle(unsigned) is None
    with pytest.raises(BundleError, match="bundle: is not signed; expected a signature of key [0-9a-f]{32}"):
        load_network(unsigned, keys[1])


@pytest.mark.skipif(OPENSSL is None or SHA256SUM is None, reason="no openssl here")
def test_openssl_and_sha256sum_agree(signed, keys, tmp_path):
    names = ("-in", "signature/SHA256SUMS", "-sigfile", "signature/SHA256SUMS.sig")
    check = [OPENSSL, "pkeyutl", "-verify", "-pubin", "-inkey", str(keys[1]), "-rawin", *names]
    for words in (check, [SHA256SUM, "--check", "--strict", "signature/SHA256SUMS"]):
        assert subprocess.run(words, cwd=signed, capture_output=True, check=False).returncode == 0, words
    key, public = tmp_path / "openssl.key", tmp_path / "openssl.pub"
    make = [OPENSSL, "genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", "pass:secret", "-out", str(key)]
    subprocess.run(make, check=True, capture_output=True)
    show = [OPENSSL, "pkey", "-in", str(key), "-passin", "pass:secret", "-pubout", "-out", str(public)]
    subprocess.run(show, check=True, capture_output=True)
    with pytest.raises(UsageError, match=r"openssl\.key: the key is encrypted; expected --passphrase-file"):
        sign_bundle(signed, key)
    with pytest.raises(UsageError, match=r"openssl\.key: no Ed25519 key, or another passphrase"):
        sign_bundle(signed, key, b"wrong")
    sign_bundle(signed, key, b"secret")
    assert verify_bundle(signed, public) is not None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda b: (b / "docs/new.md").write_text("# other"), "1 file added since it was signed: docs/new.md"),
        (lambda b: (b / "models/model.safetensors").unlink(), "weights are missing"),
        (lambda b: (b / "signature/more").write_text(""), "1 file added since .*: signature/more"),
        (lambda b: (b / "models/link").symlink_to("/etc/passwd"), "models/link: is no plain file"),
        (lambda b: edit_record(b, intended_use="Diagnosis"), f"1 file changed since .*: {RECORD_FILE}"),
        (lambda b: (b / "signature/SHA256SUMS").write_text(""), "SHA256SUMS.sig: the signature does not hold"),
        (lambda b: (b / "signature/SHA256SUMS.sig").unlink(), "SHA256SUMS.sig: the signature does not hold"),
        (lambda b: (b / "signature/public_key.pem").write_text("x"), "SHA256SUMS.sig: the signature does not hold"),
    ],
)
def test_every_change_after_the_signature_is_found(signed, change, found):
    change(signed)
    with pytest.raises(BundleError, match=rf"/signed\b.*{found}"):
        load_network(signed)


@pytest.mark.parametrize(("name", "what"), [("docs/README.md", "changed"), ("configs/inference.json", "missing")])
def test_files_that_the_lock_covers_too_are_covered_by_the_signature_alone(signed, name, what):
    (signed / name).write_text("x") if what == "changed" else (signed / name).unlink()
    with pytest.raises(BundleError, match=f"signed: 1 file {what} since it was signed: {name}"):
        verify_bundle(signed)


def test_a_bundle_that_someone_else_signed_anew_is_another_ones(signed, keys, tmp_path):
    edit_record(signed, intended_use="Diagnosis")
    make_key(tmp_path / "other.key")
    sign_bundle(signed, tmp_path / "other.key")
    load_network(signed)  # as it was signed, but whose key is it?
    with pytest.raises(
        BundleError, match="signed: is signed with key [0-9a-f]{32}; expected a signature of key [0-9a-f]{32}"
    ):
        load_network(signed, keys[1])


def test_the_hash_of_a_bundle_is_of_every_file_and_not_of_the_signature(unsigned, signed):
    assert bundle_hash(unsigned) == bundle_hash(signed)
    (signed / "docs/README.md").write_text("# other")
    assert bundle_hash(unsigned) != bundle_hash(signed)


def test_the_commands_make_a_key_sign_and_verify(unsigned, tmp_path):
    folder = shutil.copytree(unsigned, tmp_path / "bundle")
    lines = {}
    for name, words, code in (
        ("unsigned", ("verify", folder), 1),
        ("no key", ("sign", folder, "--key", tmp_path / "lab.key"), 2),
        ("keygen", ("keygen", tmp_path / "lab.key"), 0),
        ("sign", ("sign", folder, "--key", tmp_path / "lab.key"), 0),
        ("verify", ("verify", folder), 0),
        ("known", ("verify", tmp_path, "--key", tmp_path / "lab.key.pub"), 0),
        ("json", ("verify", folder, "--json"), 0),
    ):
        outcome = run_command("bundle", *words)
        assert outcome.code == code, (name, outcome)
        lines[name] = outcome.out + outcome.err
    assert "unsigned; nothing proves who made it" in lines["unsigned"]
    assert "Make one: med-transfer bundle keygen" in lines["no key"]
    assert "a key that proves nothing until --key says whose it is" in lines["verify"]
    assert "the key that was given" in lines["known"]
    assert f'"sha256": "{bundle_hash(folder)}"' in lines["json"]
    make_key(tmp_path / "other.key")
    for command in ("predict", "evaluate", "explain", "labels next"):
        refused = run_command(
            *command.split(), folder, tmp_path, "-o", tmp_path / "out", "--key", tmp_path / "other.key.pub"
        )
        assert (refused.code, "expected a signature of key" in refused.err) == (2, True), refused
    (folder / "docs/README.md").write_text("")
    assert run_command("bundle", "sign", folder, "--key", tmp_path / "lab.key").code == 2
