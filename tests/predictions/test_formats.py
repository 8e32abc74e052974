"""The table as Parquet and as an Excel sheet."""

import os
import zipfile

import pytest

from med_transfer.errors import OutputError
from med_transfer.predictions import formats
from med_transfer.predictions.formats import write_table_as
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

ROWS = [
    Prediction(
        "=1+1.nii", "'7", reason="a\x07b\ufffe\uffff", probabilities={"a": 0.1, "b": 0.9}, predicted="b", novelty=0.5
    ),
    Prediction("bad\udcff.nii", status="failed", reason="empty", abstained=True),
]


@pytest.fixture
def table(tmp_path):
    with PredictionTable(tmp_path / "predictions.csv", Labels(("a", "b"))) as growing:
        for row in ROWS:
            growing.append(row)
        growing.finish()
    return growing.path


def test_parquet_holds_numbers_as_numbers(table):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(write_table_as("parquet", table)).to_pylist()
    assert [row["scan"] for row in rows] == ["=1+1.nii", "bad\\udcff.nii"]
    assert (rows[0]["p_b"], rows[0]["novelty"], rows[0]["abstained"]) == (0.9, 0.5, False)
    assert (rows[1]["p_b"], rows[1]["novelty"], rows[1]["abstained"]) == (None, None, True)


def test_a_sheet_runs_no_formula_and_holds_no_control_character(table):
    openpyxl = pytest.importorskip("openpyxl")
    header, first, second = openpyxl.load_workbook(write_table_as("xlsx", table)).active.iter_rows()
    cells = {name.value: cell for name, cell in zip(header, first, strict=True)}
    assert (cells["scan"].value, cells["scan"].data_type) == ("=1+1.nii", "s")
    assert cells["reason"].value == "a\\x07b\\ufffe\\uffff"
    assert (cells["p_b"].value, cells["patient"].value) == (0.9, "'7")
    assert second[0].value == "bad\\udcff.nii"


def test_a_name_that_excel_would_decode_is_escaped(tmp_path):
    """In the strings of a sheet, ``_x1024_`` stands for the character U+1024 (ECMA-376 part 1, 22.9.2.19)."""
    pytest.importorskip("openpyxl")
    with PredictionTable(tmp_path / "predictions.csv", Labels(("a", "b"))) as growing:
        growing.append(Prediction("tile_x1024_y0512_x.nii", patient="_x007_", predicted="a"))
        growing.finish()
    with zipfile.ZipFile(write_table_as("xlsx", growing.path)) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert "<t>tile_x005F_x1024_y0512_x.nii</t>" in sheet
    assert "<t>_x007_</t>" in sheet


def test_a_table_without_rows_keeps_its_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with PredictionTable(tmp_path / "predictions.csv", Labels(("a", "b"))) as growing:
        growing.finish()
    assert parquet.read_table(write_table_as("parquet", growing.path)).num_rows == 0


def test_more_rows_than_a_sheet_takes_are_refused(table, monkeypatch):
    pytest.importorskip("openpyxl")
    monkeypatch.setattr(formats, "_MAX_ROWS", 2)
    write_table_as("xlsx", table)
    monkeypatch.setattr(formats, "_MAX_ROWS", 1)
    with pytest.raises(OutputError, match=r"/predictions\.xlsx: 2 rows; expected at most 1, as Excel takes them"):
        write_table_as("xlsx", table)


@pytest.mark.parametrize(("reason", "longer"), [("x" * 32_768, "32,768"), ("_x0041_" * 4000, "52,000")])
def test_a_text_longer_than_a_cell_takes_is_refused_and_not_cut(tmp_path, reason, longer):
    openpyxl = pytest.importorskip("openpyxl")
    path = tmp_path / "predictions.csv"
    for text in ("x" * 32_767, reason):
        path.unlink(missing_ok=True)
        with PredictionTable(path, Labels(("a", "b"))) as growing:
            growing.append(Prediction(scan="1.nii.gz", patient="", status="failed", reason=text))
            growing.finish()
        if text != reason:
            sheet = openpyxl.load_workbook(write_table_as("xlsx", path)).active
            assert sheet.cell(2, 6).value == text
    found = rf"/predictions\.xlsx: {longer} characters in the column reason of row 2; expected at most 32,767, as Excel"
    with pytest.raises(OutputError, match=found):
        write_table_as("xlsx", path)
    assert PredictionTable.load(write_table_as("parquet", path).with_suffix(".csv"))[0].reason == reason


def test_control_characters_are_escaped_in_a_sheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    reason = "".join(map(chr, (*range(1, 9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF))) + "\x00"
    with PredictionTable(tmp_path / "predictions.csv", Labels(("a", "b"))) as growing:
        growing.append(Prediction(scan="1\x0b.nii.gz", patient="", status="failed", reason=f"a{reason}b"))
        growing.finish()
    sheet = openpyxl.load_workbook(write_table_as("xlsx", growing.path)).active
    assert sheet.cell(2, 1).value == r"1\x0b.nii.gz"
    assert sheet.cell(2, 6).value.startswith(r"a\x01\x02")


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("xlsx", "openpyxl")])
def test_a_folder_s_name_need_not_be_utf8(kind, package, table):
    pytest.importorskip(package)
    folder = table.parent / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    out = write_table_as(kind, table.rename(folder / table.name))
    assert out.stat().st_size > 1000
