"""What is no path is refused in words by every function that takes one, and a run stands for its folder."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import tiny_bundle, write_scan

import med_transfer as mt
from med_transfer.errors import BundleError, CohortError, ScanError, UnknownBackbone, UsageError

NO_PATH = {
    "load_bundle": (mt.load_bundle, "bundle"),
    "find_series": (mt.find_series, "folder"),
    "read_scan": (mt.read_scan, "scan"),
    "Cohort.read": (mt.Cohort.read, "the cohort's table"),
    "finetune": (mt.finetune, "the cohort's table"),
    "plan": (mt.plan, "the cohort's table"),
    "pretrain": (mt.pretrain, "scans"),
    "explain": (lambda value: mt.explain(value, "scan.nii"), "bundle"),
    "evaluate": (lambda value: mt.evaluate(value, "cohort.csv"), "bundle"),
    "compare": (lambda value: mt.compare([value, value]), "runs"),
    "datasets.fetch": (lambda value: mt.datasets.fetch("phantoms", value), "folder"),
}


@pytest.mark.parametrize("value", [3, None, ""], ids=repr)
@pytest.mark.parametrize("name", NO_PATH)
def test_what_is_no_path_is_refused_in_words(name, value, tmp_path, monkeypatch):
    """Empty text, as an empty cell of a table gives it, is not the current folder."""
    monkeypatch.chdir(tmp_path)
    call, where = NO_PATH[name]
    found = "''" if value == "" else f"an object of type {type(value).__name__}"
    with pytest.raises(UsageError, match=f"^{re.escape(where)}: found {found}; expected "):
        call(value)


def test_arguments_of_a_predictor_are_refused_in_words(tmp_path):
    bundle, scan = tiny_bundle(tmp_path / "bundle", region="roi"), write_scan(tmp_path / "1.nii.gz")
    predictor: Any = mt.load_bundle(bundle, "cpu")
    load_bundle: Any = mt.load_bundle
    view_of: Any = mt.view_of
    load_backbone: Any = mt.load_backbone
    for call, message in (
        (lambda: predictor.predict(scan, mask=3), "^mask: found an object of type int; expected the path of a mask"),
        (lambda: predictor.predict_folder([scan], tmp_path), "^scans: found an object of type list; expected a folder"),
        (lambda: predictor.predict_folder(scan, None), "^out: found an object of type NoneType; expected an output"),
        (lambda: load_bundle(bundle, "cpu", 3), "^public_key: found an object of type int; expected a public key"),
        (lambda: view_of(scan), r"^volume: found an object of type \w*Path; expected a Volume. read_scan makes one"),
        (lambda: mt.evaluate(bundle, "cohort.csv", galery=3), "^galery: no such setting; expected one of subgroups"),
        (lambda: mt.explain(bundle, scan, methode="x"), "^methode: no such setting; expected one of method"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(UnknownBackbone, match="unknown backbone 3"):
        load_backbone(3)


def test_an_empty_key_is_not_taken_for_none_which_accepts_an_unsigned_bundle(tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")
    with pytest.raises(UsageError, match="^public_key: found ''; expected a public key"):
        mt.load_bundle(bundle, "cpu", "")
    key = tmp_path / "node.pub"
    key.write_text("no key")
    with pytest.raises(UsageError, match=r"node\.pub: no Ed25519 key"):
        mt.load_bundle(bundle, "cpu", str(key))


def test_a_run_stands_for_its_folder(tmp_path):
    tiny_bundle(tmp_path / "bundle")
    run: Any = mt.Run(tmp_path)
    assert Path(run) == tmp_path
    assert mt.load_bundle(run, "cpu").folder == run.bundle
    with pytest.raises(UsageError, match="1 run; expected at least two to compare"):
        mt.compare(run)


@pytest.mark.parametrize(
    ("call", "folder"),
    [
        (lambda: mt.finetune("none.csv"), ""),
        (lambda: mt.evaluate("none", "none.csv"), "evaluation"),
        (lambda: mt.explain("none", "none.nii"), "explanation"),
        (lambda: mt.pretrain("none", overrides=("steps=1",)), "pretrained"),
    ],
)
def test_a_folder_that_was_not_chosen_is_named(call, folder, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING), pytest.raises((CohortError, BundleError, UsageError, ScanError)):
        call()
    named = f"results are written to {tmp_path / folder}; out=... chooses another folder"
    assert (named in caplog.messages) == bool(folder)  # finetune reads the table first
