"""Reviewers' judgements become a cohort table: the last label per series, under pseudonyms, of images present here."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.cohorts import Cohort
from med_transfer.errors import NothingDone
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Described, Feedback, Instance, Judgement, Queue, SeriesAnswer
from med_transfer.hospital.review import bundle_records
from med_transfer.hospital.review.feedback import export_labels
from med_transfer.predictions.labels import Labels

TWO = Labels(("benign", "malignant"))
FACTS = {"status": "ok", "predicted": "benign", "probabilities": {"benign": 0.8, "malignant": 0.2}}


def with_record(node: NodeConfig, mark: str, **changes: object) -> None:
    """The copy of a bundle with this record."""
    file = tiny_bundle(node.folder / "bundles" / mark) / "med_transfer.json"
    record = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(record | {"lock_hash": lock_hash(record)}))


def judged_by_another(queue: Queue, study: str, label: str, bundle: str) -> None:
    """Predicted again by another bundle, and judged again."""
    assert queue.add_feedback(Feedback("ray", study, 1, 0, "rerun"), 300)
    waiting = queue.to_predict(300)
    assert waiting is not None
    answer = SeriesAnswer(FACTS, bundle=bundle, series_uid=f"1.9.{study[1]}")
    assert queue.predicted(waiting, [], [], 300, [FACTS], [answer])
    assert queue.add_feedback(Feedback("ray", study, 2, 0, "disagree", label), 300)


@pytest.fixture
def node(tmp_path: Path) -> NodeConfig:
    return NodeConfig(folder=tmp_path / "state")


@pytest.fixture
def queue(node: NodeConfig) -> Queue:
    """Three studies of two patients, each with an answer."""
    queue = Queue(node.queue_file)
    with_record(node, "mark")
    for name, patient in (("s1", "PLANTED-1"), ("s2", "PLANTED-2"), ("s3", "PLANTED-1")):
        image = node.folder / "incoming" / name / "1.dcm"
        image.parent.mkdir(parents=True)
        image.touch()
        described = Described("Planted^Anna", patient)
        file = f"incoming/{name}/1.dcm"
        queue.add(Instance(f"1.{name[1]}", name, f"1.2.{name[1]}", "1.9", "m", "ct", "i", "h", file, described), 0)
        queue.complete(100, 0)
        study = queue.to_predict(100)
        assert study is not None
        answer = SeriesAnswer(FACTS, bundle="mark", series_uid=f"1.9.{name[1]}")
        queue.predicted(study, [], [], 100, [FACTS], [answer])
    return queue


def say(queue: Queue, study: str, kind: Judgement, label: str | None = None, **more) -> bool:
    return queue.add_feedback(Feedback("ray", study, 1, 0, kind, label, **more), 200)


def test_the_reader_of_finetune_takes_it(node, queue, tmp_path):
    assert say(queue, "s1", "agree", "benign")
    assert say(queue, "s2", "agree", "benign")
    assert say(queue, "s2", "disagree", "malignant")
    assert say(queue, "s2", "comment", comment="Planted comment")
    assert say(queue, "s3", "agree", "benign")
    out = tmp_path / "elsewhere" / "labels.csv"
    exported = export_labels(node, queue, out)
    assert (exported.rows, exported.without_images) == (3, 0)
    assert exported.key.stat().st_mode & 0o777 == 0o600
    cohort = Cohort.read(out)
    assert [case.label for case in cohort.cases] == ["benign", "malignant", "benign"]
    assert [case.series_uid for case in cohort.cases] == ["1.9.1", "1.9.2", "1.9.3"]
    assert cohort.cases[1].path.resolve() == node.folder / "incoming" / "s2"
    first, second, third = cohort.patients
    assert first == third != second  # two studies of one patient are not separated
    assert "lanted" not in out.read_text()
    assert "PLANTED" not in out.read_text()
    again = export_labels(node, queue, out)
    assert (again.key, Cohort.read(out).patients) == (exported.key, cohort.patients)


def test_findings_have_a_column_each(node, queue, tmp_path):
    with_record(node, "mark", multilabel=True)
    for study, label in (("s1", ""), ("s2", "malignant"), ("s3", "benign;malignant")):
        say(queue, study, "disagree", label)
    export_labels(node, queue, tmp_path / "labels.csv")
    cohort = Cohort.read(tmp_path / "labels.csv")
    assert cohort.labels.multilabel
    assert [case.label for case in cohort.cases] == [set(), {"malignant"}, {"benign", "malignant"}]


def test_a_finding_that_nobody_was_asked_about_is_not_exported_as_absent(node, queue, tmp_path):
    """The next bundle of a route may look for more findings than the one before."""
    with_record(node, "mark", multilabel=True)
    with_record(node, "next", multilabel=True, classes=["benign", "malignant", "calcified"])
    for study in ("s1", "s2"):
        say(queue, study, "disagree", "malignant")
    judged_by_another(queue, "s1", "calcified", "next")
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as table:
        rows = [[value for name, value in row.items() if name.startswith("label_")] for row in csv.DictReader(table)]
    assert rows == [["0", "0", "1"]]
    assert (exported.rows, exported.of_other_classes) == (1, 1)


@pytest.mark.parametrize(
    ("earlier", "label"),
    [
        ({"multilabel": True}, "benign;malignant"),  # is no class of its own
        ({"multilabel": True}, ""),
        ({"multilabel": True}, "malignant"),  # nobody asked which of the two it is
        ({"classes": ["benign", "malignant", "normal"]}, "normal"),
        ({"classes": ["benign", "normal"]}, "benign"),  # malignant was no choice
    ],
)
def test_a_label_chosen_among_other_classes_is_left_out_and_told(node, queue, tmp_path, earlier, label):
    with_record(node, "mark", **earlier)
    with_record(node, "next")
    say(queue, "s1", "disagree", label)
    judged_by_another(queue, "s2", "malignant", "next")
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    assert [case.label for case in Cohort.read(tmp_path / "labels.csv", labels=TWO).cases] == ["malignant"]
    assert (exported.rows, exported.of_other_classes) == (1, 1)


def test_which_classes_were_asked_for_is_known_from_the_bundle_or_not_at_all(node, queue, tmp_path):
    """Findings of a bundle that cannot be read would look like one class, 'benign;malignant'."""
    say(queue, "s1", "disagree", "malignant")
    judged_by_another(queue, "s2", "benign;malignant", "gone")
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    assert [case.label for case in Cohort.read(tmp_path / "labels.csv", labels=TWO).cases] == ["malignant"]
    assert (exported.rows, exported.of_other_classes) == (1, 1)
    (node.folder / "bundles" / "mark" / "med_transfer.json").write_text("{}")
    bundle_records._read.cache_clear()
    with pytest.raises(NothingDone, match="bundles of none can be read"):
        export_labels(node, queue, tmp_path / "labels.csv")


def test_the_bundle_judged_last_is_so_whatever_the_clock_said(node, queue, tmp_path):
    with_record(node, "next", classes=["benign", "malignant", "normal"])
    assert queue.add_feedback(Feedback("ray", "s1", 1, 0, "agree", "benign"), 1e9)
    judged_by_another(queue, "s2", "normal", "next")  # the clock was set back
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    assert (exported.rows, exported.of_other_classes) == (1, 1)


def test_labels_of_no_single_series_are_left_out_and_told(node, queue, tmp_path):
    """As of an answer from before there was a page, or that no series could be used."""
    say(queue, "s1", "agree", "benign")
    say(queue, "s2", "agree", "benign")
    assert queue.add_feedback(Feedback("ray", "s2", 1, 0, "rerun"), 300)
    again = queue.to_predict(300)
    assert again is not None
    assert queue.predicted(again, [], [], 300, [FACTS], [SeriesAnswer(FACTS, bundle="mark")])
    assert queue.add_feedback(Feedback("ray", "s2", 2, 0, "disagree", "malignant"), 300)
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    assert (exported.rows, exported.without_series) == (2, 1)


def test_labels_without_images_are_left_out_and_told(node, queue, tmp_path):
    with pytest.raises(NothingDone, match=f"{node.folder.name}: no labels"):
        export_labels(node, queue, tmp_path / "labels.csv")
    for study in ("s1", "s2", "s3"):
        say(queue, study, "agree", "benign")
    queue.forgotten("s1", 1000)
    exported = export_labels(node, queue, tmp_path / "labels.csv")
    assert (exported.rows, exported.without_images) == (2, 1)
    assert not say(queue, "s1", "rerun")  # without images there is nothing to predict
    assert [study.revision for study in queue.studies()] == [1, 1, 1]
    for study in ("s2", "s3"):
        queue.forgotten(study, 1000)
    with pytest.raises(NothingDone, match=f"{node.folder.name}: .*images of none"):
        export_labels(node, queue, tmp_path / "labels.csv")


def test_another_bundle_has_labels_of_its_own(node, queue, tmp_path):
    say(queue, "s1", "agree", "benign")
    with pytest.raises(NothingDone):
        export_labels(node, queue, tmp_path / "labels.csv", route="other")


def test_a_comment_is_in_no_text_of_the_program(queue):
    said = Feedback("ray", "s1", 1, 0, "comment", comment="Planted comment")
    queue.add_feedback(said, 200)
    assert "lanted" not in repr(said) + str(list(queue.entries())) + repr(replace(said, series_uid="1.2"))
