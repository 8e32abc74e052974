"""summary.html: counts, similar reasons grouped, the most novel scans first; from the commands."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from chinese import ENGLISH_SENTENCE
from command_line import read_rows
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference import ScanToPredict, load_bundle
from med_transfer.inference.contact_sheet import ContactSheet, most_suspicious
from med_transfer.inference.summary import write_beside, write_summary
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

ROWS = [
    *(
        Prediction(f"{n}.nii", predicted="a", probabilities={"a": 0.9, "b": 0.1}, novelty=n / 10, abstained=n == 10)
        for n in range(11)
    ),
    *(
        Prediction(f"cut{n}.nii", status="failed", reason=f"cut{n}.nii: cut off at byte {n}; expected 9")
        for n in range(3)
    ),
    Prediction("<b>.nii", status="rejected", reason="<b>.nii: no <CT>"),
]


def text_of(page: Path) -> str:
    return re.sub(r"\s+", " ", page.read_text())


def test_counts_reasons_and_the_strangest_scans(tmp_path):
    page = text_of(write_summary(tmp_path / "summary.html", ROWS))
    assert "<h1>15 scans, 11 predicted</h1> <p>1 rejected, 3 failed, 1 abstained." in page
    assert "<td>failed</td><td>3</td><td>cut off at byte 0; expected 9</td><td>cut0.nii</td>" in page
    assert "<td>10.nii</td><td>1.000</td><td>yes</td><td>a</td><td>0.900</td>" in page
    assert "9.nii</td><td>0.900" not in page
    assert "no &lt;CT&gt;" in page
    assert "<script" not in page


def test_what_is_remarked_on_a_prediction_is_shown(tmp_path):
    seen = "the bundle was trained on this scan"
    rows = [Prediction(f"{n}.nii", predicted="a", reason=f"{n}.nii: {seen}") for n in range(4)]
    page = text_of(write_summary(tmp_path / "summary.html", [*rows, *ROWS]))
    assert "<h2>Remarks on predictions</h2>" in page
    assert f"<td>4</td><td>{seen}</td><td>0.nii</td>" in page
    assert "Remarks on predictions" not in text_of(write_summary(tmp_path / "summary.html", ROWS))


def test_of_many_strange_scans_the_strangest_are_shown_first(tmp_path):
    rows = [Prediction(f"{n:02}.nii", predicted="a", novelty=0.95 + n / 2000) for n in range(60)]
    rows += [Prediction("known.nii", predicted="a", novelty=0.5, abstained=True)]
    page = text_of(write_summary(tmp_path / "summary.html", rows))
    assert re.findall(r"<td>(\w+)\.nii</td>", page) == [f"{n:02}" for n in range(59, 9, -1)]


def test_predict_writes_it_and_further_tables_beside_its_own(command, tmp_path):
    write_scan(tmp_path / "scans/a.nii.gz")
    (tmp_path / "scans/cut.nii.gz").write_bytes(b"\x1f\x8bnothing")
    words = ("predict", tiny_bundle(tmp_path / "bundle"), tmp_path / "scans", "-o", tmp_path / "out")
    assert "--also: format 'xls'; expected parquet or xlsx" in command(*words, "--also", "xls").err
    assert command(*words, "--also", "parquet", "--also", "xlsx").code == 1
    assert {path.name for path in (tmp_path / "out").glob("predictions.*")} == {
        *("predictions.csv", "predictions.origins.jsonl", "predictions.parquet", "predictions.xlsx")
    }
    assert "2 scans, 1 predicted" in text_of(tmp_path / "out/summary.html")


def test_a_further_table_that_is_there_is_never_older_than_its_own(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for n_rows in (1, 2):
        with PredictionTable(tmp_path / "predictions.csv", Labels(("a", "b"))) as table:
            table.append(Prediction(f"{n_rows}.nii", status="failed"))
            table.finish()
        write_beside(table.path, ["parquet"] if n_rows == 1 else [])
        assert parquet.read_table(tmp_path / "predictions.parquet").num_rows == n_rows


def test_the_most_novel_and_the_surest_of_a_rare_class_take_turns():
    def row(name, p, novelty, status="ok"):
        answer = {"predicted": "a" if p < 0.5 else "b", "probabilities": {"a": 1 - p, "b": p}, "novelty": novelty}
        return Prediction(name, **answer) if status == "ok" else Prediction(name, status=status)

    rows = [row("1", 0.1, 0.9), row("2", 0.9, 0.1), row("3", 0.2, 0.3), row("4", 0.4, 0.95), row("5", 0, 0, "failed")]
    chosen = [(scan.row.scan, scan.why, scan.class_name) for scan in most_suspicious(rows, 3)]
    assert chosen == [("4", "novel", ""), ("2", "likely", "b"), ("1", "novel", "")]
    assert len(most_suspicious(rows, 9)) == 4
    assert most_suspicious([rows[-1]], 9) == []
    assert [one.row.scan for one in most_suspicious([*rows[:2], row("6", 0.7, None)], 9)] == ["1", "2", "6"]


def test_the_sheet_shows_scans_maps_those_asked_for_and_makes_nothing_twice(command, tmp_path, monkeypatch):
    bundle, out = tiny_bundle(tmp_path / "bundle"), tmp_path / "out"
    for number in range(3):
        write_scan(tmp_path / f"scans/{number}.nii.gz", number)
    words = ("predict", bundle, tmp_path / "scans", "-o", out, "--pictures", 2, "--language", "zh-TW")
    assert command(*words, "--explain", 1).code == 0
    page = text_of(out / "summary.html")
    assert page.count("data:image/jpeg;base64,/9j/") == 2
    assert "共 3 次掃描，3 次有預測結果" in page
    (row,) = read_rows(out / "maps/explanations.csv")
    assert {path.name for path in (out / "maps" / row["folder"]).iterdir()} == {
        *("map.nii.gz", "picture.png", "explanation.json")
    }
    assert row["scan"] in page
    assert f"maps/{row['folder']}" in page
    made = (out / "maps" / row["folder"] / "explanation.json").stat().st_mtime_ns
    predictor, read = load_bundle(bundle, "cpu"), []
    outcome = predictor.predict_folder(tmp_path / "scans", out)
    sheet = ContactSheet(predictor, 3, 1)
    assert [one.problem for one in sheet.of(outcome)] == ["", "", ""]
    monkeypatch.setattr(ScanToPredict, "read", lambda self, _: read.append(self.case.scan))
    assert [bool(one.picture) for one in sheet.of(outcome)] == [True, True, True]
    assert read == []
    assert (out / "maps" / row["folder"] / "explanation.json").stat().st_mtime_ns == made
    monkeypatch.undo()
    outcome.items[0].case.path.unlink()
    gone = {one.scan.row.scan: one.problem for one in ContactSheet(predictor, 3).of(outcome)}
    assert gone["0.nii.gz"]
    assert gone["1.nii.gz"] == ""


def test_why_there_is_no_prediction_is_said_in_chinese_also_of_rows_that_were_there(command, tmp_path):
    """The table keeps the English words; a resumed run and merged shards have the reasons from files."""
    write_scan(tmp_path / "scans/a.nii.gz")
    (tmp_path / "scans/cut.nii.gz").write_bytes((tmp_path / "scans/a.nii.gz").read_bytes()[:2000])
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 9), 7, np.int16), np.eye(4)), tmp_path / "scans/flat.nii")
    words = ("predict", tiny_bundle(tmp_path / "bundle"), tmp_path / "scans", "--language", "zh-TW", "-o")
    for shard in ("1/2", "2/2"):
        command(*words, tmp_path / "parts", "--shard", shard)
    command("merge", *(tmp_path / "parts").iterdir(), "--language", "zh-TW", "-o", tmp_path / "merged")
    for out in (tmp_path / "out", tmp_path / "out", tmp_path / "merged"):
        assert out.name == "merged" or command(*words, out).code == 1
        page = text_of(out / "summary.html")
        assert "<td>失敗</td><td>1</td><td>每個體素都是 7；應為：一張影像。</td><td>flat.nii</td>" in page
        assert "<td>NIfTI 檔案被截斷或已損毀（" in page
        assert ENGLISH_SENTENCE.search(re.sub("<style>.*?</style>|<[^>]*>", "", page)) is None
        reasons = {row["scan"]: row["reason"] for row in read_rows(out / "predictions.csv")}
        assert reasons["flat.nii"] == "flat.nii: every voxel is 7; expected an image."
