"""Weights remember whose scans they were trained on, whatever their name and however often they were passed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from med_transfer.backbones import find_backbone, from_scratch
from med_transfer.bundle import RECORD_FILE, BackboneRecord, BundleRecord, InputEnvelope, Provenance, save_bundle
from med_transfer.bundle.decisions_lock import ABSENT_BEFORE_LOCKS
from med_transfer.bundle.provenance import LOCK_METADATA, source_licences, source_provenance
from med_transfer.cohorts import SOURCE_LOCK_FILE, SourceLock
from med_transfer.errors import CohortError
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig

LOCK = SourceLock.of({"anna", "", "otto"}, {"image"})
TENSORS = {"weight": torch.zeros(1)}


@pytest.fixture
def pretrained(tmp_path):
    save_file(TENSORS, tmp_path / "encoder.safetensors", metadata={LOCK_METADATA: LOCK.model_dump_json(by_alias=True)})
    LOCK.write(tmp_path / SOURCE_LOCK_FILE)
    return tmp_path


def test_a_pretraining_is_recognised_by_folder_and_by_file(pretrained):
    for weights in (pretrained, pretrained / "encoder.safetensors"):
        found = source_provenance(weights)
        assert (found.patient_hashes, found.content_hashes) == (("anna", "otto"), ("image",))


def test_a_copy_of_the_file_alone_remembers(pretrained):
    copy = pretrained / "renamed.safetensors"
    copy.write_bytes((pretrained / "encoder.safetensors").read_bytes())
    (pretrained / SOURCE_LOCK_FILE).unlink()
    assert source_provenance(copy).patient_hashes == ("anna", "otto")


def test_the_lock_beside_a_file_without_memory_counts(pretrained):
    save_file(TENSORS, pretrained / "encoder.safetensors")
    assert source_provenance(pretrained).content_hashes == ("image",)
    assert source_provenance(pretrained / "encoder.safetensors").content_hashes == ("image",)


def test_an_older_encoder_names_its_scans(tmp_path):
    save_file(TENSORS, tmp_path / "old.safetensors", metadata={"source_scans": json.dumps(["b", "a"])})
    assert source_provenance(tmp_path / "old.safetensors").content_hashes == ("a", "b")
    save_file(TENSORS, tmp_path / "odd.safetensors", metadata={"source_scans": "many"})
    with pytest.raises(CohortError, match=r"odd\.safetensors: its list of source scans is damaged"):
        source_provenance(tmp_path / "odd.safetensors")


def test_licences_are_handed_on(tmp_path):
    restricted = "CC BY-NC-ND 4.0 (Johns Hopkins University)"
    save_file(TENSORS, tmp_path / "encoder.safetensors", metadata={"licences": json.dumps([restricted])})
    assert source_licences(tmp_path) == source_licences(tmp_path / "encoder.safetensors") == (restricted,)
    for odd in ("many", '{"a": 1}', "[1]"):
        save_file(TENSORS, tmp_path / "odd.safetensors", metadata={"licences": odd})
        assert source_licences(tmp_path / "odd.safetensors") == ()
    assert source_licences(None) == source_licences(tmp_path / "published.pth") == ()


def record_of(licence: str = "") -> BundleRecord:
    return BundleRecord(
        classes=("a", "b"),
        preprocessing=PreprocessingConfig(),
        n_fold_models=1,
        backbone=BackboneRecord(name="resnet18-w8", pooled_stages=(-1,), licence=licence, source=""),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(1, 1, 1), n_scans=1),
        trained_on=Provenance(cohort_hash="c", patient_hashes=("anna",), content_hashes=("image",)),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    ensemble = Ensemble([Classifier(from_scratch(find_backbone("resnet18-w8")).encoder, 2)])
    return save_bundle(tmp_path_factory.mktemp("bundles") / "bundle", record_of("CC BY-NC 4.0"), ensemble, "# card\n")


def test_a_bundle_is_recognised_by_folder_and_by_its_model_file(tmp_path):
    record = record_of()
    (tmp_path / RECORD_FILE).write_text(record.model_dump_json(exclude=ABSENT_BEFORE_LOCKS))
    assert source_provenance(tmp_path) == record.trained_on
    assert source_provenance(tmp_path / "models/model.safetensors") == record.trained_on


@pytest.mark.parametrize(("inside", "given"), [("", "models/model.safetensors"), ("models", "model.safetensors")])
def test_a_bundle_is_recognised_from_within_its_folder(bundle, monkeypatch, inside, given):
    monkeypatch.chdir(bundle / inside)
    assert source_provenance(Path(given)).patient_hashes == ("anna",)
    assert source_licences(Path(given)) == ("CC BY-NC 4.0",)


def test_the_model_file_of_a_bundle_remembers_where_it_is_copied_alone(bundle, tmp_path):
    copy, link = tmp_path / "copy.safetensors", tmp_path / "link.safetensors"
    copy.write_bytes((bundle / "models/model.safetensors").read_bytes())
    link.symlink_to(bundle / "models/model.safetensors")
    for weights in (copy, link):
        found = source_provenance(weights)
        assert (found.patient_hashes, found.content_hashes) == (("anna",), ("image",))
        assert source_licences(weights) == ("CC BY-NC 4.0",)


def test_a_damaged_memory_of_a_model_file_is_refused(tmp_path):
    for memory in ("many", "[1]"):
        save_file(TENSORS, tmp_path / "odd.safetensors", metadata={"of_bundle": memory})
        with pytest.raises(
            CohortError, match=r"odd\.safetensors: its memory of the patients it was trained on is damaged"
        ):
            source_provenance(tmp_path / "odd.safetensors")


def test_what_remembers_nobody(tmp_path):
    (tmp_path / "published.pt").write_bytes(b"")
    save_file(TENSORS, tmp_path / "plain.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    for weights in (
        None,
        tmp_path,
        *(tmp_path / f for f in ("published.pt", "plain.safetensors", "damaged.safetensors")),
    ):
        assert source_provenance(weights) is None


def test_a_lock_that_was_edited_is_refused(pretrained):
    path = pretrained / SOURCE_LOCK_FILE
    path.write_text(path.read_text().replace("anna", "emma"))
    with pytest.raises(CohortError, match=r"source\.lock\.json: does not match its own hash: it was edited or damaged"):
        source_provenance(pretrained)
    path.write_text("{}")
    with pytest.raises(CohortError, match=r"source\.lock\.json: is not a source lock \(2 problems\)"):
        SourceLock.read(path)
    with pytest.raises(CohortError, match=r"gone\.json: .*expected a source lock"):
        SourceLock.read(pretrained / "gone.json")
    path.write_text(LOCK.model_copy(update={"schema_version": 2}).model_dump_json(by_alias=True))
    with pytest.raises(CohortError, match=r"source\.lock\.json: schema 2; expected schema 1"):
        SourceLock.read(path)
