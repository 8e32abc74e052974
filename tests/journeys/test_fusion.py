"""A run with fusion from the command line to predictions, with and without what the fusion needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    SMALL_SCANS,
    TINY,
    FinishedRun,
    locked,
    neutral_names,
    read_rows,
    run_command,
    settings,
    write_rows,
)
from edited_bundle import before_locks, edit_record
from report_samples import without_tooltips
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from med_transfer.bundle import RECORD_FILE, read_record
from med_transfer.inference import load_bundle
from med_transfer.inference.predictor import LEARNED_FROM
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.scans import Region

USE = ("fusion.use=[network,handcrafted,columns]", "fusion.columns=[age,sex]", "fusion.penalty=0.1")
CLASSES = ("ground-glass", "part-solid", "solid")
AFTER = ("abstained", "abstained_because", "novelty", "seconds")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """27 patients, one age unknown."""
    folder = tmp_path_factory.mktemp("fused")
    path = neutral_names(write_cohort(folder, PhantomConfig(patients_per_class=9, seed=5, **SMALL_SCANS)))
    rows = read_rows(path)
    rows[0]["age"] = ""
    return write_rows(path, rows)


@pytest.fixture(scope="module")
def fused(table, tmp_path_factory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("runs") / "fused"
    own = (*TINY, "training.epochs=1", *USE)
    return FinishedRun(folder, run_command("finetune", table, "-o", folder, *settings(*own)))


def fused_of(row: dict[str, str]) -> list[str]:
    return [row[f"fused_p_{name}"] for name in CLASSES]


def test_the_run_shows_the_fusion_beside_the_network(fused):
    assert fused.outcome.code == 0, fused.outcome.err
    metrics = json.loads((fused.folder / "metrics.json").read_text())
    fusion = metrics["fusion"]
    assert list(fusion["models"]) == ["image-only", "handcrafted-only", "columns-only", "fused"]
    assert set(fusion["contributions"]) == {"network", "handcrafted", "columns"}
    assert (fusion["n_scans"], fusion["n_fitted"], fusion["report"]) == (9, 18, "image")
    assert fusion["models"]["image-only"]["macro_auc"] == metrics["macro_auc"]  # the main figures are the network's
    assert "fused minus handcrafted-only: macro AUC" in fused.outcome.out
    page = without_tooltips((fused.folder / "report.html").read_text())
    assert ">Fusion</h3>" in page
    assert "fitted to 18 scans of 18 patients" in page
    assert "All figures outside the fusion table are the network&#39;s, from the image alone." in page
    files = sorted(path.name for path in fused.bundle.rglob("*") if path.is_file())
    card = "applied_model_card.xml"
    assert files == ["README.md", card, "inference.json", RECORD_FILE, "metadata.json", "model.safetensors"]
    assert "column age, column sex; mean with a model of 18 scans" in (fused.bundle / "docs/README.md").read_text()


def test_a_table_with_all_inputs_is_fused_and_resumed(fused, table, tmp_path):
    outcome = run_command("predict", fused.bundle, table, "-o", tmp_path)
    assert (outcome.code, "27 fused" in outcome.out) == (0, True)
    rows = read_rows(tmp_path / "predictions.csv")
    names = [f"{prefix}{name}" for prefix in ("p_", "fused_p_") for name in CLASSES]
    assert list(rows[0])[6:] == ["predicted", "prediction_set", *names, *AFTER]
    answers = {row["scan"]: row for row in rows}
    for row in read_rows(fused.folder / "predictions.csv"):  # the run's own test scans; its tensors are float16
        both = [[float(one[name]) for name in names] for one in (row, answers[row["scan"]])]
        np.testing.assert_allclose(*both, atol=0.02)

    lines = (tmp_path / "predictions.csv").read_text().splitlines(keepends=True)
    (tmp_path / "predictions.csv").write_text("".join(lines[:5]) + lines[5][:40])  # killed in the middle of a line
    assert run_command("predict", fused.bundle, table, "-o", tmp_path).code == 0
    again = read_rows(tmp_path / "predictions.csv")
    assert [row | {"seconds": ""} for row in again] == [row | {"seconds": ""} for row in rows]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("age", "", "not fused: column age is not given, or empty in every row"),  # empty in every row
        ("age", "sixty", "not fused: column age is not a number here"),
        ("roi", "", "not fused: handcrafted features were learned within a region of interest, these are of the whole"),
    ],
)
def test_without_an_input_there_is_the_network_alone_and_the_reason(fused, table, column, value, reason):
    changed = [row | {name: value for name in row if name.startswith(column)} for row in read_rows(table)[:2]]
    out = table.parent / f"out-{column}-{value}"
    outcome = run_command("predict", fused.bundle, write_rows(table.parent / f"{out.name}.csv", changed), "-o", out)
    assert (outcome.code, "2 ok" in outcome.out, "0 fused" in outcome.out) == (0, True, True)
    for row in read_rows(out / "predictions.csv"):
        assert fused_of(row) == ["", "", ""]
        assert row["reason"].startswith(reason)
        assert sum(float(row[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-4)


def test_python_takes_columns_as_numbers_and_fuses_as_the_command(fused, table, tmp_path):
    row = read_rows(table)[1]
    run_command("predict", fused.bundle, write_rows(table.parent / "alone.csv", [row]), "-o", tmp_path)
    (answered,) = read_rows(tmp_path / "predictions.csv")
    x, y, z, size = (float(row[f"roi_{name}_mm"]) for name in ("x", "y", "z", "size"))
    predictor, scan = load_bundle(fused.bundle, "cpu"), table.parent / row["scan"]
    region = Region((x, y, z), (size, size, size))
    for columns in (
        {"age": row["age"], "sex": row["sex"]},
        {"age": float(row["age"]), "sex": f" {row['sex']} ", "other": None},
    ):
        found = predictor.predict(scan, region, columns=columns)
        assert [found.fused[name] for name in CLASSES] == [float(cell) for cell in fused_of(answered)]
    without = predictor.predict(scan, region, columns={"sex": row["sex"], "age": None})
    assert without.fused  # an age was missing in training, too
    other = predictor.predict(scan, region, columns={"age": 60, "sex": row["sex"].lower()})
    assert other.fused == {}
    assert other.reason.startswith("not fused: column sex has another spelling here than in training: ")


def test_one_age_that_is_missing_is_fused_because_one_was_missing_in_training(fused, table, tmp_path):
    rows = read_rows(table)
    assert locked(fused.folder, [rows[0]["scan"]])[rows[0]["scan"]].role != "test"
    rows[1]["age"] = ""
    run_command("predict", fused.bundle, write_rows(table.parent / "one.csv", rows[1:3]), "-o", tmp_path)
    answered = read_rows(tmp_path / "predictions.csv")
    assert {row["reason"] for row in answered} <= {"", LEARNED_FROM}
    assert all("" not in fused_of(row) for row in answered)


def test_a_map_explains_the_networks_own_probability(fused, table, tmp_path):
    one = write_rows(table.parent / "explained.csv", read_rows(table)[1:2])
    outcome = run_command("explain", fused.bundle, one, "-o", tmp_path / "map", "--class", "solid", "--draws", "0")
    assert outcome.code == 0, outcome.err
    record = json.loads(next((tmp_path / "map").rglob("explanation.json")).read_text())
    run_command("predict", fused.bundle, one, "-o", tmp_path / "answer")
    (row,) = read_rows(tmp_path / "answer/predictions.csv")
    assert record["fused"] is True
    assert record["probability"] == pytest.approx(float(row["p_solid"]), abs=1e-4)
    assert record["probability"] != pytest.approx(float(row["fused_p_solid"]), abs=1e-4)


def reporting_the_fusion(fused: FinishedRun, folder: Path, **changes) -> Path:
    """The bundle as if it had been decided so."""
    bundle = shutil.copytree(fused.bundle, folder / "bundle")
    record = json.loads((bundle / RECORD_FILE).read_text())
    return edit_record(bundle, fusion=record["fusion"] | {"report": "fused"} | changes)


def test_where_one_scan_cannot_be_fused_the_figures_of_all_are_the_networks(fused, unseen_csv, tmp_path):
    rows = read_rows(unseen_csv)[::-1]
    rows[2]["age"] = "sixty"
    table = write_rows(unseen_csv.parent / "one-without-an-age.csv", rows)
    bundle = reporting_the_fusion(fused, tmp_path, shares=(0.9, 0.09, 0.01))  # by which it would call otherwise
    outcome = run_command("evaluate", bundle, table, "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["n_scans"], metrics["fusion"]["n_scans"], metrics["fusion"]["report"]) == (6, 5, "image")
    assert metrics["fusion"]["not_fused"] == {"column age is not a number here": 1}
    answers = {row["scan"]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert list(answers) == sorted(answers)  # whatever the table's order
    own, network = [row["label"] for row in rows], [answers[row["scan"]] for row in rows]
    p = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in network])
    expected = roc_auc_score(own, p / p.sum(axis=1, keepdims=True), multi_class="ovr", labels=CLASSES)
    assert metrics["macro_auc"]["value"] == pytest.approx(expected)
    assert metrics["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(own, [row["predicted"] for row in network])
    )
    page = without_tooltips((tmp_path / "out/report.html").read_text())
    assert "All figures outside the fusion table are the network&#39;s, from the image alone." in page


def test_another_cohort_by_the_fused_model(fused, unseen_csv, tmp_path):
    bundle, shares = reporting_the_fusion(fused, tmp_path, shares=(0.6, 0.3, 0.1)), [0.6, 0.3, 0.1]
    outcome = run_command("evaluate", bundle, unseen_csv, "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["fusion"]["report"] == "fused"
    assert metrics["macro_auc"] == metrics["fusion"]["models"]["fused"]["macro_auc"]
    assert "All figures outside the fusion table are the fused model&#39;s" in without_tooltips(
        (tmp_path / "out/report.html").read_text()
    )
    answers = {row["scan"]: fused_of(row) for row in read_rows(tmp_path / "out/predictions.csv")}
    beyond = {
        scan: np.argmax(np.array(p, dtype=float) / shares) for scan, p in answers.items()
    }  # the shares it learned at
    assert (
        metrics["confusion_matrix"]
        == confusion_matrix(
            [CLASSES.index(row["label"]) for row in read_rows(unseen_csv)],
            [beyond[row["scan"]] for row in read_rows(unseen_csv)],
        ).tolist()
    )
    assert metrics["operating_point"]["thresholds"] == dict(zip(CLASSES, shares, strict=True))

    record = before_locks(bundle)
    del record["fusion"]
    (bundle / RECORD_FILE).write_text(json.dumps(record))
    assert read_record(bundle).fusion is None
    assert run_command("predict", bundle, unseen_csv, "-o", tmp_path / "old").code == 0
    assert not any(name.startswith("fused") for name in read_rows(tmp_path / "old/predictions.csv")[0])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ("fusion.columns=[age, weight]",),
            "has 'weight', which the table does not; expected one of age, scanner, sex",
        ),
        (("fusion.columns=[label]",), "has 'label', which the table does not"),
        (("split.kind=holdout", "split.val_fraction=0.2", "fusion.method=stacked"), "too few for fusion"),
    ],
)
def test_what_cannot_be_fused_is_refused_before_anything_is_written(table, tmp_path, overrides, complaint):
    outcome = run_command("finetune", table, "-o", tmp_path / "run", *settings(*TINY, *USE, *overrides))
    assert (outcome.code, complaint in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "run").exists()
