import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from med_transfer.atomic.csv_table import csv_cell, csv_line, write_csv

HARMFUL = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r\n=1+1", "＝1+1", "'=1", "''=1", '=HYPERLINK("x")')
HARMLESS = ("-1.5", "+3", "1e-5", "-", "+", "a=b", "", "' quoted'", "'", "-inf", "ground-glass", "\xa0")


@pytest.mark.parametrize("cell", HARMFUL)
def test_a_cell_that_a_spreadsheet_would_run_is_written_as_text_and_read_back(cell, tmp_path):
    write_csv(tmp_path / "a.csv", ("=head", "b"), [{"=head": cell, "b": cell}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert head == ["'=head", "b"]
    assert row == [f"'{cell}"] * 2
    assert [csv_cell(text) for text in row] == [cell] * 2


@pytest.mark.parametrize("cell", HARMLESS)
def test_other_cells_stand_as_they_are(cell, tmp_path):
    write_csv(tmp_path / "a.csv", ("a", "b", "c"), [{"a": cell, "b": -1.5}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [cell, "-1.5", ""]
    assert csv_cell(cell) == cell


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_every_text_is_read_as_it_was_written(text):
    (read,) = csv.reader(io.StringIO(csv_line([text, "x"]), newline=""))
    assert [csv_cell(cell) for cell in read] == [text, "x"]


def test_a_name_that_is_not_utf8_is_written(tmp_path):
    write_csv(tmp_path / "a.csv", ("scan",), [{"scan": os.fsdecode(b"caf\xe9.nii")}])
    assert (tmp_path / "a.csv").read_bytes() == b"scan\ncaf\xe9.nii\n"
