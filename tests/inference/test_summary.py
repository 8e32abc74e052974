"""summary.html: counts, reasons that are alike together, the strangest scans first; from the commands."""

import re
from pathlib import Path

from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference.summary import write_summary
from med_transfer.predictions.record import Prediction

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
